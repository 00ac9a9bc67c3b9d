#!/bin/sh
# Packs Python, the venv's packages and the project into one file, for unpack.sh in the guest: that reads many small
# files from the host slowly, and anew each time.
# usage: tests/guest/pack.sh VENV FILE
set -eu

venv=$(realpath "$1")
file=$2
root=$(realpath "$(dirname "$0")/../..")

set -- imgstored ctl bench tests
for name; do set -- "$@" "$root/$name"; shift; done
# shellcheck disable=SC2046 # one word a folder
set -- "$@" $("$venv/bin/python" -c 'import sysconfig as s; print(s.get_path("stdlib"), s.get_path("purelib"))')
printf '%s\n' "$@" >"$file.folders"
for folder; do set -- "$@" "${folder#/}"; shift; done
# But for what nobody needs there, and is large.
tar -C / -cf "$file" --exclude='*/config-3*' --exclude='*/ensurepip' --exclude='*/lib2to3' --exclude='*/mypy*' \
    --exclude='*/numpy/*/tests' --exclude='*/pip' --exclude='*/ruff*' --exclude='*/setuptools' --exclude='*/virtme*' "$@"
