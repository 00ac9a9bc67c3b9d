#!/bin/sh
# What boot.sh runs in the guest: COMMAND, with ZFS loaded. What it prints goes into RESULTS/report, its status into
# RESULTS/status.
# usage: inside.sh RESULTS COMMAND...
results=$1
shift
{
    modprobe -a zfs loop && sh tests/guest/unpack.sh "$results/packed.tar" && "$@"
    echo $? >"$results/status"
} >"$results/report" 2>&1
