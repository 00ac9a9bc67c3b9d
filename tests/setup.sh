#!/bin/sh
# Installs what `make demo`, `make test` and `make bench` need: Debian packages, then Python packages into a venv.
# usage: tests/setup.sh VENV
set -eu

venv=$1
python=${PYTHON:-/usr/bin/python3}
packages="fuse3 libfuse3-dev pkg-config gcc libc6-dev dpkg-dev python3-dev python3-venv nginx-light curl xz-utils bzip2 lbzip2 zstd isal pigz aria2 openssl zsh fish groff-base mandoc qemu-utils libxml2-utils shellcheck ksh93u+m systemd chromium minisign docker-registry skopeo prometheus openssh-server wrk"

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

missing=""
if command -v dpkg-query >/dev/null 2>&1; then
    for package in $packages; do
        # Any nginx will do; the light one is only what is installed where there is none.
        [ "$package" = nginx-light ] && [ -x /usr/sbin/nginx ] && continue
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
else
    for program in fusermount3 pkg-config cc nginx curl xz bzip2 lbzip2 zstd igzip pigz aria2c openssl zsh fish groff mandoc qemu-img xmllint shellcheck ksh93 systemd-analyze dpkg-shlibdeps chromium minisign docker-registry skopeo prometheus sshd wrk; do
        PATH=$PATH:/usr/sbin command -v $program >/dev/null 2>&1 || missing="$missing $program"
    done
    [ -z "$missing" ] || die "this is not Debian; install these yourself, then run make again:$missing (and libfuse3's headers)"
fi

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo"
    else
        die "Debian packages are missing and may not be installed as this user. As root, run:
    apt-get install --no-install-recommends$missing
then run make again."
    fi
    say "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get update -qq
    # nginx's package starts a server on port 80 by itself; nothing here wants that one.
    [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' | $as_root tee /usr/sbin/policy-rc.d >/dev/null
        $as_root chmod +x /usr/sbin/policy-rc.d; trap '$as_root rm -f /usr/sbin/policy-rc.d' EXIT; }
    # shellcheck disable=SC2086 # one word a package
    $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
    # Nor at the next boot: the tests start their own.
    for service in nginx-light=nginx prometheus=prometheus openssh-server=ssh docker-registry=docker-registry; do
        case "$missing " in *" ${service%=*} "*) $as_root systemctl disable --quiet "${service#*=}" 2>/dev/null || : ;; esac
    done
fi

command -v "$python" >/dev/null 2>&1 || python=$(command -v python3) || die "no python3 found; set PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than 3.11; set PYTHON=/path/to/python3.11"

if [ ! -x "$venv/bin/pip" ]; then
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
say "installing Python packages into $venv"
# By the locks, which have the hashes of all that is fetched: the same set-up in a year. First what builds the rest.
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$venv/bin/pip" install --quiet --require-hashes --requirement tests/tools.lock
"$venv/bin/pip" install --quiet --require-hashes --no-build-isolation --requirement tests/requirements.lock
"$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable .
