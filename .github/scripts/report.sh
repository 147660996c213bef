#!/usr/bin/env bash
# report.sh BASE HEAD FOLDER: what HEAD changed since it left BASE, by `cartlm compare --comment`: FOLDER/comment/comment.md,
# and `dvc plots diff` as a page in FOLDER/plots. Needs git and the packages of docker/data.txt, no models.
# Exit code as of cartlm compare: 1 if something became worse or is gone (the report is whole), 2 for a mistake.
set -euo pipefail
[ $# = 3 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
base="$1" head="$2" folder="$3"
python="${PYTHON:-.venv/bin/python}"
left="$(git merge-base "$base" "$head")" || { echo "report.sh: $base and $head have no common commit; a shallow clone? git fetch --unshallow" >&2; exit 2; }

mkdir -p "$folder/comment"
code=0
"$python" -m cartlm.cli compare --comment "$left" "$head" >"$folder/comment/comment.md" || code=$?
[ "$code" -le 1 ] || exit "$code"
# A picture that fails takes nothing from the numbers.
"$python" -m dvc plots diff -o "$folder/plots" "$left" "$head" || echo "report.sh: no plots" >&2
exit "$code"
