#!/bin/sh
# What run.sh runs in the guest.
# usage: inside.sh VENV RESULTS PYTEST ARGUMENT...
venv=$1
results=$2
shift 2
{
    modprobe zfs && cat /sys/module/zfs/version
    export IMGSTORE_GUEST=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis
    "$venv/bin/python" -m pytest -p no:cacheprovider -p tests.guest.at_once --tb=short -v --color=no --durations=15 -o timeout=300 --basetemp=/tmp/pytest "$@"
    echo $? >"$results/status"
} >"$results/report" 2>&1
