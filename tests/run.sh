#!/bin/sh
# tests/run.sh VENV OPTION… [-- TEST…]: runs pytest, as `make unit` does.
#
# Up to three tests that fail run once more, without others beside them, and must pass then; what fails for a
# reason of its own fails again. Which they were is said at the end: a test that needs to be alone has a flaw,
# or says so by its marker. CPython's own suite does the same (`python -m test --rerun`).
set -eu

venv=$1
shift
options=
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
    options="$options '$1'"
    shift
done
[ "$#" -eq 0 ] || shift
pytest() {
    eval "\"$venv/bin/python3\" -m pytest -o cache_dir=\"$cache\" $options \"\$@\""
}
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT

status=0
pytest "$@" || status=$?
[ "$status" -eq 1 ] || exit "$status"

lasting=$cache/v/cache/lastfailed
[ -e "$lasting" ] || exit 1
"$venv/bin/python" -c 'import json, sys; print(*json.load(open(sys.argv[1])), sep="\n")' "$lasting" > "$cache/failed"
count=$(wc -l < "$cache/failed")
[ "$count" -le 3 ] || exit 1
echo "$count failed; once more, without others beside:"
pytest -n 0 -v "@$cache/failed" || exit 1
echo "PASSED ONLY ALONE, and to be mended:"
cat "$cache/failed"
