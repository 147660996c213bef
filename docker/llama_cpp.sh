#!/usr/bin/env bash
# One pinned llama.cpp for everything: the shared libraries which the Python binding loads, the command line tools
# and the converter, all from the source release of llama-cpp-python, in one cmake build of its vendored tree.
#
#   docker/llama_cpp.sh --venv .venv                            this machine's own instructions (the host's build)
#   docker/llama_cpp.sh --portable --prefix /opt/llama.cpp --venv /opt/venv     any machine's instructions (images)
#
# --portable     every CPU variant as a library of its own, the best one chosen at run time
# --libraries    only what the Python binding loads, no tools
# --prefix DIR   install a copy there (default: it stays in the cache)
# --quiet        say nothing when there is nothing to do
# --where        only print the prefix; fails where nothing is built yet
# --venv DIR     make `import llama_cpp` work in that virtual environment; DIR/llama.cpp then leads to the prefix
#
# A prefix holds lib/ bin/ (unless --libraries) convert/ models/ python/ LICENSE build.json. Builds are kept under
# ${CARTLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cartlm}/llama.cpp; one that is there is not made again, one that
# was interrupted is continued.
#
# A build is put in place when it works on this CPU (cartlm/system/llama_cpp_check.py). A native one that dies is made again as a
# portable one, which loses the variants that die; build.json then says which, under "without", and the "reason".
set -euo pipefail

VERSION=0.3.36
SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
TOOLS=(llama-quantize llama-imatrix llama-bench llama-perplexity llama-server)
RECIPE=2 # raise it when a change below must rebuild what is in people's caches

die() {
    echo "llama_cpp.sh: $*" >&2
    exit 2
}

portable=0 libraries=0 prefix="" venv="" quiet=0 where=0
while [ $# -gt 0 ]; do
    case "$1" in
        --portable) portable=1 ;;
        --libraries) libraries=1 ;;
        --prefix) prefix="${2:-}"; [ -n "$prefix" ] || die "--prefix needs a folder"; shift ;;
        --venv) venv="${2:-}"; [ -n "$venv" ] || die "--venv needs a folder"; shift ;;
        --quiet) quiet=1 ;;
        --where) where=1 ;;
        -h | --help) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown option $1; see $0 --help" ;;
    esac
    shift
done

[ -z "$venv" ] || [ -x "$venv/bin/python" ] || die "no virtual environment at $venv; make one: python3 -m venv $venv"
[ -z "$venv" ] || venv="$(cd "$venv" && pwd)"
if [ -n "$prefix" ]; then
    [ "$where" = 0 ] || [ -d "$prefix" ] || die "there is no $prefix"
    mkdir -p "$prefix" && prefix="$(cd "$prefix" && pwd)"
    # it is replaced as a whole: only a folder that is empty, or made by this script
    [ -z "$(ls -A "$prefix")" ] || grep -qs '"source": "llama-cpp-python"' "$prefix/build.json" ||
        die "--prefix $prefix holds other files; name a folder that is new or empty"
fi
[ -z "$venv" ] || PATH="$venv/bin:$PATH"
check="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/cartlm/system/llama_cpp_check.py"
python="$(command -v python3)" || die "python3 is missing; install it: apt-get install python3 python3-venv"

sha() { "$python" -c 'import hashlib,sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])'; }

flags=(
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON
    -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
    -DLLAMA_ALL_WARNINGS=OFF -DGGML_CCACHE=OFF
    -DLLAMA_BUILD_NUMBER=0 "-DLLAMA_BUILD_COMMIT=llama-cpp-python-$VERSION"
)
[ "$libraries" = 0 ] || TOOLS=()
only=""
[ "$libraries" = 0 ] || only=-libraries
every_variant=(-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON)
if [ "$portable" = 1 ]; then
    kind=portable
    for_this_cpu=("${every_variant[@]}")
    # The prefix is compiled in: a Python process looks for the variants there, not beside the python executable.
    key="$VERSION-portable$only-$(printf '%s\n' "$RECIPE" "$prefix" "${flags[@]}" "${for_this_cpu[@]}" | sha)"
else
    kind=native
    for_this_cpu=(-DGGML_NATIVE=ON)
    cpu="$({ uname -m; grep -m1 -E '^(model name|CPU part)' /proc/cpuinfo; grep -m1 -E '^(flags|Features)' /proc/cpuinfo ||
        sysctl -n machdep.cpu; } 2>/dev/null | sha)" || true
    key="$VERSION-native$only-$(printf '%s\n' "$RECIPE" "${flags[@]}" "${for_this_cpu[@]}" | sha)-$cpu"
fi

cache="${CARTLM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cartlm}/llama.cpp"
done="$cache/$key"
work="$cache/$key.building"
target="${prefix:-$done}"

if [ "$where" = 1 ]; then
    [ -e "$target/build.json" ] || die "no $kind build yet; make it: docker/llama_cpp.sh$([ "$kind" = native ] || echo " --$kind")${only:+ --libraries}"
    echo "$target"
    exit 0
fi

# GCC before 11.5, 12.4 and 13.3 takes 8 of the 64 bytes of AMX's tile configuration for all that _tile_loadconfig
# reads, and drops the rest as dead stores: each quantized product then faults (llama.cpp issue 20824).
drops_tile_configuration() {
    [ "$("${CXX:-c++}" -E -P -x c++ - <<'CC' | tr -d '[:space:]'
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    (__GNUC__ < 11 || (__GNUC__ == 11 && __GNUC_MINOR__ < 5) || (__GNUC__ == 12 && __GNUC_MINOR__ < 4) || \
     (__GNUC__ == 13 && __GNUC_MINOR__ < 3))
yes
#endif
CC
    )" = yes ]
}

mend() { # a barrier before the load: it costs nothing, and reaches every variant
    "$python" - "$1" <<'PY' || die "$1 is not as expected: _tile_loadconfig(&tc) is not there once, and $("${CXX:-c++}" --version | head -n 1) needs a mend at it; use another compiler: CXX=clang++"
import sys
path = sys.argv[1]
with open(path, encoding="utf-8") as file:
    text = file.read()
call = "    _tile_loadconfig(&tc);\n"
if text.count(call) != 1:
    sys.exit(1)
with open(path, "w", encoding="utf-8") as file:
    file.write(text.replace(call, '    __asm__ volatile("" : : "r"(&tc) : "memory");\n' + call))
PY
}

without="" reason="" variants="" # of a build that had to be made again

# Whether the build in $1 works on this CPU. What dies is left out of a portable build here; of a native one this sets
# what the next build is made of.
works() {
    local now code=0
    now="$("$python" -I "$check" --settle "$1")" || code=$?
    case "$code" in
        0) return 0 ;;
        3) ;;
        4) rm -rf "$work"; exit 2 ;; # another compiler begins anew
        *) exit 2 ;;
    esac
    echo "llama_cpp.sh: $now: building again with every CPU variant, of which those that die are left out" >&2
    # its variants are looked for in the cache: other prefixes share this build
    kind=portable portable=1 without=native reason="$now" variants="$done/lib"
    for_this_cpu=("${every_variant[@]}")
    return 1
}

build() {
    command -v cmake >/dev/null || die "cmake is missing; install it: pip install cmake (or apt-get install cmake)"
    command -v "${CXX:-c++}" >/dev/null || die "no C++ compiler (${CXX:-c++}); install one: apt-get install g++"
    command -v "${CC:-cc}" >/dev/null || die "no C compiler (${CC:-cc}); install one: apt-get install gcc"
    local generator
    if command -v ninja >/dev/null; then
        generator=Ninja
    elif command -v make >/dev/null; then
        generator="Unix Makefiles"
    else
        die "neither ninja nor make is there; install one: pip install ninja (or apt-get install ninja-build)"
    fi

    local sdist="$cache/llama_cpp_python-$VERSION.tar.gz"
    if [ ! -e "$sdist" ]; then
        echo "llama_cpp.sh: fetching llama-cpp-python $VERSION"
        rm -rf "$cache/download.$$"
        "$python" -m pip download -qq --no-deps --no-binary llama-cpp-python --dest "$cache/download.$$" \
            "llama-cpp-python==$VERSION" || die "could not fetch llama-cpp-python $VERSION with pip; is a package index reachable?"
        mv "$cache/download.$$/llama_cpp_python-$VERSION.tar.gz" "$sdist"
        rm -rf "$cache/download.$$"
    fi
    echo "$SHA256  $sdist" | sha256sum --check --status ||
        { mv "$sdist" "$sdist.bad"; die "$sdist is not the pinned release (kept as .bad); run it again to fetch a fresh one"; }

    local top="$work/llama_cpp_python-$VERSION"
    if [ ! -e "$work/unpacked" ]; then
        rm -rf "$work" && mkdir -p "$work"
        tar -xzf "$sdist" -C "$work"
        : >"$work/mended"
        if drops_tile_configuration; then
            mend "$top/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
            echo "AMX tile configuration" >"$work/mended"
        fi
        touch "$work/unpacked"
    fi
    local src="$top/vendor/llama.cpp"

    local started=$SECONDS out="$work/prefix"
    echo "llama_cpp.sh: building llama.cpp ($kind) with $(nproc) jobs, some minutes; log: $work/log"
    while :; do
        compile
        assemble
        ! works "$out" || break
    done
    rm -rf "$done" # one that died on this CPU
    mv "$out" "$done"
    rm -rf "$work"
    echo "llama_cpp.sh: built in $((SECONDS - started)) s"
}

compile() {
    local more=(-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN;\$ORIGIN/../lib")
    [ "$portable" = 0 ] || more+=("-DGGML_BACKEND_DIR=${variants:-$target/lib}")
    {
        cmake -S "$src" -B "$work/build-$kind" -G "$generator" "${flags[@]}" "${for_this_cpu[@]}" "${more[@]}" &&
            cmake --build "$work/build-$kind" --parallel "$(nproc)" --target ggml llama "${TOOLS[@]+"${TOOLS[@]}"}"
    } >>"$work/log" 2>&1 || { tail -n 25 "$work/log" >&2; die "the build failed; the whole log: $work/log"; }
}

assemble() {
    rm -rf "$out" && mkdir -p "$out"/{lib,bin,convert,models,python}
    find "$work/build-$kind/bin" -maxdepth 1 \( -name 'lib*.so*' -o -name 'lib*.dylib' \) -exec cp -P {} "$out/lib/" \;
    for tool in "${TOOLS[@]+"${TOOLS[@]}"}"; do cp "$work/build-$kind/bin/$tool" "$out/bin/"; done
    cp -r "$src"/{convert_hf_to_gguf.py,conversion,gguf-py} "$out/convert/"
    cp "$src/models/ggml-vocab-llama-bpe.gguf" "$out/models/"
    cp "$src/LICENSE" "$out/LICENSE"
    cp -r "$top/llama_cpp" "$out/python/llama_cpp"
    rm -rf "$out/python/llama_cpp/lib"
    cp "$top/PKG-INFO" "$out/python/METADATA"
    cp "$top/LICENSE.md" "$out/python/LICENSE.md"
    "$python" - "$out/build.json" "$VERSION" "$kind" "${TOOLS[*]-}" "$("${CXX:-c++}" --version | head -n 1)" "$((SECONDS - started))" \
        "$(cat "$work/mended")" "$without" "$reason" "${flags[@]}" "${for_this_cpu[@]}" <<'PY'
import json, sys
path, version, kind, tools, compiler, seconds, mended, without, reason, *flags = sys.argv[1:]
keep = [flag.removeprefix("-D") for flag in flags]
build = {"source": "llama-cpp-python", "version": version, "kind": kind, "tools": tools.split(), "compiler": compiler, "flags": keep,
         "build_seconds": int(seconds), "mended": mended.strip(), "without": without.split(), "reason": reason}
with open(path, "w") as file:
    json.dump(build, file, indent=2)
    file.write("\n")
PY
}

mkdir -p "$cache" 2>/dev/null || die "cannot write $cache; choose another folder: CARTLM_CACHE=/some/folder $0"
# A build that came from elsewhere, or from before the CPU was another one, is looked at once; a copy by `cartlm doctor`.
if [ ! -e "$done/build.json" ] || { [ -z "$prefix" ] && ! "$python" -I "$check" --proven "$done"; }; then
    exec 9>"$cache/$key.lock"
    ! command -v flock >/dev/null || flock 9
    if [ ! -e "$done/build.json" ] || ! works "$done"; then
        build
        quiet=0
    fi
    exec 9>&-
fi

if [ -n "$prefix" ] && ! cmp -s "$done/build.json" "$prefix/build.json"; then
    quiet=0
    rm -rf "$prefix.partial" && cp -R "$done" "$prefix.partial" && rm -rf "$prefix" && mv "$prefix.partial" "$prefix"
fi

linked() { # the binding in the virtual environment is this version, with this build's libraries
    local info=("$venv"/lib/python3*/site-packages/"llama_cpp_python-$VERSION.dist-info/RECORD")
    [ -e "${info[0]}" ] && [ "$(readlink "$venv/llama.cpp")" = "$target" ] &&
        [ "$(readlink "${info[0]%/*/RECORD}/llama_cpp/lib")" = "$target/lib" ]
}

if [ -n "$venv" ] && linked && [ "$quiet" = 1 ]; then
    exit 0
elif [ -n "$venv" ]; then
    "$venv/bin/python" - "$target" "$VERSION" "$venv/llama.cpp" <<'PY'
# What `pip install llama-cpp-python` would leave behind, with the libraries of the one build instead of a second one.
import os, shutil, sys, sysconfig
from pathlib import Path

prefix, version, link = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
site = Path(sysconfig.get_path("purelib"))
for old in [*site.glob("llama_cpp_python-*.dist-info"), site / "llama_cpp"]:
    shutil.rmtree(old, ignore_errors=True)
shutil.copytree(prefix / "python" / "llama_cpp", site / "llama_cpp")
(site / "llama_cpp" / "lib").symlink_to(prefix / "lib")
info = site / f"llama_cpp_python-{version}.dist-info"
info.mkdir()
shutil.copy(prefix / "python" / "METADATA", info / "METADATA")
shutil.copy(prefix / "python" / "LICENSE.md", info / "LICENSE.md")
(info / "INSTALLER").write_text("llama_cpp.sh\n")
(info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: llama_cpp.sh\nRoot-Is-Purelib: false\nTag: py3-none-any\n")
files = sorted(p for top in (site / "llama_cpp", info) for p in top.rglob("*") if p.is_file() or p.is_symlink())
lines = [f"{p.relative_to(site)},," for p in files] + [f"{info.name}/RECORD,,"]
(info / "RECORD").write_text("\n".join(lines) + "\n")
new = link.with_name(link.name + ".new")
new.unlink(missing_ok=True)
new.symlink_to(prefix)
os.replace(new, link)
PY
fi
[ -z "$venv" ] || quiet=0
[ "$quiet" = 1 ] || echo "llama_cpp.sh: llama.cpp of llama-cpp-python $VERSION ($kind) is in $target"
