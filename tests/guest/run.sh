#!/bin/sh
# Runs the tests that need real ZFS, in a guest: boots once, runs all. The pytest report is shown as it comes.
# usage: tests/guest/run.sh VENV [PYTEST ARGUMENT...]
# Its status is pytest's; or 1, with the reason, where the guest cannot run or does not finish.
set -eu

venv=$(realpath "$1")
shift
root=$(realpath "$(dirname "$0")/../..")
limit=${IMGSTORE_GUEST_SECONDS:-720}

die() { printf '\n*** REAL ZFS WAS NOT TESTED: %s\n' "$*" >&2; exit 1; }

"$root/tests/guest/provision.sh" "$venv" || die "the guest cannot be provisioned (see above)"
command -v qemu-system-x86_64 >/dev/null || die "there is no qemu-system-x86_64"
module=$(ls /lib/modules/*/updates/dkms/zfs.ko* | tail -1)
release=$(echo "$module" | cut -d/ -f4)
kernel=/boot/vmlinuz-$release
[ -r "$kernel" ] || die "there is no kernel $kernel for the ZFS module $module"

[ $# -gt 0 ] || set -- tests/pools/test_zfs.py tests/guest
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
: >"$results/report"
tail -f "$results/report" &
tail=$!

# The guest sees this machine's own root folder, read-only, and may write into $results. The console is for
# its kernel only: lines on it can overwrite each other.
started=$(date +%s)
PATH="$venv/bin:$PATH" timeout --kill-after=10 "$limit" "$venv/bin/vng" --run "$kernel" --disable-kvm --cpus 2 \
    --memory 4G --user root --cwd "$root" --rwdir "$results" \
    --exec "sh tests/guest/inside.sh $venv $results $*" >"$results/console" 2>&1 </dev/null || true
sleep 1
kill $tail
wait $tail 2>/dev/null || true

printf 'guest: %s seconds in all, limit %s\n' $(($(date +%s) - started)) "$limit"
if [ ! -s "$results/status" ]; then
    tail -40 "$results/console" >&2
    die "the guest did not finish; the end of its console is above"
fi
status=$(cat "$results/status")
[ "$status" = 0 ] || printf '*** THE TESTS ON REAL ZFS FAILED (status %s)\n' "$status" >&2
exit "$status"
