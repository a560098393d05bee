#!/usr/bin/env bash
# Deploy the stack, with every secret and config named by its content: what changed gets a new name, and Swarm rolls the
# services that read it. Settings come from the environment, and what is not there from ./deploy.env (NAME=VALUE lines).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -f deploy.env ]; then
    while IFS='=' read -r name value; do
        if [[ $name =~ ^[A-Z][A-Za-z0-9_]*$ ]] && [ -z "${!name+set}" ]; then export "$name=$value"; fi
    done <deploy.env
fi
export STACK=${STACK:-thalamus} SECRETS=${SECRETS:-./secrets}
read -ra files <<<"${STACK_FILES:-dev-stack.yml dev-ports.yml}"

hash_of() { # hash_of FILE: salted, so that a short secret can't be guessed from its name
    cat "$SECRETS/.salt" "$1" | sha256sum | cut -c1-12
}

[ -e "$SECRETS/.salt" ] || { echo "no secrets yet: make secrets" >&2; exit 1; }
grep -q " ~${REDIS_PREFIX:-t}:life " "$SECRETS/redis_acl" || {
    echo "the users of Redis in $SECRETS are for another REDIS_PREFIX: REDIS_PREFIX=${REDIS_PREFIX:-t} make secrets" >&2
    exit 1
}
# `name: {name: "…${HASH_x:-v1}", file: PATH}` of each stack file: one variable a file.
while read -r variable path; do
    export "$variable=$(hash_of "${path/'${SECRETS:-./secrets}'/$SECRETS}")"
done < <(cat "${files[@]}" | sed -nE 's/.*\$\{(HASH_[a-z0-9_]+):-v1\}.*file: "?([^ "]+)"?\}.*/\1 \2/p' | sort -u)
IMAGE_ID=$(docker image inspect --format '{{.Id}}' "${THALAMUS_IMAGE:-thalamus:dev}" 2>/dev/null || true)
export IMAGE_ID

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
