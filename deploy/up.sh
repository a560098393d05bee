#!/usr/bin/env bash
# Deploy the stack, with every secret and config named by its content: what changed gets a new name, and Swarm rolls the
# services that read it. Then wait until all of it runs, for UP_WAIT_S seconds at most (180; 0: don't). Settings come from
# the environment, and what is not there from ./deploy.env (NAME=VALUE lines).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -f deploy.env ]; then
    number=0
    while IFS= read -r line || [ -n "$line" ]; do # also a last line without its end
        line=${line%$'\r'} number=$((number + 1))
        if [[ $line =~ ^[[:space:]]*(#.*)?$ ]]; then continue; fi
        [[ $line =~ ^([A-Z][A-Za-z0-9_]*)=(.*)$ ]] || { echo "deploy.env, line $number: not NAME=VALUE" >&2; exit 2; }
        if [ -z "${!BASH_REMATCH[1]+set}" ]; then export "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}"; fi
    done <deploy.env
fi
export STACK=${STACK:-thalamus} SECRETS=${SECRETS:-./secrets}
read -ra files <<<"${STACK_FILES:-dev-stack.yml dev-ports.yml}"

hash_of() { # hash_of FILE: salted, so that a short secret can't be guessed from its name
    cat "$SECRETS/.salt" "$1" | sha256sum | cut -c1-12
}

[ -e "$SECRETS/.salt" ] || { echo "no secrets yet: make secrets" >&2; exit 1; }
grep -qF " ~${REDIS_PREFIX:-t}:life " "$SECRETS/redis_acl" || {
    echo "the users of Redis in $SECRETS are for another REDIS_PREFIX: REDIS_PREFIX=${REDIS_PREFIX:-t} make secrets" >&2
    exit 1
}
# Presence and persistence of this version work with no less.
grep -q '^user presence .* ~[^ ]*:events:{\* ' "$SECRETS/redis_acl" &&
    grep -q '^user persistence .* +xrevrange ' "$SECRETS/redis_acl" || {
    echo "the users of Redis in $SECRETS are of an earlier version: REDIS_PREFIX=${REDIS_PREFIX:-t} make secrets" >&2
    exit 1
}
# `name: {name: "…${HASH_x:-v1}", file: PATH}` of each stack file: one variable a file.
while read -r variable path; do
    export "$variable=$(hash_of "${path/'${SECRETS:-./secrets}'/$SECRETS}")"
done < <(cat "${files[@]}" | sed -nE 's/.*\$\{(HASH_[a-z0-9_]+):-v1\}.*file: "?([^ "]+)"?\}.*/\1 \2/p' | sort -u)
IMAGE_ID=$(docker image inspect --format '{{.Id}}' "${THALAMUS_IMAGE:-thalamus:dev}" 2>/dev/null || true)
export IMAGE_ID

# A setting that reaches nothing is never meant: what begins as ours do must be in deploy/env or in a stack file.
known=$(cat "${files[@]}" deploy/env/*.env | grep -oE '\$\{[A-Z][A-Z0-9_]*|^[A-Z][A-Z0-9_]*' | tr -d '${' | sort -u)
unknown=$(compgen -e | grep -E '^(EDGE|AUTH|PRESENCE|PERSISTENCE|WORKER|WEBHOOKS|NOTIFIER|DYNAMODB|SQS)_' | sort -u | grep -vxF "$known" || true)
# Those of earlier versions are told, and pass: an old deploy.env stops nothing.
retired=$(sed -n '/^RETIRED/,/^}/s/^ *"\([A-Z0-9_]*\)":.*/\1/p' services/shared/process/variables.py)
ignored=$(grep -xF "$retired" <<<"$unknown" || true) unknown=$(grep -vxF "$retired" <<<"$unknown" || true)
if [ -n "$ignored" ]; then echo "settings of an earlier version, ignored: $(tr '\n' ' ' <<<"$ignored")" >&2; fi
if [ -n "$unknown" ]; then
    echo "these reach nothing in the stack: $(tr '\n' ' ' <<<"$unknown")(docs/configuration.md and deploy/env have what does)" >&2
    exit 2
fi

arguments=()
for file in "${files[@]}"; do arguments+=(--compose-file "$file"); done

# Another store than the running one is never a slip of the environment.
planned=$(docker stack config "${arguments[@]}" | grep -m1 -oE 'DYNAMODB_ENDPOINT: .*' | cut -d' ' -f2- | tr -d '"')
running=$(docker service inspect "${STACK}_persistence" 2>/dev/null \
    --format '{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}' | grep '^DYNAMODB_ENDPOINT=' || true)
if [ -n "$running" ] && [ "${running#*=}" != "$planned" ] && [ "${FORCE:-}" != 1 ]; then
    echo "${STACK} runs with DYNAMODB_ENDPOINT '${running#*=}', this would give it '${planned}': FORCE=1 if that is meant" >&2
    exit 1
fi

docker stack deploy "${arguments[@]}" --prune --resolve-image never --with-registry-auth "$STACK"
rm -f "$SECRETS"/.*.changed # what `thalamus secrets rotate` waits for

# Those of earlier contents go, but for what a service runs with or would go back to.
label=com.docker.stack.namespace=$STACK
kept=$(docker service ls -q --filter "label=$label" |
    xargs -r docker service inspect --format '{{json .Spec.TaskTemplate.ContainerSpec}}{{json .PreviousSpec}}' |
    grep -oE '"(SecretID|ConfigID)":"[a-z0-9]+"' | cut -d'"' -f4 | sort -u)
for kind in secret config; do
    for id in $(docker "$kind" ls -q --filter "label=$label"); do
        grep -qx "$id" <<<"$kept" || docker "$kind" rm "$id" >/dev/null 2>&1 || true
    done
done

# Until every service has the replicas that it should, and the balancer answers.
limit=${UP_WAIT_S:-180} began=$SECONDS
if [ "$limit" = 0 ]; then exit 0; fi
states() { # of the stack's services, a line each: name, state of its last update, when that ended
    docker service ls -q --filter "label=$label" | xargs -r docker service inspect --format \
        '{{.Spec.Name}} {{with .UpdateStatus}}{{.State}} {{with .CompletedAt}}{{.}}{{end}}{{end}}' | sed "s/^${STACK}_//"
}
missing() { # what is not there yet; an update under way has its replicas, but not yet the new ones
    docker stack services "$STACK" --format '{{.Name}} {{.Replicas}}' | sed "s/^${STACK}_//" |
        awk '{split($2, n, "/"); if (n[1] != n[2]) printf "%s %s, ", $1, $2}'
    states | awk '$2 ~ /^(updating|rollback_started)$/ {printf "%s %s, ", $1, $2}'
}
said='' since=$(date -u +'%Y-%m-%d %H:%M:%S')
sleep 1
while lacking=$(missing) && [ -n "$lacking" ]; do
    if [ "$lacking" != "$said" ]; then echo "waiting for ${lacking%, }"; said=$lacking; fi
    if [ $((SECONDS - began)) -ge "$limit" ]; then
        echo "not whole after $limit s: ${lacking%, }" >&2
        docker stack ps "$STACK" --no-trunc --format '{{.Name}}: {{.CurrentState}} {{.Error}}' >&2 || true
        exit 1
    fi
    sleep 1
done
back=$(states | awk -v since="$since" '$2 ~ /^(rollback_completed|paused|rollback_paused)$/ && ($3 " " $4) >= since {print $1}')
if [ -n "$back" ]; then
    echo "went back to what they were, or stopped halfway: $(tr '\n' ' ' <<<"$back")(docker service ps says why)" >&2
    exit 1
fi
port=${PUBLIC_PORT:-8000}
answers() {
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf 'GET / HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nConnection: close\r\n\r\n' "$port" >&3
    head -n 1 <&3 | grep -q ' 200 '
}
note=' (no answer on this node: is a balancer on it?)'
for _ in 1 2 3 4 5 6 7 8 9 10; do
    if (answers) 2>/dev/null; then note=''; break; fi
    sleep 0.5
done
echo "$STACK is whole after $((SECONDS - began)) s: http://127.0.0.1:$port/$note; with TLS on port ${PUBLIC_TLS_PORT:-8443}"
