#!/bin/sh
# What must be there before anything starts: keys, certificates, the two files, and each volume with the right owner.
# Runs in a container of its own (`prepare` in docker-compose.yml) at every `docker compose up`, and changes only what
# differs. /site is ops/deploy/site on the host: what it holds is the truth, and is copied to the volumes.
set -eu
umask 077

gateway=10001:10000 recorder=10002:10000 shared=0:10000
redis=10011:10000 objects=10012:10012 prometheus=10013:10013 alertmanager=10014:10014 grafana=472:0
v=/volumes

fail() {
  echo "prepare: $*" >&2
  exit 1
}
random() { od -An -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }
directory() { # OWNER MODE PATH
  mkdir -p "$3" && chown "$1" "$3" && chmod "$2" "$3"
}
place() { # OWNER MODE FROM TO: whole or not at all, and only when it differs
  if ! cmp -s "$3" "$4"; then
    cp "$3" "$4.new" && chown "$1" "$4.new" && chmod "$2" "$4.new" && mv "$4.new" "$4"
  fi
}

# 1. A site, once: stockade.yaml comes last, so that a site without it is one that was never finished.
if [ ! -e /site/stockade.yaml ]; then
  [ ! -e $v/vault/log.key ] || fail "the volumes belong to a site that is not in ops/deploy/site any more; put it back," \
    "or remove the volumes, and the log with them: docker compose down --volumes"
  names=
  for name in ${STOCKADE_HOSTS:-}; do names="$names --host $name"; done
  # shellcheck disable=SC2086  # one option a name
  stockade init /tmp/made --host gateway $names >/dev/null
  origin=$(sed -n 's/^ *origin: *\([^ ]*\).*/\1/p' /tmp/made/stockade.yaml)
  sed "s|@ORIGIN@|$origin|" /deploy/stockade.yaml >/tmp/stockade.yaml
  rm -r /tmp/made/stockade.yaml /tmp/made/log /tmp/made/recorder /tmp/made/state
  mkdir /tmp/made/secrets
  mv /tmp/made/tls/server.key /tmp/made/keys/pepper /tmp/made/keys/payload-master.key /tmp/made/secrets/
  for name in redis.password ray.token grafana.password; do random 24 >/tmp/made/secrets/$name; done
  chmod 0644 /tmp/stockade.yaml
  cp -R /tmp/made/. /site/
  cp -p /tmp/stockade.yaml /site/stockade.yaml.new && mv /site/stockade.yaml.new /site/stockade.yaml
  echo "prepare: made keys and certificates in ops/deploy/site"
fi

# 2. The log's key is the recorder's alone: it moves, and no copy stays.
directory $recorder 0700 $v/vault
if [ -e /site/keys/log.key ]; then
  if [ -e $v/vault/log.key ]; then
    cmp -s /site/keys/log.key $v/vault/log.key || fail "ops/deploy/site/keys/log.key is not the key of the log that is there"
  else
    place $recorder 0400 /site/keys/log.key $v/vault/log.key
    sync
  fi
  rm /site/keys/log.key
fi
[ -e $v/vault/log.key ] || fail "the log's key is gone; without it no log can be gone on with"

# 3. The configuration, which gateway, recorder and Ray read; the gateway's secrets, on a volume that it alone has.
c=$v/config
directory $shared 0750 $c
for name in tls keys bundles secrets; do directory $shared 0750 $c/$name; done
directory $gateway 0700 $v/secrets
for name in server.key pepper payload-master.key redis.password; do
  place $gateway 0400 /site/secrets/$name $v/secrets/$name
done
for name in tls/server.crt tls/ca.crt keys/policy.pub keys/bundles.pub keys/log.vkey policy.yaml.sig policy.yaml \
  stockade.yaml; do
  place $shared 0440 /site/$name $c/$name
done
for model in $c/bundles/*/*/; do # a gateway loads whatever lies here
  [ -d "/site/bundles/${model#"$c"/bundles/}" ] || rm -rf "$model"
done
find $c/bundles -mindepth 1 -maxdepth 1 -type d -empty -delete
for model in /site/bundles/*/*/; do
  [ -d "$model" ] || continue
  to=$c/bundles/${model#/site/bundles/}
  to=${to%/}
  ! diff -rq "$model" "$to" >/dev/null 2>&1 || continue
  mkdir -p "${to%/*}"
  cp -R "$model" "$to.new" && rm -rf "$to" && mv "$to.new" "$to"
done
chown -R $shared $c/bundles && chmod -R u=rwX,g=rX,o= $c/bundles

# 4. Where each keeps what it writes.
directory 0:10000 0755 $v/audit
directory $recorder 0755 $v/audit/log
directory $recorder 0700 $v/audit/recorder
directory $gateway 0700 $v/payload-keys
directory $shared 3770 $v/run
directory $redis 0750 $v/redis-socket
directory $redis 0700 $v/redis
directory $objects 0700 $v/objects
directory $prometheus 0700 $v/prometheus
directory $alertmanager 0700 $v/alertmanager
directory $grafana 0700 $v/grafana

# 5. What the others prove who calls with.
directory $redis 0700 $v/redis-config
hash=$(tr -d '\r\n' <$v/secrets/redis.password | sha256sum | cut -d ' ' -f 1)
# The gateway may run its script, and see nothing but its own keys. Nobody can be the default user, who is off; but Redis
# reads its own file back with that user's rights, and without them it forgets what a script wrote.
printf 'user default off resetpass allkeys allcommands\nuser gateway on #%s resetchannels ~stockade:* -@all +eval +evalsha +script|load +mget +set +time +hello +ping +client|setinfo\n' "$hash" >/tmp/users.acl
place $redis 0400 /tmp/users.acl $v/redis-config/users.acl
directory $objects 0700 $v/objects-config
if [ ! -e $v/objects-config/s3.json ] || [ ! -e $v/secrets/objects.json ]; then
  # One who makes the bucket, and one who writes the log there: bucket.py says what the latter may not.
  key=$(random 10) secret=$(random 24)
  printf '{"access_key_id": "%s", "secret_access_key": "%s"}\n' "$key" "$secret" >/tmp/objects.json
  cat >/tmp/s3.json <<END
{"identities": [
  {"name": "stockade", "credentials": [{"accessKey": "$(random 10)", "secretKey": "$(random 24)"}],
   "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
  {"name": "log", "credentials": [{"accessKey": "$key", "secretKey": "$secret"}],
   "actions": ["Read:stockade-log", "Write:stockade-log", "List:stockade-log"]}
]}
END
  place $objects 0400 /tmp/s3.json $v/objects-config/s3.json
  place $gateway 0400 /tmp/objects.json $v/secrets/objects.json
fi
if [ ! -e $v/objects-config/security.toml ]; then
  python /deploy/closed_port.py /tmp/closed
  for name in s3-grpc.key s3-grpc.crt security.toml; do place $objects 0400 /tmp/closed/$name $v/objects-config/$name; done
fi
directory $grafana 0700 $v/grafana-config
place $grafana 0400 /site/secrets/grafana.password $v/grafana-config/admin.password
directory $alertmanager 0700 $v/alertmanager-config
for name in page_url ticket_url; do
  [ ! -e /site/secrets/$name ] || place $alertmanager 0400 /site/secrets/$name $v/alertmanager-config/$name
done
directory $shared 0750 $v/ray-config
place $shared 0440 /site/secrets/ray.token $v/ray-config/token

# 6. On the host, everything belongs to whom the directory belongs to.
find /site -mindepth 1 ! -name .gitignore -exec chown "$(stat -c %u:%g /site)" {} +
