#!/usr/bin/env bash
# Deploy the stack, with every secret and config named by its content: what changed gets a new name, and Swarm rolls the
# services that read it. STACK names the stack, STACK_FILES its files.
set -euo pipefail
cd "$(dirname "$0")/.."
stack=${STACK:-thalamus}
files=${STACK_FILES:-dev-stack.yml}

hash_of() { # hash_of FILE: salted, so that a short secret can't be guessed from its name
    cat secrets/.salt "$1" | sha256sum | cut -c1-12
}

[ -e secrets/.salt ] || { echo "no secrets yet: make secrets" >&2; exit 1; }
# `name: {name: "…${HASH_x:-v1}", file: PATH}` of each stack file: one variable a file.
while read -r variable path; do
    export "$variable=$(hash_of "$path")"
done < <(cat $files | sed -nE 's/.*\$\{(HASH_[a-z0-9_]+):-v1\}.*file: ([^ }]+).*/\1 \2/p' | sort -u)

IMAGE_ID=$(docker image inspect --format '{{.Id}}' "${THALAMUS_IMAGE:-thalamus:dev}" 2>/dev/null || true)
export IMAGE_ID

arguments=()
for file in $files; do arguments+=(--compose-file "$file"); done
export STACK=$stack
docker stack deploy "${arguments[@]}" --prune --resolve-image never --detach=true "$stack"

# Those of earlier contents go once nothing uses them; in use, Docker refuses.
for kind in secret config; do
    docker "$kind" ls --format '{{.Name}}' --filter "label=com.docker.stack.namespace=$stack" | while read -r name; do
        docker "$kind" rm "$name" >/dev/null 2>&1 || true
    done
done
