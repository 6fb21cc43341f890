# shellcheck shell=bash
# What the other scripts share: where things lie, which versions there are, and how a command is run as a user that
# PostgreSQL accepts. Sourced, never run. Everything that is made lies under target/ or, where that is out of the
# server user's reach, under one directory of /var/tmp.

# Else a failure inside $(…) would go on to the next line there.
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
NAME=pg_meshhook_events

# The versions that this machine can run. 17 compiles, but has no server here: see docs.
VERSIONS=(15 16 18)

# The user that runs servers when we are root, which PostgreSQL refuses to be.
SERVER_USER=postgres

export PGRX_HOME=$TARGET/pgrx
# A private cargo-pgrx, if setup had to install one, goes before any other.
export PATH=$TARGET/tools/bin:$PATH
# cargo-pgrx passes linker flags of its own, which these would replace: then the SQL entities are missing from the library.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
# With it, pgrx appends a backtrace to the DETAIL of errors, and outputs would differ.
unset RUST_BACKTRACE RUST_LIB_BACKTRACE
# A developer's connection settings must not leak into throw-away clusters.
unset PGHOST PGPORT PGUSER PGDATABASE PGSERVICE PGOPTIONS PGPASSFILE PGDATA
# The server user reads what we install.
umask 022

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

am_root() { [ "$(id -u)" -eq 0 ]; }

# Runs a command as root: directly, or through sudo where there is one.
as_root() {
    if am_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: $*"
    fi
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# ensure_packages PACKAGE…: installs the Debian packages that are missing.
ensure_packages() {
    local package missing=()
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    say "installing Debian packages: ${missing[*]}"
    # Debian makes and starts a cluster when it installs a server; we want the programs alone. The setting is taken
    # away afterwards, so that it decides nothing on a machine that is also used for something else.
    local conf=/etc/postgresql-common/createcluster.d/$NAME.conf
    as_root mkdir -p "${conf%/*}"
    echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
    local status=0
    {
        as_root apt-get update -q &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
    } || status=$?
    as_root rm -f "$conf"
    as_root rmdir --ignore-fail-on-non-empty "${conf%/*}"
    [ $status -eq 0 ] || die "apt-get failed"
}

# Runs a command as the user that owns clusters, from a directory that this user can enter: PostgreSQL's programs
# look for themselves from the current one.
as_server_user() {
    if am_root; then
        (cd / && exec runuser -u "$SERVER_USER" -- "$@")
    else
        (cd / && exec "$@")
    fi
}

server_user_name() { if am_root; then echo "$SERVER_USER"; else id -un; fi; }

require_version() {
    case " ${VERSIONS[*]} " in
    *" ${1:-} "*) ;;
    *) die "PostgreSQL version \"${1:-}\" is not one of: ${VERSIONS[*]}" ;;
    esac
}

# The exact version of pgrx, which Cargo.toml alone decides.
pgrx_version() {
    local version
    version=$(sed -n 's/^pgrx *= *"=\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml")
    [ -n "$version" ] || die "Cargo.toml has no line: pgrx = \"=VERSION\""
    echo "$version"
}

# Installs the cargo-pgrx that belongs to our pgrx, unless it is there. Without optimisation: that is built in half the
# time, and it has little to do.
ensure_cargo_pgrx() {
    local wanted found place=()
    wanted=$(pgrx_version)
    found=$(cargo pgrx --version 2>/dev/null || true)
    [ "$found" != "cargo-pgrx $wanted" ] || return 0
    # Where another project needs another version, ours goes beside it.
    [ -z "$found" ] || place=(--root "$TARGET/tools")
    say "installing cargo-pgrx $wanted (about 2 minutes)"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-pgrx --version "$wanted" --locked --quiet --debug "${place[@]}"
}

# Where the private server trees lie. A clone under a home directory that is closed to the server user gets a place
# under /var/tmp instead, named after the project and its path.
servers_dir() {
    local place=$TARGET/servers
    mkdir -p "$place"
    if am_root && ! as_server_user test -x "$place"; then
        place=/var/tmp/$NAME-$(printf '%s' "$TARGET" | sha256sum | cut -c1-12)
        # Anyone can write to /var/tmp: what somebody else put there under our name is not used.
        mkdir -p "$place"
        if [ -L "$place" ] || [ "$(stat -c %u "$place")" -ne 0 ]; then die "$place belongs to somebody else"; fi
        place=$place/servers
        mkdir -p "$place"
    fi
    echo "$place"
}

# The pg_config of a version's private tree; says nothing about whether it exists yet.
pg_config_of() {
    require_version "$1"
    case $1 in
    # Debian's layout below lib/ is kept, because the programs find their files relative to themselves.
    15) echo "$(servers_dir)/15/tree/lib/postgresql/15/bin/pg_config" ;;
    *) echo "$(servers_dir)/$1/bin/pg_config" ;;
    esac
}

# The same, but fails where the tree has not been made.
ready_pg_config_of() {
    local pg_config
    pg_config=$(pg_config_of "$1")
    [ -x "$pg_config" ] || die "there is no private PostgreSQL $1: run scripts/setup $1"
    echo "$pg_config"
}
