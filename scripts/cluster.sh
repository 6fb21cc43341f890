# shellcheck shell=bash
# A throw-away cluster on a unix socket: started by cluster_start, stopped and removed by cluster_stop, which also
# runs when the script ends or is interrupted. Sourced after lib.sh, never run.

CLUSTER_DIR=
CLUSTER_PORT=5432

# cluster_start PG_CONFIG [SETTING=VALUE…]: sets CLUSTER_DIR, which is also the directory of the socket.
cluster_start() {
    local bindir setting
    bindir=$("$1" --bindir)
    shift
    # Short, because a socket's path has at most 107 bytes; /tmp, because the server user can write there.
    CLUSTER_DIR=$(mktemp -d /tmp/pgmh.XXXXXX)
    trap cluster_stop EXIT
    trap 'exit 130' INT TERM HUP
    if am_root; then chown "$SERVER_USER:" "$CLUSTER_DIR"; fi
    as_server_user "$bindir/initdb" -D "$CLUSTER_DIR/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
        >"$CLUSTER_DIR/initdb.log" 2>&1 || { cat "$CLUSTER_DIR/initdb.log" >&2; die "initdb failed"; }
    {
        echo "listen_addresses = ''"
        echo "port = $CLUSTER_PORT"
        echo "unix_socket_directories = '$CLUSTER_DIR'"
        echo "fsync = off"
        echo "log_line_prefix = '%m [%p] %b '"
        for setting in "$@"; do echo "${setting%%=*} = '${setting#*=}'"; done
    } >>"$CLUSTER_DIR/data/postgresql.conf"
    as_server_user "$bindir/pg_ctl" -D "$CLUSTER_DIR/data" -l "$CLUSTER_DIR/server.log" -w -t 60 start >/dev/null ||
        { cat "$CLUSTER_DIR/server.log" >&2; die "the server did not start"; }
}

# Stops the postmaster by its process id: politely, then not. Safe to call twice.
cluster_stop() {
    local pid signal
    [ -n "$CLUSTER_DIR" ] || return 0
    if [ -f "$CLUSTER_DIR/data/postmaster.pid" ]; then
        pid=$(head -n 1 "$CLUSTER_DIR/data/postmaster.pid")
        for signal in INT QUIT KILL; do
            kill -s "$signal" "$pid" 2>/dev/null || break
            for _ in $(seq 100); do
                [ -d "/proc/$pid" ] || break 2
                sleep 0.1
            done
        done
    fi
    rm -rf "$CLUSTER_DIR"
    CLUSTER_DIR=
}
