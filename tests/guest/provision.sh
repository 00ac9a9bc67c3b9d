#!/bin/sh
# Installs what a guest with real ZFS needs: a Debian kernel, its ZFS module (built here, some minutes), qemu, pyzfs.
# usage: tests/guest/provision.sh VENV
# Status 77: this machine is of a kind on which it cannot be done, and the reason is said.
set -eu

venv=$1
packages="qemu-system-x86 busybox-static e2fsprogs kmod udev linux-image-amd64 linux-headers-amd64 zfs-dkms zfsutils-linux python3-pyzfs"

say() { printf '==> %s\n' "$*"; }
die() { printf 'provision: %s\n' "$*" >&2; exit 1; }
cannot() { printf 'provision: %s\n' "$*" >&2; exit 77; }

command -v apt-get >/dev/null 2>&1 || cannot "real ZFS is tested in a guest with Debian's kernel; this is not Debian"
[ "$(uname -m)" = x86_64 ] || cannot "real ZFS is tested in an x86-64 guest; this machine is $(uname -m)"
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || cannot "Debian packages are missing; as root, with the component contrib enabled, run:
    apt-get install --no-install-recommends$missing"
    # ZFS is in Debian's component contrib.
    for list in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        [ -f "$list" ] || continue
        sed -i -E -e '/^Components:/{/contrib/!s/$/ contrib/}' -e '/^deb .* main/{/contrib/!s/$/ contrib/}' "$list"
    done
    say "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # The module is for the guest's kernel only; nothing is started, and no boot loader is touched.
    # shellcheck disable=SC2086 # one word a package
    apt-get install -y -qq --no-install-recommends $missing >"$venv/provision.log" 2>&1 ||
        die "apt-get failed; the end of $venv/provision.log:
$(tail -20 "$venv/provision.log")"
fi
ls /lib/modules/*/updates/dkms/zfs.ko* >/dev/null 2>&1 || die "the ZFS module was not built; see /var/lib/dkms/zfs"
if [ ! -x "$venv/bin/vng" ]; then
    say "installing virtme-ng into $venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'virtme-ng>=1.30'
fi
