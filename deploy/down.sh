#!/usr/bin/env bash
# Remove the stack in the order in which `hot` channels go on at the next start: edges, then persistence, then the rest with
# Redis. `docker stack rm` alone ends all at once, and nobody can prove afterwards what Redis has. Each is waited for, for
# DOWN_WAIT_S seconds at most (60; 0: remove it at once). STACK is read from ./deploy.env, too.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${STACK:-}" ] && [ -f deploy.env ]; then STACK=$(tr -d '\r' <deploy.env | sed -n 's/^STACK=//p' | tail -n 1); fi
STACK=${STACK:-thalamus} limit=${DOWN_WAIT_S:-60}

running() { # whether a task of the service has not ended yet
    docker service ps "$1" --format '{{.CurrentState}}' 2>/dev/null | grep -E '^(Running|Starting|Preparing|Ready|Assigned)' >/dev/null
}

if [ "$limit" != 0 ]; then
    for service in edge persistence; do
        name=${STACK}_$service
        docker service inspect "$name" >/dev/null 2>&1 || continue
        echo "stopping $name"
        docker service scale --detach "$name=0" >/dev/null
        began=$SECONDS
        while running "$name"; do
            if [ $((SECONDS - began)) -ge "$limit" ]; then
                echo "$name has not ended after $limit s: \`hot\` channels may begin anew at the next start" >&2
                break
            fi
            sleep 0.5
        done
    done
fi
docker stack rm "$STACK"
