#!/usr/bin/env bash
# report.sh BASE HEAD FOLDER: what HEAD changed since it left BASE, by `cartlm compare --comment`: FOLDER/comment/comment.md,
# `dvc plots diff` as a page in FOLDER/plots, and of the checkout `cartlm report` in FOLDER/page, its short form in the comment.
# Needs git, the packages of docker/data.txt and jinja2, no models.
# Exit code as of cartlm compare: 1 if something became worse or is gone (the report is whole), 2 for a mistake.
set -euo pipefail
[ $# = 3 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
base="$1" head="$2" folder="$3"
python="${PYTHON:-.venv/bin/python}"
left="$(git merge-base "$base" "$head")" || { echo "report.sh: $base and $head have no common commit; a shallow clone? git fetch --unshallow" >&2; exit 2; }

mkdir -p "$folder/comment"
code=0
"$python" -m cartlm.cli compare --comment "$left" "$head" >"$folder/comment/comment.md" || code=$?
[ "$code" -le 1 ] || exit "$code"
# A picture that fails takes nothing from the numbers.
"$python" -m dvc plots diff -o "$folder/plots" "$left" "$head" || echo "report.sh: no plots" >&2
if "$python" -m cartlm.cli report --output "$folder/page/report.html" && short="$("$python" -m cartlm.cli report --markdown)"; then
    short="$(printf '\n<details><summary>Which file to ship</summary>\n\n%s\n\n</details>' "$short")"
    # comment.py refuses more than 65,000 characters; bytes are at least as many
    if [ $(($(wc -c <"$folder/comment/comment.md") + $(printf '%s\n' "$short" | wc -c))) -le 65000 ]; then
        printf '%s\n' "$short" >>"$folder/comment/comment.md"
    else
        echo "report.sh: no room in the comment for which file to ship: see the page" >&2
    fi
else
    echo "report.sh: no page" >&2
fi
exit "$code"
