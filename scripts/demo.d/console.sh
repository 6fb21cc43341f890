# shellcheck shell=bash
# What a person sees of the demo: headings, the SQL that is run, its results, and what was checked.
# Sourced by scripts/demo, which sets $bindir and the connection, and defines fail.

heading_number=0

heading() {
    heading_number=$((heading_number + 1))
    printf '\n== %d. %s\n\n' "$heading_number" "$1"
}

tell() { printf '%s\n' "$1" | fold -s -w 100; }

# show ROLE SQL: prints the statements as somebody would type them, runs them, prints the results.
show() {
    local prompt
    if [ "$1" = postgres ]; then prompt='meshhook=# '; else prompt='meshhook=> '; fi
    printf '\n'
    printf '%s\n' "$2" | sed "1s/^/$prompt/; 2,\$s/^./           &/"
    printf '%s\n' "$2" | "$bindir/psql" -X -q -U "$1" -v ON_ERROR_STOP=1 -P pager=off -P null=- -f - 2>&1 |
        sed 's/^psql:<stdin>:[0-9]*: //' || fail 'a statement above failed'
}

# query SQL: the result alone, unaligned, read as the superuser.
query() { "$bindir/psql" -X -q -A -t -U postgres -v ON_ERROR_STOP=1 -c "$1"; }

# check WHAT SQL: the SQL must give "t", or the demo ends here.
check() {
    local answer
    answer=$(query "$2") || fail "could not check: $1"
    [ "$answer" = t ] || fail "not as promised: $1"
    printf '  checked: %s\n' "$1"
}
