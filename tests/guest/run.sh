#!/bin/sh
# Runs the tests that need real ZFS in a guest: boots once, runs all. Its status is pytest's.
# usage: tests/guest/run.sh VENV [PYTEST ARGUMENT...]
# Where this machine cannot run the guest: fails, but with IMGSTORE_ZFS=optional only says so, loudly.
set -eu

venv=$(realpath "$1")
shift
here=$(dirname "$0")
[ $# -gt 0 ] || set -- tests/pools/zfs tests/guest
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

status=0
"$here/boot.sh" "$venv" "$results" env IMGSTORE_GUEST=1 PYTHONUNBUFFERED=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis \
    tests/run.sh "$venv" -n 2 --dist loadfile -p tests.guest.at_once --tb=short -v --color=no --durations=25 \
    -o timeout=300 --basetemp=/tmp/pytest -- "$@" || status=$?
case $status in
    0) ;;
    77)
        printf '\n%s\n' \
            '*******************************************************************************' \
            '*** REAL ZFS WAS NOT TESTED: this machine cannot run the guest, see above. ***' \
            '*******************************************************************************' >&2
        [ "${IMGSTORE_ZFS:-required}" != optional ] || status=0
        ;;
    *) printf '*** THE TESTS ON REAL ZFS FAILED (status %s)\n' "$status" >&2 ;;
esac
exit $status
