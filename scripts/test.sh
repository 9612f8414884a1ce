#!/usr/bin/env bash
# Runs all tests in the virtual environment of `make setup`: in three processes, each file in one of them; they often
# wait.
# Arguments are pytest's. With COVERAGE=1 it measures coverage, which takes half as long again; what arguments choose is
# then added to the coverage of the run before.
# System packages the tests need are installed where we may; tests that miss one say which.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
export PATH="$PWD/$bin:$PATH"

packages=(dataset-fashion-mnist prometheus strace nghttp2-client redis-server haproxy kustomize)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})) && command -v apt-get >/dev/null && [[ $EUID -eq 0 ]]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
elif ((${#missing[@]})); then
  echo "not installed, some tests will be skipped: ${missing[*]}" >&2
fi

"$bin/python" tests/e2e/clients.py
scratch=$(mktemp -d /tmp/st.XXXXXX) # a short name: a unix socket's path has 107 characters at most
trap 'rm -rf "$scratch"' EXIT
pytest=("$bin/python" -m pytest --numprocesses 3 --dist loadfile --basetemp "$scratch/t" --durations 15)
if [[ ${COVERAGE:-0} != 1 ]]; then
  "${pytest[@]}" "$@"
  exit
fi
append=(--cov-append)
if (($# == 0)); then
  append=()
  rm -f .coverage .coverage.*
fi
COVERAGE_PROCESS_START=pyproject.toml "${pytest[@]}" --cov "${append[@]}" --cov-report= "$@"
"$bin/python" -m coverage combine --quiet --append 2>/dev/null || true
"$bin/python" -m coverage report --skip-covered --fail-under=90
