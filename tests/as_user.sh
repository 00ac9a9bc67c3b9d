#!/bin/sh
# Runs pytest as nobody where root calls it, and as the caller otherwise. What it writes goes to a folder of its
# own, which is removed.
# usage: tests/as_user.sh PYTEST [ARGUMENT...]
set -eu

umask 022
# A short name: a socket's path may have no more than 107 bytes.
folder=$(mktemp -d /tmp/uXXXX)
trap 'rm -rf "$folder"' EXIT
as=""
if [ "$(id -u)" = 0 ]; then
    # The checkout may lie below a folder that is for root alone: there nobody gets a copy of it.
    chown 65534:65534 "$folder"
    as="setpriv --reuid 65534 --regid 65534 --clear-groups"
    if ! $as test -r pyproject.toml -a -x "$1"; then
        echo "*** NOT RUN AS NOBODY, who cannot read $(pwd): chmod o+rx its folders, and run make unit-user ***" >&2
        exit 0
    fi
fi
# shellcheck disable=SC2086 # words of a command
$as env HOME="$folder" TMPDIR="$folder" PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY="$folder/hypothesis" \
    "$@" --basetemp="$folder/t"
