#!/bin/sh
# In the guest: unpacks into memory what pack.sh packed, and mounts it over the folders that it comes from.
# usage: tests/guest/unpack.sh FILE
set -eu

file=$1
memory=/tmp/unpacked
mkdir -p $memory
mount -t tmpfs -o size=1G unpacked $memory
# In large pieces: each is a question to the host.
tar -C $memory -b 1024 -xf "$file"
while read -r folder; do mount --bind "$memory$folder" "$folder"; done <"$file.folders"
