#!/usr/bin/env bash
# One service of docker/compose.yaml, or an image: called by make, works by hand too.
#
#   docker/compose.sh image cpu|gpu|test [docker build's options]
#   docker/compose.sh run SERVICE [COMMAND ...]
#
# CPUSET, CPUS, MEMORY, NETWORK and CACHE_VOLUME limit and place the run, see docker/compose.yaml.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "compose.sh: $*" >&2
    exit 2
}

command -v docker >/dev/null || die "docker is missing; install it: apt-get install docker.io docker-compose"
docker info >/dev/null 2>&1 || die "no docker daemon answers ${DOCKER_HOST:-}; start it, or see: docker info"

image() {
    local target="${1:-}" file=Dockerfile.cpu stage=()
    shift || true
    case "$target" in
        cpu) ;;
        gpu) file=Dockerfile.gpu ;;
        test) stage=(--target test) ;;
        *) die "TARGET is '$target', not cpu, gpu or test; make image TARGET=cpu" ;;
    esac
    local commit
    commit="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
    [ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit+=-changed
    # made with BuildKit: stages that the target does not need are left out
    DOCKER_BUILDKIT=1 exec docker build -f "$file" -t "cartlm:$target" --build-arg "COMMIT=$commit" "${stage[@]}" "$@" .
}

run() {
    local service="${1:-}" files=(-f docker/compose.yaml) compose
    case "$service" in
        repro-cpu | bench-cpu | repro-gpu | bench-gpu | test) shift ;;
        *) die "there is no service '$service'; TARGET is cpu or gpu: make repro TARGET=cpu" ;;
    esac
    if docker compose version >/dev/null 2>&1; then
        compose=(docker compose)
    elif command -v docker-compose >/dev/null; then
        compose=(docker-compose)
    else
        die "docker compose is missing; install it: apt-get install docker-compose"
    fi
    [ ! -d /sys/devices/virtual/powercap/intel-rapl ] || files+=(-f docker/compose.rapl.yaml)
    local target="${service#*-}"
    local variable="CARTLM_${target^^}_IMAGE"
    local image="${!variable:-cartlm:$target}"
    docker image inspect "$image" >/dev/null 2>&1 || die "there is no image $image; make image TARGET=$target"
    [ ! -d "$PWD/.git" ] || [ -w "$PWD" ] || die "no permission to write $PWD"
    [ -d .git ] || die "$PWD/.git is no folder: a container would not find the history of a worktree; git clone it"
    export CARTLM_UID="${CARTLM_UID:-$(id -u)}" CARTLM_GID="${CARTLM_GID:-$(id -g)}"
    export CARTLM_CPUSET="${CPUSET:-}" CARTLM_CPUS="${CPUS:-0}" CARTLM_MEMORY="${MEMORY:-0}"
    export CARTLM_NETWORK="${NETWORK:-bridge}" CARTLM_CACHE_VOLUME="${CACHE_VOLUME:-dvc-cache}"
    mkdir -p .dvc/cache # else the daemon makes it, as root
    local terminal=()
    [ -t 0 ] && [ -t 1 ] || terminal=(-T)
    exec "${compose[@]}" -p "${COMPOSE_PROJECT_NAME:-cartlm}" "${files[@]}" run --rm "${terminal[@]}" "$service" "$@"
}

case "${1:-}" in
    image | run) "$@" ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
