#!/usr/bin/env bash
# docker-compose.yml on a real engine: build twice and compare, up, predictions, who reaches and sees what, targets,
# kill -9 of each container, verify the log and its copy in the object store, down.
#
# As root it installs Docker from Debian where it is missing, starts an engine of its own in a temporary directory, and
# removes everything at the end. Where no image registry can be reached, nothing is pulled: base_images.sh makes
# stand-ins of what docker-compose.yml names, and Grafana, which no package holds, is left out.
#
# Exit code 77: it cannot run here (no root, no packages, no engine, no base images), which says nothing about Stockade.
#
# PYTHON: the interpreter with Stockade installed (default: .venv/bin/python). STOCKADE_TEST_WORK: a directory to keep
# unpacked base systems in between runs. The rest of the story is in stack.py.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=tests/e2e/compose
began=$SECONDS
CANNOT_RUN=77
step() { printf '[%3d s] %s\n' "$((SECONDS - began))" "$*" >&2; }
cannot() { step "cannot run here: $*"; exit "$CANNOT_RUN"; }

[[ $EUID -eq 0 ]] || cannot "it needs root, to start an engine"
PYTHON=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
export PYTHON
packages=()
for pair in dockerd=docker.io docker=docker-cli debootstrap=debootstrap containerd=containerd docker-init=tini; do
  command -v "${pair%%=*}" >/dev/null || [[ -x /usr/libexec/docker/${pair%%=*} ]] || packages+=("${pair#*=}")
done
docker compose version >/dev/null 2>&1 || packages+=(docker-compose)
docker buildx version >/dev/null 2>&1 || packages+=(docker-buildx)
if ((${#packages[@]})); then
  command -v apt-get >/dev/null || cannot "not installed: ${packages[*]}"
  step "installing ${packages[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${packages[@]}" >/dev/null || cannot "packages could not be installed"
fi

home=$(mktemp --directory --tmpdir stockade-compose.XXXXXX)
export DOCKER_HOST=unix://$home/docker.sock
export STOCKADE_SITE=$home/site COMPOSE_PROJECT_NAME=stockade-test
export STOCKADE_OBJECTS_MIN_FREE=1GiB # how full this machine's disk is, is not what is tested
bridge_was_there=$(test -e /sys/class/net/docker0 && echo yes || true)
engine=
clean() {
  local code=$?
  set +e
  if [[ -n $engine ]]; then
    ((code == 0 || code == CANNOT_RUN)) || timeout 60 docker compose logs --tail 40 >&2
    timeout 120 docker compose down --volumes --timeout 10 >/dev/null 2>&1
    kill "$engine" 2>/dev/null
    timeout 60 tail --pid="$engine" -f /dev/null || kill -9 "$engine"
  fi
  mount | awk -v home="$home/" 'index($3, home) == 1 {print $3}' | sort -r | while read -r at; do umount "$at"; done
  [[ -n $bridge_was_there ]] || ip link del docker0 2>/dev/null
  rm -rf "$home"
  case $code in
    0) step passed ;;
    "$CANNOT_RUN") ;; # it has said why
    *) step "FAILED with exit code $code" ;;
  esac
  exit "$code"
}
trap clean EXIT
trap 'exit 130' INT TERM

step "starting an engine"
mkdir -p "$home"/{data,exec,site}
dockerd --data-root "$home/data" --exec-root "$home/exec" --pidfile "$home/docker.pid" --host "$DOCKER_HOST" \
  >"$home/dockerd.log" 2>&1 &
engine=$!
for _ in $(seq 300); do
  docker info >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || break
  sleep 0.1
done
docker info >/dev/null 2>&1 || { tail -5 "$home/dockerd.log" >&2; cannot "no engine starts"; }
docker info --format 'engine {{.ServerVersion}}, {{.Driver}}' >&2

step "making stand-ins for base images"
export PYTHON_IMAGE=stockade-test/python
export REDIS_IMAGE=stockade-test/services SEAWEEDFS_IMAGE=stockade-test/services
export PROMETHEUS_IMAGE=stockade-test/services ALERTMANAGER_IMAGE=stockade-test/services
bash $here/base_images.sh "${STOCKADE_TEST_WORK:-$home/work}" python=$PYTHON_IMAGE services=$REDIS_IMAGE ||
  cannot "no base images"
docker run --rm $PYTHON_IMAGE true || cannot "containers do not start"

step "building from the repository"
docker compose build --quiet prepare gateway
docker image ls --format '  {{.Repository}} {{.Size}}, its base included' >&2

step "building again, from nothing, to compare"
for image in stockade stockade-ray; do docker tag $image:0.1.0 stockade-test/$image-first; done
docker compose build --quiet --no-cache prepare gateway
for image in stockade stockade-ray; do "$PYTHON" $here/same_image.py stockade-test/$image-first $image:0.1.0; done

step "the story"
"$PYTHON" -m tests.e2e.compose.stack
