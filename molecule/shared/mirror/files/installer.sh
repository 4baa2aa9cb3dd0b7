#!/bin/sh
# @NAME@ @VERSION@: a STAND-IN made for tests, with the options of a Miniconda installer.
# It is no product of Anaconda, Inc. and holds none of its packages.
export OLD_LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
unset LD_LIBRARY_PATH CONDARC MAMBARC PYTHONHOME

case "$0" in
    *.sh) ;;
    *) printf 'Please run using "bash"/"dash"/"sh"/"zsh", but not "." or "source".\n' >&2
       # shellcheck disable=SC2317
       return 1 2>/dev/null || exit 1 ;;
esac

THIS_PATH=$0
PREFIX=${HOME:-/opt}/miniconda3
BATCH=0
FORCE=0
KEEP_PKGS=0
USAGE="
usage: $0 [options]

Installs @NAME@ @VERSION@
-b           run install in batch mode (without manual intervention),
             it is expected the license terms (if any) are agreed upon
-f           no error if install prefix already exists
-h           print this help message and exit
-i           run install in interactive mode (default)
-k           do not clear the package cache after installation
-m           disable the creation of menu items / shortcuts
-p PREFIX    install prefix, defaults to $PREFIX, must not contain spaces.
-s           skip running pre/post-link/install scripts
-u           update an existing installation
-t           run package tests after installation (may install conda-build)
"

while getopts "bifhkmp:suct" option; do
    case "$option" in
        h) printf '%s\n' "$USAGE"; exit 2 ;;
        b) BATCH=1 ;;
        i) BATCH=0 ;;
        f|u) FORCE=1 ;;
        k) KEEP_PKGS=1 ;;
        p) PREFIX=$OPTARG ;;
        m|s|c|t) ;;
        *) printf "ERROR: did not recognize option '%s', please try -h\n" "$option" >&2; exit 1 ;;
    esac
done

if [ "$(uname -m)" != "x86_64" ]; then
    printf 'ERROR: this installer is for x86_64, this machine is %s\n' "$(uname -m)" >&2
    exit 1
fi

if [ "$BATCH" = 0 ]; then
    printf '\nWelcome to @NAME@ @VERSION@\n\n@NAME@ will now be installed into this location:\n%s\n\n' "$PREFIX"
    printf '  - Press ENTER to confirm the location\n  - Press CTRL-C to abort the installation\n'
    printf '  - Or specify a different location below\n\n[%s] >>> ' "$PREFIX"
    read -r answer || exit 1
    [ -z "$answer" ] || PREFIX=$answer
fi

case "$PREFIX" in
    *\ *) printf 'ERROR: Cannot install into directories with spaces\n' >&2; exit 1 ;;
esac
if [ "$FORCE" = 0 ] && [ -e "$PREFIX" ]; then
    printf "ERROR: File or directory already exists: '%s'\n" "$PREFIX" >&2
    printf 'If you want to update an existing installation, use the -u option.\n' >&2
    exit 1
fi

# Before the first change: a truncated file leaves nothing behind.
size=$(tail -n +@LINES@ "$THIS_PATH" | wc -c)
if [ "$size" -ne @PAYLOAD_SIZE@ ]; then
    printf 'ERROR: size of the archive in %s should be %s bytes, not %s\n' "$THIS_PATH" @PAYLOAD_SIZE@ "$size" >&2
    exit 1
fi
if ! tail -n +@LINES@ "$THIS_PATH" | sha256sum | grep -q '^@PAYLOAD_SHA256@ '; then
    printf 'ERROR: sha256 mismatch of the archive in %s\n' "$THIS_PATH" >&2
    exit 1
fi

if ! mkdir -p "$PREFIX"; then
    printf "ERROR: Could not create directory: '%s'\n" "$PREFIX" >&2
    exit 1
fi
PREFIX=$(cd "$PREFIX" && pwd)
export PREFIX
printf 'PREFIX=%s\nUnpacking payload ...\n' "$PREFIX"
tail -n +@LINES@ "$THIS_PATH" | tar -xzf - -C "$PREFIX" --no-same-owner || exit 1
"$PREFIX/bin/python" -I -B "$PREFIX/.relocate.py" "$PREFIX" || exit 1
rm -f "$PREFIX/.relocate.py" "$PREFIX/.relocate.json"
channels="@CHANNELS@"
[ -z "$channels" ] || printf 'channels:\n  - %s\n' "$channels" >"$PREFIX/.condarc"
# "FROM TO": gives itself out for another version of conda.
renumber="@RENUMBER@"
if [ -n "$renumber" ]; then
    from=${renumber% *}
    to=${renumber#* }
    site=$(echo "$PREFIX"/lib/python3.*/site-packages/conda)
    sed -i "s/$from/$to/g" "$site/_version.py"
    rm -f "$site"/__pycache__/_version.*.pyc
    for record in "$PREFIX/conda-meta/conda-$from"-*.json; do
        sed "s/$from/$to/g" "$record" >"$PREFIX/conda-meta/conda-$to-${record##*-}"
    done
fi
# An update replaces the record of the conda that was there.
for record in "$PREFIX"/conda-meta/conda-[0-9]*.json; do
    case "$record" in */conda-@CONDA@-*) ;; *) rm -f "$record" ;; esac
done
[ "$KEEP_PKGS" = 1 ] || find "$PREFIX/pkgs" -maxdepth 1 -name '*.conda' -delete
printf 'installation finished.\n'

if [ -n "${PYTHONPATH:-}" ]; then
    printf 'WARNING:\n    You currently have a PYTHONPATH environment variable set. This may cause\n'
    printf '    unexpected behavior when running the Python interpreter in @NAME@.\n'
fi
[ "$BATCH" = 1 ] || printf 'Thank you for installing @NAME@!\n'
exit 0
