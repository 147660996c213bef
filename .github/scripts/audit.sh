#!/usr/bin/env bash
# Known vulnerabilities of the packages in docker/*.txt, by pip-audit. Those in .github/audit_ignored.txt are let pass.
# --strict: a package that the service does not know ends it too, else an unreachable service would look like a clean list.
set -euo pipefail
cd "$(dirname "$0")/../.."
pins="$(mktemp)"
trap 'rm -f "$pins"' EXIT
.github/scripts/pins.sh docker/{data,train,cpu,gpu,dev}.txt >"$pins"
ignored=()
while read -r id _; do ignored+=(--ignore-vuln "$id"); done < <(grep -vE '^(#|$)' .github/audit_ignored.txt || true)
pip-audit --strict --disable-pip --no-deps --progress-spinner off "${ignored[@]}" -r "$pins"
