#!/usr/bin/env bash
# pins.sh LOCK...: every pinned version, each once, and llama-cpp-python, which stands in a comment since
# docker/llama_cpp.sh installs it.
set -euo pipefail
sed -nE 's/^(# )?([a-z0-9-]+==[^ ]+).*/\2/p' "$@" | sort -u
