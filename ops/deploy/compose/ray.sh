#!/bin/sh
# Ray in containers: `ray.sh head` (the cluster's memory, and Serve's), `ray.sh worker` (replicas), `ray.sh node` (through
# which a gateway asks the cluster; no replica runs there), `ray.sh gateway` (the gateway itself). When the head dies the
# nodes end and begin again; the new head knows nothing, so it deploys again.
set -eu
config=/etc/stockade/stockade.yaml
mark=/tmp/ray/gateway # which network the gateway has, and since when

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

has_network() { grep -qv ^Iface /proc/net/route; }

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
node)
  # Another user than the gateway, of the same group: the sockets are for both.
  umask 007
  # Of a session that the gateway met first, with nobody there yet, it alone may remove what is in it: out of the way.
  rm -rf /tmp/ray/session_* /tmp/ray/left.* 2>/dev/null || true
  for left in /tmp/ray/session_*; do
    [ ! -d "$left" ] || mv -T "$left" "$(mktemp -du /tmp/ray/left.XXXXXX)"
  done
  (start --address=ray-head:6379 --num-cpus=0) &
  node=$!
  trap 'kill "$node"; exit 143' TERM INT
  # The network is the gateway's, and a gateway that begins again has another. To be in that one this container has to
  # begin again too, and the engine tries that only once: so not before the gateway has stood for a while.
  here=$(readlink /proc/self/ns/net) seen='' stood_s=0
  while [ $stood_s -lt 5 ]; do
    sleep 1
    if has_network && ! kill -0 "$node" 2>/dev/null; then exit 1; fi
    now=$(cat $mark 2>/dev/null) || continue
    if [ "$now" != "$seen" ] || [ "${now%% *}" = "$here" ]; then
      seen=$now stood_s=0
    else
      stood_s=$((stood_s + 1))
    fi
  done
  echo "ray.sh: the gateway has another network; following it" >&2
  exit 1
  ;;
gateway)
  find /tmp/ray -mindepth 2 -user "$(id -u)" -delete 2>/dev/null || true
  # Written beside and moved: what the node's user may have put in its place is not followed.
  new=$(mktemp /tmp/ray/gateway.XXXXXX)
  echo "$(readlink /proc/self/ns/net) $(date +%s.%N)" >"$new"
  chmod 0644 "$new"
  mv -fT "$new" $mark
  exec stockade serve "$config"
  ;;
esac
