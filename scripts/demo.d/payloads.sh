# shellcheck shell=bash
# The webhook bodies that the demo and the comparisons use, from a package of examples. Sourced after lib.sh, never run.

payloads=@octokit/webhooks-examples@7.6.1
payloads_file=octokit-webhooks-examples-7.6.1.tgz
payloads_sha256=89e6cb1c6345d32e3dd775617fa54effbdc26c859e514898d7728e95e9738280
payloads_dir=$TARGET/demo

payloads_are_intact() {
    printf '%s  %s\n' "$payloads_sha256" "$payloads_dir/$payloads_file" | sha256sum --check --status 2>/dev/null
}

install_npm() {
    am_root || die 'npm is missing, which fetches the webhook bodies'
    say 'installing npm, which fetches the webhook bodies'
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends npm
}

# Makes webhooks.json: by npm the first time, from then on without the network.
fetch_webhooks() {
    mkdir -p "$payloads_dir"
    if ! payloads_are_intact; then
        command -v npm >/dev/null || install_npm
        say "fetching $payloads"
        (cd "$payloads_dir" && npm pack --silent --cache "$payloads_dir/npm" "$payloads") >/dev/null ||
            die "npm could not fetch $payloads"
        rm -rf "$payloads_dir/npm"
        payloads_are_intact || die "$payloads_file is not the file it should be"
    fi
    tar -xzf "$payloads_dir/$payloads_file" -O package/api.github.com/index.json >"$payloads_dir/webhooks.json"
}
