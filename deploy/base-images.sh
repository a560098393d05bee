#!/usr/bin/env bash
# Get the public base images that the stack uses; where no image registry is
# reached, build local stand-ins for them.
#
#   base-images.sh            install and start the engine if needed, get all
#   base-images.sh --check    exit 0 if every stand-in is already there
#
# Every stand-in is a Debian "trixie" root made by debootstrap, tagged with the
# public image's own name so that Dockerfile and dev-stack.yml stay as a user
# has them. What differs from the public image is only what is listed here:
#   python:3.13-slim              Debian's CPython 3.13 (python, pip on PATH)
#   redis:8                       Debian's redis-server
#   haproxy:3.0                   Debian's haproxy
#   prom/prometheus:v3            Debian's prometheus (2.x)
#   amazon/dynamodb-local:3.3.1   the moto server on port 8000 (DynamoDB API)
#   softwaremill/elasticmq-native:1.7.1  the moto server on port 9324 (SQS API)
# grafana/grafana has no stand-in: leave that service out where none is reached.
set -euo pipefail

IMAGES=(python:3.13-slim redis:8 haproxy:3.0 prom/prometheus:v3
        amazon/dynamodb-local:3.3.1 softwaremill/elasticmq-native:1.7.1)
SUITE=trixie
MIRROR=${DEBIAN_MIRROR:-$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ' || true)}
CACHE=${BASE_IMAGES_CACHE:-/var/cache/base-images}

have_all() { local i; for i in "${IMAGES[@]}"; do docker image inspect "$i" >/dev/null 2>&1 || return 1; done; }

start_engine() {
  docker info >/dev/null 2>&1 && return
  if ! command -v dockerd >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io iproute2 >/dev/null
  fi
  mkdir -p /var/log
  setsid nohup dockerd >/var/log/dockerd.log 2>&1 < /dev/null &
  for _ in $(seq 60); do docker info >/dev/null 2>&1 && return; sleep 0.5; done
  echo "base-images: the Docker engine did not start; see /var/log/dockerd.log" >&2
  return 1
}

pull_all() { # the public images, where a registry is reached
  local i; for i in "${IMAGES[@]}"; do timeout 300 docker pull -q "$i" >/dev/null 2>&1 || return 1; done
}

make_root() {
  local root=$CACHE/root
  [ -f "$CACHE/root.tar" ] && return
  command -v debootstrap >/dev/null || { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap >/dev/null; }
  rm -rf "$root"; mkdir -p "$root"
  debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates,redis-server,haproxy,prometheus,procps,iproute2,curl \
    "$SUITE" "$root" "$MIRROR" >"$CACHE/debootstrap.log" 2>&1 || { tail -5 "$CACHE/debootstrap.log" >&2; return 1; }
  # The host's own trust store, so that pip works inside a build as it does outside.
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ndisable-pip-version-check = true\n' >"$root/etc/pip.conf"
  rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
  ln -sf python3 "$root/usr/bin/python"
  mkdir -p "$root/data"
  rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/usr/share/doc" "$root/usr/share/man"
  tar -C "$root" -c . >"$CACHE/root.tar"
  rm -rf "$root"
}

import() { # import NAME CHANGE...
  local name=$1; shift
  local args=(); for c in "$@"; do args+=(--change "$c"); done
  docker image inspect "$name" >/dev/null 2>&1 || docker import "${args[@]}" "$CACHE/root.tar" "$name" >/dev/null
}

main() {
  if [ "${1:-}" = --check ]; then have_all; exit; fi
  start_engine
  have_all && { echo "base-images: all there"; return; }
  pull_all && { echo "base-images: pulled ${IMAGES[*]}"; return; }
  mkdir -p "$CACHE"
  make_root
  import python:3.13-slim 'ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin PYTHONUNBUFFERED=1' 'CMD ["python3"]'
  import redis:8 'WORKDIR /data' 'CMD ["redis-server","--protected-mode","no","--bind","0.0.0.0"]'
  import haproxy:3.0 'CMD ["haproxy","-W","-db","-f","/usr/local/etc/haproxy/haproxy.cfg"]'
  import prom/prometheus:v3 'ENTRYPOINT ["/usr/bin/prometheus"]' 'CMD ["--config.file=/etc/prometheus/prometheus.yml","--storage.tsdb.path=/prometheus"]'
  local dir; dir=$(mktemp -d)
  cat >"$dir/serve.py" <<'PYTHON'
"""moto's server, one request at a time: its conditional writes are not atomic against one another, as AWS' are."""
import contextlib
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

application = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()
has_turns = sys.argv[1] != "9324"  # a caller that waits for messages of a queue must not keep all others waiting


class Handler(WSGIRequestHandler):
    timeout = 5  # seconds that a client may be silent while it has the turn


def one_at_a_time(environ, start_response):
    with turn if has_turns else contextlib.nullcontext():
        return list(application(environ, start_response))


run_simple("0.0.0.0", int(sys.argv[1]), one_at_a_time, threaded=True, request_handler=Handler)
PYTHON
  printf 'FROM python:3.13-slim\nRUN pip install --no-cache-dir "moto[server,dynamodb,sqs]"\nCOPY serve.py /serve.py\n' >"$dir/Dockerfile"
  DOCKER_BUILDKIT=0 docker build -q --network host -t local/moto "$dir" >/dev/null
  printf 'FROM local/moto\nENTRYPOINT ["python3","/serve.py","8000"]\n' >"$dir/Dockerfile"
  DOCKER_BUILDKIT=0 docker build -q -t amazon/dynamodb-local:3.3.1 "$dir" >/dev/null
  printf 'FROM local/moto\nENTRYPOINT ["python3","/serve.py","9324"]\n' >"$dir/Dockerfile"
  DOCKER_BUILDKIT=0 docker build -q -t softwaremill/elasticmq-native:1.7.1 "$dir" >/dev/null
  rm -rf "$dir"
  have_all && echo "base-images: built ${IMAGES[*]}"
}
main "$@"
