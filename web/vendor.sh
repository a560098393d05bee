#!/bin/sh
# Fetches centrifuge-js, which the console uses, from npm into web/static/vendor. Another version: change both lines below.
set -eu
version=5.8.0
archive_sha512=10d1f58f3e95791b866f7c87361801d15d12a91297fa261db4cf43bbf139f66e3ce1ea6334f7ec809c3851b98e9a38125c6122b5ad54a0e5e567a05ad68a13d6

cd "$(dirname "$0")/static/vendor"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm pack --silent --pack-destination "$folder" "centrifuge@$version" >/dev/null
echo "$archive_sha512  $folder/centrifuge-$version.tgz" | sha512sum --check --quiet
tar -xzf "$folder/centrifuge-$version.tgz" -C "$folder"
cp "$folder/package/build/index.mjs" centrifuge.js
cp "$folder/package/LICENSE" centrifuge.LICENSE
echo "$version" >centrifuge.version
sha256sum centrifuge.js centrifuge.LICENSE centrifuge.version >SHA256SUMS
