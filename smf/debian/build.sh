#!/bin/sh
# Builds a Debian package, for this release of Debian and this architecture, from the wheel that `make dist` made.
# Everything of Python's is in /opt/imgstore, by the versions and hashes of tests/requirements.lock; what is C comes from
# Debian. A venv that sees Debian's packages, too: where python3-pyzfs is installed, it is used.
# usage: smf/debian/build.sh VENV DIST     (a venv with pip; the folder with the wheel, where the package goes)
# From the environment: DEBFULLNAME and DEBEMAIL say who maintains it, EXTRAS which extras are in it (default is all), and
# COMPRESSION=none makes a large package quickly.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/smf/debian
venv=$1
dist=$(cd "$2" && pwd)
home=/opt/imgstore

die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }
for program in dpkg-deb dpkg-shlibdeps; do
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

maintainer="${DEBFULLNAME:-imgstore} <${DEBEMAIL:-root@localhost}>"

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
# Sources may have passwords.
install -m 600 "$here/imgstored.toml" "$stage/etc/imgstored.toml"
install -D -m 644 "$root/smf/systemd/imgstored.service" "$stage/usr/lib/systemd/system/imgstored.service"
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
