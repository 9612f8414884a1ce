#!/bin/sh
# Ray in containers: `ray.sh head` (the cluster's memory, and Serve's), `ray.sh worker` (replicas), `ray.sh gateway` (the
# gateway, and beside it the node through which it asks the cluster; no replica runs there). When the head dies the nodes
# end and begin again; the new head knows nothing, so it deploys again.
set -eu
config=/etc/stockade/stockade.yaml

start() { # OPTION ...
  # The address on the cluster's network: a container can have others, and Ray would guess. A head that is away is waited
  # for here, until its metrics are there, which come last: Ray itself would try with what is half there, and wait long.
  address=$(python -c "
import socket, sys, time
wanted = sys.argv[1] != '--head'
while True:
    try:
        if wanted:
            socket.create_connection(('ray-head', 8080), 5).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.connect(('ray-head', 6379))
            print(caller.getsockname()[0])
            break
    except OSError:
        time.sleep(1)" "$1")
  exec ray start --block --disable-usage-stats --node-ip-address="$address" --metrics-export-port=8080 \
    --object-store-memory=134217728 "$@"
}

case $1 in
head)
  rm -f /tmp/deployed /tmp/started
  start --head --port=6379 --num-cpus=0 --include-dashboard=false >/tmp/started 2>&1 &
  node=$!
  trap 'kill "$node"' TERM INT
  until grep -q 'Ray runtime started' /tmp/started 2>/dev/null; do
    kill -0 "$node" || { cat /tmp/started; exit 1; }
    sleep 1
  done
  # Replicas need a worker's processors: until one is there this waits, and it is tried until it is done.
  until stockade ray deploy "$config" --timeout 120 --prune; do
    kill -0 "$node" || { cat /tmp/started; exit 1; }
    sleep 5
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
