#!/bin/sh
# Writes the Python stubs of every proto here, with types, to a directory: proto/generate.sh OUT (`make proto`).
# BIN is where python and the plugins are.
set -eu
out=$1
here=$(dirname "$0")
bin=${BIN:-.venv/bin}

rm -rf "$out"
mkdir -p "$out"
# shellcheck disable=SC2046 -- our file names have no blanks
"$bin/python" -m grpc_tools.protoc -I"$here" \
    --plugin="protoc-gen-mypy=$bin/protoc-gen-mypy" --plugin="protoc-gen-mypy_grpc=$bin/protoc-gen-mypy_grpc" \
    --python_out="$out" --mypy_out="quiet:$out" --grpc_python_out="$out" --mypy_grpc_out="quiet:$out" \
    $(cd "$here" && find thalamus -name '*.proto' | LC_ALL=C sort)
find "$out/thalamus" -type d -exec touch {}/__init__.py \;
