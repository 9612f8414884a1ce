#!/bin/sh
# Ray in containers: `ray.sh head` (the cluster's memory, and Serve's), `ray.sh worker` (replicas), `ray.sh gateway` (the
# gateway, and beside it the node through which it asks the cluster; no replica runs there). When the head dies the nodes
# end and begin again; the new head knows nothing, so it deploys again.
set -eu
config=/etc/stockade/stockade.yaml

start() { # OPTION ...
  exec ray start --block --disable-usage-stats --metrics-export-port=8080 --object-store-memory=134217728 "$@"
}

case $1 in
head)
  rm -f /tmp/deployed
  start --head --port=6379 --num-cpus=0 --include-dashboard=false &
  node=$!
  trap 'kill "$node"' TERM INT
  # Replicas need a worker's processors: until one is there this waits, and it is tried until it is done.
  until stockade ray deploy "$config" --timeout 120 --prune; do
    kill -0 "$node" || exit 1
    sleep 2
  done
  touch /tmp/deployed
  wait "$node"
  ;;
worker)
  start --address=ray-head:6379 --num-cpus="${RAY_CPUS:-1}"
  ;;
gateway)
  while :; do
    (start --address=ray-head:6379 --num-cpus=0) || sleep 2
  done >/dev/null 2>&1 &
  exec stockade serve "$config"
  ;;
esac
