#!/bin/sh
# Boots a guest with real ZFS, runs one command in it as root, and shows what that prints as it comes.
# usage: tests/guest/boot.sh VENV RESULTS COMMAND...
# The guest sees this machine's own root folder, read-only but for RESULTS. The limit is IMGSTORE_GUEST_SECONDS.
# Status: 77 where a guest cannot run on this machine, 1 where it did not finish, else the command's.
set -eu

venv=$(realpath "$1")
results=$(realpath "$2")
shift 2
here=$(realpath "$(dirname "$0")")
limit=${IMGSTORE_GUEST_SECONDS:-3000}

die() { printf '\n*** REAL ZFS: %s\n' "$*" >&2; exit 1; }

"$here/provision.sh" "$venv"
# shellcheck disable=SC2012 # the kernel's names have nothing strange
module=$(ls /lib/modules/*/updates/dkms/zfs.ko* | tail -1)
release=$(echo "$module" | cut -d/ -f4)
kernel=/boot/vmlinuz-$release
[ -r "$kernel" ] || die "there is no kernel $kernel for the ZFS module $module"
"$here/pack.sh" "$venv" "$results/packed.tar"

rm -f "$results/status"
: >"$results/report"
tail -f "$results/report" &
tail=$!

# A disk of which QEMU logs each write and each flush, and that log as a second disk: see power_cuts.py.
truncate -s 160M "$results/disk"
truncate -s 2G "$results/log"
disks="-blockdev driver=file,node-name=recorded-file,filename=$results/disk"
disks="$disks -blockdev driver=file,node-name=log-file,filename=$results/log,locking=off"
disks="$disks -blockdev driver=blklogwrites,node-name=recorded,file=recorded-file,log=log-file"
disks="$disks -device virtio-blk-pci,drive=recorded,serial=recorded"
disks="$disks -blockdev driver=file,node-name=log,filename=$results/log,read-only=on,locking=off"
disks="$disks -device virtio-blk-pci,drive=log,serial=log"

# The console is for the guest's kernel only: lines on it can overwrite each other.
started=$(date +%s)
PATH="$venv/bin:$PATH" timeout --kill-after=10 "$limit" "$venv/bin/vng" --run "$kernel" --disable-kvm --cpus 2 \
    --memory 6G --user root --qemu-opts="$disks" --cwd "$here/../.." --rwdir "$results" \
    --exec "sh tests/guest/inside.sh $results $*" >"$results/console" 2>&1 </dev/null || true
sleep 1
kill $tail
wait $tail 2>/dev/null || true

printf 'guest: %s seconds in all, limit %s\n' $(($(date +%s) - started)) "$limit"
if [ ! -s "$results/status" ]; then
    tail -40 "$results/console" >&2
    die "the guest did not finish; the end of its console is above"
fi
exit "$(cat "$results/status")"
