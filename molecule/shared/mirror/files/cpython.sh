#!/bin/bash
# Runs inside a container of the base image: compiles one CPython and pycosat, made to be moved.
# stdin: tar with cpython.tar.gz and pycosat.tar.gz; stdout: tar with prefix/ and pycosat/; messages on stderr.
# Environment: PYTHON_VERSION (3.11), PLACEHOLDER, JOBS.
set -euo pipefail
exec 3>&1 1>&2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt-get -qq update
apt-get -qq install -y --no-install-recommends gcc make libc6-dev patchelf libssl-dev zlib1g-dev libbz2-dev \
    liblzma-dev libsqlite3-dev libffi-dev libreadline-dev libncurses-dev uuid-dev >/dev/null

work=$(mktemp -d)
cd "$work"
tar -x
mkdir src pycosat-src out out/prefix out/pycosat
tar -xzf cpython.tar.gz -C src --strip-components=1
tar -xzf pycosat.tar.gz -C pycosat-src --strip-components=1

cd src
echo "configuring CPython $PYTHON_VERSION" >&2
./configure -q --prefix="$PLACEHOLDER" --without-ensurepip --without-static-libpython --disable-test-modules \
    OPT="-DNDEBUG -fwrapv -O2" >"$work/configure.log" 2>&1 || { tail -50 "$work/configure.log"; exit 1; }
echo "compiling CPython $PYTHON_VERSION" >&2
make -s -j"$JOBS" >"$work/make.log" 2>&1 || { tail -50 "$work/make.log"; exit 1; }

# `make install` would byte-compile everything three times.
prefix=$work/out/prefix
lib=$prefix/lib/python$PYTHON_VERSION
multiarch=$(gcc -print-multiarch)
config=$lib/config-$PYTHON_VERSION-$multiarch
mkdir -p "$prefix/bin" "$lib/lib-dynload" "$config" "$prefix/include/python$PYTHON_VERSION"
rm -rf Lib/test Lib/idlelib Lib/turtledemo Lib/tkinter Lib/lib2to3/tests Lib/{unittest,distutils,ctypes,sqlite3}/test
cp -a Lib/. "$lib/"
mkdir -p "$lib/site-packages"
cp -a "$(cat pybuilddir.txt)"/*.so "$lib/lib-dynload/"
cp "$(cat pybuilddir.txt)"/_sysconfigdata*.py "$lib/"
cp -a Include/. "$prefix/include/python$PYTHON_VERSION/"
cp pyconfig.h "$prefix/include/python$PYTHON_VERSION/"
cp Makefile "$config/"
cp LICENSE "$lib/LICENSE.txt"
install -m 0755 python "$prefix/bin/python$PYTHON_VERSION"
ln -s "python$PYTHON_VERSION" "$prefix/bin/python3"
ln -s "python$PYTHON_VERSION" "$prefix/bin/python"
strip "$prefix/bin/python$PYTHON_VERSION" "$lib"/lib-dynload/*.so

# The libraries that a bare host need not have, all but the C library's own.
ldd "$prefix/bin/python$PYTHON_VERSION" "$lib"/lib-dynload/*.so | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
while read -r so; do
    case ${so##*/} in
        libc.so.*|libm.so.*|libpthread.so.*|libdl.so.*|librt.so.*|libutil.so.*) ;;
        *) cp -L "$so" "$prefix/lib/"; chmod 0644 "$prefix/lib/${so##*/}"
           patchelf --set-rpath '$ORIGIN' "$prefix/lib/${so##*/}" ;;
    esac
done
patchelf --set-rpath '$ORIGIN/../lib' "$prefix/bin/python$PYTHON_VERSION"
for so in "$lib"/lib-dynload/*.so; do patchelf --set-rpath '$ORIGIN/../..' "$so"; done

for module in ssl sqlite3 zlib bz2 lzma ctypes readline uuid curses; do
    "$prefix/bin/python" -I -B -c "import $module" || { echo "CPython $PYTHON_VERSION lacks $module"; exit 1; }
done

echo "compiling pycosat" >&2
cd "$work/pycosat-src"
version=$(sed -n 's/^Version: //p' PKG-INFO)
gcc -w -O2 -shared -fPIC -I"$prefix/include/python$PYTHON_VERSION" -DPYCOSAT_VERSION="\"$version\"" -I. pycosat.c \
    -o "$work/out/pycosat/pycosat.cpython-${PYTHON_VERSION/./}-$multiarch.so"
strip "$work"/out/pycosat/*.so
mkdir "$work/out/pycosat/pycosat-$version.dist-info"
cp PKG-INFO "$work/out/pycosat/pycosat-$version.dist-info/METADATA"
PYTHONPATH="$work/out/pycosat" "$prefix/bin/python" -c 'import pycosat; assert pycosat.solve([[1], [-1, 2]]) == [1, 2]'

# -B -f: what compileall itself imports is compiled like the rest.
# unchecked: a .pyc must outlive a copy, a hard link and a replaced prefix.
find "$prefix" -name __pycache__ -prune -exec rm -rf {} +
"$prefix/bin/python" -I -B -m compileall -q -f -j"$JOBS" --invalidation-mode unchecked-hash -s "$prefix" \
    -x 'bad_coding|badsyntax|lib2to3/tests' "$lib" || true
tar -C "$work/out" --owner=0 --group=0 -cf - . >&3
