#!/usr/bin/env bash
# ssh-audit (PyPI) against a gateway with each algorithm policy, held to the policy files beside this script.
#
#     run.sh AS2GATE DIR [--write]      DIR keeps the tool and scratch files; --write makes the policy files anew
#
# A policy file lists exactly what is offered, in its order: whatever a new release of russh adds or drops shows here.
# `modern` has to pass ssh-audit's own verdict as well, but for the ECDSA host key and for want of post-quantum fallbacks.
set -euo pipefail
gateway=$(realpath "$1") dir=$(realpath -m "$2") write=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
version=3.9.0

# A directory that was moved has it, but its scripts no longer find their interpreter.
if [ ! -e "$dir/ready-$version" ] || ! "$dir/python/bin/ssh-audit" --help >/dev/null 2>&1; then
    rm -rf "$dir"
    python3 -m venv "$dir/python"
    "$dir/python/bin/python" -m pip install --quiet --disable-pip-version-check "ssh-audit==$version"
    : >"$dir/ready-$version"
fi
audit() { "$dir/python/bin/ssh-audit" --no-colors --skip-rate-test -p "$port" "$@" 127.0.0.1; }

server=
home=$(mktemp -d)
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } || true; server=; }
trap 'stop; rm -rf "$home"' EXIT
cd "$home"

serve() {
    printf 'data_dir = "data"\ntelemetry.listen = ""\nas2.listen = ["127.0.0.1:0"]\nsftp.listen = ["127.0.0.1:0"]\n' >as2gate.toml
    printf 'sftp.host_keys = ["ed25519", "ecdsa", "rsa"]\nsftp.algorithms = "%s"\n' "$1" >>as2gate.toml
    [ -d data ] || "$gateway" -q init --account audit >/dev/null
    : >log
    "$gateway" serve >log 2>&1 &
    server=$!
    for _ in $(seq 100); do
        port=$(sed -n 's/.* ready sftp=127\.0\.0\.1:\([0-9]*\).*/\1/p' log)
        [ -z "$port" ] || return 0
        sleep 0.1
    done
    echo "error: the gateway did not start: $(tail -n 3 log)" >&2
    exit 1
}

passed=0 failed=0
judge() {
    local what=$1 outcome=ok
    shift
    "$@" >verdict 2>&1 || outcome=FAILED
    printf '%-44s %s\n' "$what" "$outcome"
    if [ $outcome = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && cat verdict; fi
}

# What ssh-audit itself calls a failure, but for ECDSA over the NIST curves, which clients without Ed25519 need.
no_failures() {
    local report
    # It exits by what it found; a report that names no key exchange is none.
    report=$(audit) || true
    grep -q '^(kex)' <<<"$report" || { echo "no report: $report"; return 1; }
    ! grep -F '[fail]' <<<"$report" | grep -v 'ecdsa-sha2-nistp256'
}

for policy in modern compatible fips-like; do
    serve "$policy"
    file=$here/$policy.policy
    if [ "$write" = --write ]; then
        rm -f "$file"
        audit -M "$file" >/dev/null
        # The name holds the day and the address; the comments are ssh-audit's manual.
        sed -i -e "s/^name = .*/name = \"as2gate, $policy\"/" -e '/^#/d' -e '/^$/d' "$file"
    fi
    judge "ssh-audit, policy $policy" audit -P "$file"
    [ "$policy" != modern ] || judge "ssh-audit, own verdict on modern" no_failures
    stop
done
printf 'ssh-audit: %d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
