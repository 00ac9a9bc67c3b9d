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
# One at a time uses the folder.
exec 9>"$work/lock"
flock -n 9 || { echo "bench: another one is at work in $work" >&2; exit 1; }
exec "$root/tests/guest/boot.sh" "$venv" "$work" env PYTHONUNBUFFERED=1 "$venv/bin/python" -m bench.zfs --work "$work" "$@"
