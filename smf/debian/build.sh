#!/bin/sh
# Builds a Debian package, for this release of Debian and this architecture, from the wheel that `make dist` made.
# Everything of Python's is in /opt/imgstore, by the versions and hashes of tests/requirements.lock; what is C comes from
# Debian. A venv that sees Debian's packages, too: where python3-pyzfs is installed, it is used.
# usage: smf/debian/build.sh VENV DIST     (a venv with pip; the folder with the wheel, where the package goes)
# From the environment: DEBFULLNAME and DEBEMAIL say who maintains it (else git knows), EXTRAS which extras are in it (default is all), and
# COMPRESSION=none makes a large package quickly.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/smf/debian
venv=$1
dist=$(cd "$2" && pwd)
home=/opt/imgstore

die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }
for program in dpkg-deb dpkg-shlibdeps strip; do
    command -v $program >/dev/null 2>&1 || die "no $program; on Debian, apt-get install dpkg-dev"
done
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/imgstored/__init__.py")
wheel=$dist/imgstore-$version-py3-none-any.whl
[ -f "$wheel" ] || die "no $wheel; make dist makes it"

# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "$ID$VERSION_ID")
architecture=$(dpkg --print-architecture)
# What comes before a release (0.2.0rc1) sorts before it.
package_version=$(echo "$version" | sed -E 's/(a|b|rc|\.dev)([0-9]+)/~\1\2/')-1~$release

# Whoever builds a package answers for it: as Debian's own tools take it, or else as git does.
name=${DEBFULLNAME:-$(git -C "$root" config user.name 2>/dev/null || :)}
email=${DEBEMAIL:-$(git -C "$root" config user.email 2>/dev/null || :)}
case $email in ?*@?*) ;; *) name="" ;; esac
[ -n "$name" ] || die "who maintains the package? Set DEBFULLNAME and DEBEMAIL, or git's user.name and user.email"
maintainer="$name <$email>"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/stage
umask 022

# -- /opt/imgstore -------------------------------------------------------------------------------------------

mkdir -p "$stage$(dirname $home)"
/usr/bin/python3 -m venv --without-pip "$stage$home"
python=$stage$home/bin/python
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
extras=${EXTRAS-$("$python" -c 'import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["optional-dependencies"], sep=",")' "$root/pyproject.toml")}
printf 'imgstore[%s] @ file://%s --hash=sha256:%s\n' "$extras" "$wheel" "$(sha256sum "$wheel" | cut -d' ' -f1)" >"$work/requirements"
"$venv/bin/pip" --python "$python" install --quiet --no-compile --require-hashes --requirement "$work/requirements" \
    --report "$work/report" --constraint "$root/tests/requirements.lock" --build-constraint "$root/tests/tools.lock"
# Only now: pip would have taken what the building machine has for installed.
sed -i 's/^include-system-site-packages = .*/include-system-site-packages = true/; /^command = /d' "$stage$home/pyvenv.cfg"
find "$stage$home/bin" ! -type d ! -name 'python*' ! -name imgctl ! -name imgstored -delete
sed -i "1s|^#!.*|#!$home/bin/python|" "$stage$home/bin/imgctl" "$stage$home/bin/imgstored"
find "$stage$home" -name direct_url.json -delete
# What nothing here runs: tests of libraries, files for compilers and type checkers, and all of numpy that its core,
# which has what checksums need, does not import. zstandard has the same twice, and uses the one that is compiled.
site=$(echo "$stage$home"/lib/python3*/site-packages)
find "$site" -depth -type d \( -name tests -o -name _tests \) -exec rm -r {} +
for part in distutils f2py fft ma polynomial random testing typing _pyinstaller; do rm -rf "$site/numpy/$part"; done
rm -f "$site"/zstandard/_cffi.*.so "$site"/numpy/_core/_*_tests.*.so "$site"/numpy/_core/_simd.*.so
find "$site" -type f \( -name '*.pyi' -o -name '*.h' -o -name '*.c' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \) -delete
# Not those of *.libs, whose names and tables auditwheel has changed.
find "$site" -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded {} +
# Beside what they are made of, and believed: nobody changes one without the other.
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$stage" -p / "$stage$home/lib"

# -- the rest ------------------------------------------------------------------------------------------------

share=$stage/usr/share
mkdir -p "$stage/usr/bin" "$stage/etc" "$share/doc/imgstore" "$share/zsh"
ln -s $home/bin/imgctl $home/bin/imgstored "$stage/usr/bin/"
mv "$stage$home/share/man" "$stage$home/share/bash-completion" "$stage$home/share/fish" "$share/"
mv "$stage$home/share/zsh/site-functions" "$share/zsh/vendor-completions"
rm -rf "$stage$home/share" "$stage$home/include"
find "$share/man" -type f -exec gzip -9n {} +
# The system's own Python sees the client, behind all that it has itself: msgpack, too, of this Python's version.
client=$stage$home/lib/python3-imgctl
mkdir -p "$client" "$stage/usr/lib/python3/dist-packages"
for name in imgctl imgproto msgpack; do ln -s "../python3.$minor/site-packages/$name" "$client/$name"; done
echo "$home/lib/python3-imgctl" >"$stage/usr/lib/python3/dist-packages/imgstore.pth"
# Sources may have passwords.
install -m 600 "$here/imgstored.toml" "$stage/etc/imgstored.toml"
for unit in "$root"/smf/systemd/imgstored*.service "$root"/smf/systemd/imgstored*.timer; do
    install -D -m 644 "$unit" "$stage/usr/lib/systemd/system/${unit##*/}"
done
install -D -m 644 -t "$share/doc/imgstore/examples" "$root/docs/prometheus-alerts.yml" "$root/docs/grafana-dashboard.json"
install -D -m 644 "$root/smf/systemd/sysusers.d/imgstored.conf" "$stage/usr/lib/sysusers.d/imgstored.conf"
install -D -m 644 "$root/smf/systemd/tmpfiles.d/imgstored.conf" "$stage/usr/lib/tmpfiles.d/imgstored.conf"
install -D -m 644 "$root/smf/systemd/imgstored.service.d/no-fuse.conf" "$share/doc/imgstore/examples/no-fuse.conf"
gzip -9nc "$root/CHANGELOG.md" >"$share/doc/imgstore/changelog.gz"
printf 'imgstore (%s) stable; urgency=medium\n\n  * changelog.gz says what is new.\n\n -- %s  %s\n' \
    "$package_version" "$maintainer" "$(LC_ALL=C date -u -R -r "$root/CHANGELOG.md")" |
    gzip -9nc >"$share/doc/imgstore/changelog.Debian.gz"
install -m 644 "$here/copyright" "$share/doc/imgstore/copyright"
"$python" "$root/smf/sbom.py" imgstore "$version" "$work/report" >"$share/doc/imgstore/sbom.cdx.json"

# -- what dpkg is told ---------------------------------------------------------------------------------------

mkdir "$stage/DEBIAN" "$work/debian"
# dpkg-shlibdeps wants a source package, reads only its name, and knows which package has each library.
printf 'Source: imgstore\n\nPackage: imgstore\nArchitecture: any\n' >"$work/debian/control"
find "$stage$home/lib" -name '*.so' >"$work/libraries"
private=$(find "$stage$home/lib" -type d -name '*.libs' | sed 's/^/-l/' | tr '\n' ' ')
# shellcheck disable=SC2046,SC2086 # one word a library; none of these names has a space
depends=$(cd "$work" && dpkg-shlibdeps -O --warnings=0 --ignore-missing-info $private $(cat libraries) | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || die "dpkg-shlibdeps found no libraries"
sed -e "s|@VERSION@|$package_version|" -e "s|@ARCHITECTURE@|$architecture|" -e "s|@LIBRARIES@|$depends|" \
    -e "s|@MINOR@|$minor|" -e "s|@NEXT@|$((minor + 1))|" -e "s|@SIZE@|$(du -sk "$stage" | cut -f1)|" \
    -e "s|@MAINTAINER@|$maintainer|" "$here/control" >"$stage/DEBIAN/control"
echo /etc/imgstored.toml >"$stage/DEBIAN/conffiles"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$stage/DEBIAN/"
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)

package=$dist/imgstore_${package_version}_$architecture.deb
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$stage" "$package" >/dev/null
echo "$package"
