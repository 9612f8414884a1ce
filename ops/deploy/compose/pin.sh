#!/bin/sh
# Pins the images that others publish: writes each of docker-compose.yml with the digest that its registry has for the tag
# now, as lines for `.env`, which `docker compose` reads. Images that are given by their digest already stay as they are.
#
#   ops/deploy/compose/pin.sh > .env.new && mv .env.new .env
#
# Needs docker with buildx, and the registry. Look at what changed before you build or start with it.
set -eu
cd "$(dirname "$0")/../../.."
grep -o '\${[A-Z]*_IMAGE:-[^}]*}' docker-compose.yml | grep -v '^\${STOCKADE' | sort -u | tr -d '${}' |
  while IFS= read -r line; do
    name=${line%%:-*}
    image=$(printenv "$name") || image=${line#*:-} # what the environment names instead is pinned instead
    case $image in
      *@sha256:*) ;;
      *)
        found=$(docker buildx imagetools inspect "$image")
        digest=$(printf '%s\n' "$found" | awk '$1 == "Digest:" {print $2}')
        [ "${digest#sha256:}" != "$digest" ] || { echo "$image: the registry names no digest" >&2; exit 1; }
        image=$image@$digest
        ;;
    esac
    printf '%s=%s\n' "$name" "$image"
  done
