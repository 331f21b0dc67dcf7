#!/usr/bin/env bash
# A base for the image where none can be pulled: Debian 12 with Python 3.11 from Debian's own packages, imported into podman's
# store, which buildah shares. Then: make image BASE_IMAGE=localhost/python-base:3.11
set -euo pipefail
name=${1:-localhost/python-base:3.11}

for tool in mmdebstrap podman; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install mmdebstrap podman" >&2; exit 1; }
done
if podman image exists "$name"; then
    echo "$name is there; 'podman rmi $name' for a new one"
    exit 0
fi
archive=$(mktemp --suffix=.tar)
trap 'rm -f "$archive"' EXIT
# Without what the build of the image would take out anyway. EXTERNALLY-MANAGED keeps pip from working in a container that
# nobody else manages; resolv.conf and hostname are this machine's.
# shellcheck disable=SC2016 # "$1" of a hook is mmdebstrap's
mmdebstrap --quiet --variant=minbase --include=python3.11,python3.11-venv,ca-certificates \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook='rm -f "$1/usr/lib/python3.11/EXTERNALLY-MANAGED" "$1/etc/resolv.conf" "$1/etc/hostname"' \
    bookworm "$archive"
podman import --quiet "$archive" "$name" >/dev/null
echo "$name: $(podman image inspect --format '{{.Size}}' "$name") bytes"
