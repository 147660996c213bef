#!/usr/bin/env bash
# The host's virtual environment from a lock: docker/venv.sh PYTHON VENV LOCK. Called by make.
set -euo pipefail
python="$1" venv="$2" lock="$3"
PATH="${PATH//"$PWD/$venv/bin:"/}" # make puts it first; the python that makes it stands outside

die() {
    echo "set-up: $*" >&2
    exit 2
}

command -v "$python" >/dev/null || die "$python is missing; install it: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$python is $("$python" -V 2>&1); cartlm needs 3.11 or newer: make PYTHON=python3.11 setup"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$python cannot make virtual environments; install that: apt-get install python3-venv"

# An environment that was moved, or made by a python which is gone, does not start: make it anew.
if ! "$venv/bin/python" -m pip -V >/dev/null 2>&1 || ! head -n 2 "$venv/bin/pip" | grep -qF "$PWD/$venv/bin/python"; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "set-up: installing the packages of $lock into $venv, some minutes"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check -r "$lock" ||
    die "pip could not install $lock; is a package index reachable? try: $venv/bin/pip install -r $lock"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable . ||
    die "pip could not install cartlm itself; try: $venv/bin/pip install --no-deps --no-build-isolation --editable ."
