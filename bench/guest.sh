#!/bin/sh
# Boots a guest with real ZFS and measures there: `make bench-zfs`.
# usage: bench/guest.sh VENV [ARGUMENT OF bench.zfs...]
# build/bench/zfs keeps the image, which is made by the first run; the report stays there, too.
set -eu

venv=$(realpath "$1")
shift
root=$(realpath "$(dirname "$0")/..")
work=$root/build/bench/zfs
mkdir -p "$work"
exec "$root/tests/guest/boot.sh" "$venv" "$work" env PYTHONUNBUFFERED=1 "$venv/bin/python" -m bench.zfs --work "$work" "$@"
