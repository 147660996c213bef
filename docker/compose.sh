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
    [ -z "$(git status --porcelain 2>/dev/null)" ] || commit+=-changed
    # made with BuildKit: stages that the target does not need are left out
    DOCKER_BUILDKIT=1 exec docker build -f "$file" -t "cartlm:$target" --build-arg "COMMIT=$commit" "${stage[@]}" "$@" .
}

# Folders that are DVC remotes, as options: the container sees each where its own DVC looks for it.
remotes() {
    local url
    sed -nE 's/^[[:space:]]*url[[:space:]]*=[[:space:]]*//p' .dvc/config .dvc/config.local 2>/dev/null | sort -u | while read -r url; do
        case "$url" in
            *://*) continue ;;
            /*) ;;
            *) url="/repo/.dvc/$url" ;; # DVC writes a relative one down from .dvc
        esac
        local here="${url/#\/repo\//$PWD/}"
        here="$(realpath -m "$here")" url="$(realpath -ms "$url")" # -s: inside, no link of the host leads there
        [ ! -d "$here" ] || [ "${here#"$PWD"/}" != "$here" ] || printf -- '-v\n%s:%s\n' "$here" "$url"
    done
}

run() {
    local service="${1:-}" files=(-f docker/compose.yaml) compose
    case "$service" in
        repro-cpu | bench-cpu | repro-gpu | bench-gpu | test) shift ;;
        *) die "there is no service '$service'; TARGET is cpu or gpu: make repro TARGET=cpu" ;;
    esac
    [[ "${MEMORY:-0}" =~ ^[0-9]+[bkmgBKMG]?$ ]] || die "MEMORY is '$MEMORY'; write MEMORY=16g"
    [[ "${CPUS:-0}" =~ ^[0-9]+([.][0-9]+)?$ ]] || die "CPUS is '$CPUS'; write CPUS=2, or CPUS=1.5"
    [[ "${CPUSET:-0}" =~ ^[0-9]+([-,][0-9]+)*$ ]] || die "CPUSET is '$CPUSET'; write CPUSET=2-5, or CPUSET=0,2"
    local cpu=0
    for cpu in $(tr ',-' '  ' <<<"${CPUSET:-0}"); do
        [ "$cpu" -lt "$(nproc --all)" ] || break
    done
    [ "$cpu" -lt "$(nproc --all)" ] || die "CPUSET is '$CPUSET', and this machine has CPUs 0 to $(($(nproc --all) - 1)); see lscpu"
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
    [ -d .git ] || die "$PWD/.git is no folder: a container would not find the history of a worktree; git clone it"
    [ -w .dvc ] || die "no permission to write $PWD/.dvc; ls -ld .dvc"
    # In a rootless engine the caller is root inside.
    local uid gid
    uid="$(id -u)" gid="$(id -g)"
    ! docker info --format '{{.SecurityOptions}}' 2>/dev/null | grep -q rootless || uid=0 gid=0
    export CARTLM_UID="${CARTLM_UID:-$uid}" CARTLM_GID="${CARTLM_GID:-$gid}"
    export CARTLM_CPUSET="${CPUSET:-}" CARTLM_CPUS="${CPUS:-0}" CARTLM_MEMORY="${MEMORY:-0}"
    export CARTLM_NETWORK="${NETWORK:-bridge}" CARTLM_CACHE_VOLUME="${CACHE_VOLUME:-dvc-cache}"
    mkdir -p .dvc/cache # else the daemon makes it, as root
    local options=() terminal=()
    mapfile -t options < <(remotes)
    [ -t 0 ] && [ -t 1 ] || terminal=(-T)
    # Volumes belong to who filled them: each user has a project of their own.
    local project="${COMPOSE_PROJECT_NAME:-cartlm-$CARTLM_UID}"
    exec "${compose[@]}" -p "$project" "${files[@]}" run --rm "${terminal[@]}" "${options[@]}" "$service" "$@"
}

case "${1:-}" in
    image | run) "$@" ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
