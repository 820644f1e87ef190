#!/usr/bin/env bash
# Builds the image `meridian:VERSION`: one static binary and nothing else. No base image is pulled.
#
#   deploy/image/build.sh [TAG]          default: meridian:<version of the workspace>, and meridian:latest
#   MERIDIAN_BIN=FILE deploy/image/build.sh     packs this binary, which must be static, instead of building one
#
# Needs cargo, a C compiler with the static C library (glibc's libc.a: it comes with libc6-dev or glibc-static), and docker.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
tag=${1:-meridian:$version}
target=x86_64-unknown-linux-gnu
[[ $(uname -m) != aarch64 ]] || target=aarch64-unknown-linux-gnu

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

binary=${MERIDIAN_BIN:-}
if [[ -z $binary ]]; then
    # RUSTFLAGS of the environment replace those of .cargo/config.toml, and CARGO_ENCODED_RUSTFLAGS both: so say all here.
    # The target is named so that build scripts and macros, which cannot be static, are built without the flag.
    unset CARGO_ENCODED_RUSTFLAGS
    RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
        cargo build --locked --release --target "$target" -p meridian
    binary=${CARGO_TARGET_DIR:-target}/$target/release/meridian
fi
[[ -x $binary ]] || fail "$binary is not there"
# A program that asks for a loader would start here and nowhere else.
if grep -qa 'ld-linux\|ld-musl' <(head -c 4096 "$binary"); then
    fail "$binary is not static: is RUSTFLAGS in .cargo/config.toml or in the environment of another tool in the way?"
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "$binary" "$context/meridian"
# Symbols and line numbers stay with the build; the image does without.
if command -v strip >/dev/null; then strip "$context/meridian"; fi
# What a volume inherits: the directories and whom they belong to.
mkdir -p "$context/data" "$context/config"
docker build --quiet --tag "$tag" --tag "${tag%:*}:latest" --build-arg VERSION="$version" \
    --file deploy/image/Dockerfile "$context" >/dev/null
docker image inspect --format "$tag: {{.Size}} bytes, {{.Architecture}}, runs as {{.Config.User}}" "$tag"
