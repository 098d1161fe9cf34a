# shellcheck shell=bash
# Two gateways on this machine, ALICE and BOB, each with its own process, keys and data directory. To be sourced:
#   pair_set_up DIR [KEY]   makes DIR/alice and DIR/bob: configuration, stations with keys of this type, partners, SFTP users
#   pair_start          starts both on ports that the system chooses, sets ALICE_SFTP, ALICE_AS2, BOB_SFTP, BOB_AS2
#   pair_stop           ends both
#   gw SIDE ARG...      the command line of one side: gw alice message list
#   ftp SIDE            OpenSSH's sftp as that side's user; commands on stdin

PAIR_HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PAIR_PIDS=()

gw() {
    local side=$1
    shift
    "$AS2GATE_BIN" -c "$PAIR_DIR/$side/as2gate.toml" "$@"
}

ftp() {
    local side=$1 port=${1^^}_SFTP
    sftp -q -b - -P "${!port}" -i "$PAIR_DIR/$side/$side-erp.key" -o IdentitiesOnly=yes -o BatchMode=yes \
        -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile="$PAIR_DIR/known_hosts" "$side-erp@127.0.0.1"
}

# json EXPRESSION: a Python expression over `it`, the JSON document on stdin.
json() {
    python3 -c 'import json, sys; it = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"
}

pair_set_up() {
    PAIR_DIR=$1
    local key=${2:-rsa-3072} side other
    for side in alice bob; do
        mkdir -p "$PAIR_DIR/$side"
        cp "$PAIR_HERE/$side/"*.toml "$PAIR_DIR/$side/"
        gw "$side" -q init --account "$side"
        gw "$side" -q station add "${side^^}" --key "$key" --email "edi@$side.example"
        gw "$side" -q user add "$side-erp" --generate-key ed25519 --out "$PAIR_DIR/$side/$side-erp.key"
    done
    # What partners otherwise send each other by mail: the certificate, without its key.
    for side in alice bob; do
        other=$([ "$side" = alice ] && echo bob || echo alice)
        gw "$side" -q cert export "$(gw "$side" station show "${side^^}" -o json | json 'it["certificate"]')" \
            --out "$PAIR_DIR/$other/$side.cer"
    done
    for side in alice bob; do
        gw "$side" -q apply -f "$PAIR_DIR/$side/objects.toml"
    done
}

# BOB first: ALICE has to know his port before she sends.
pair_start() {
    pair_serve bob
    gw alice -q partner set BOB --url "http://127.0.0.1:$BOB_AS2/as2"
    pair_serve alice
    gw bob -q partner set ALICE --url "http://127.0.0.1:$ALICE_AS2/as2"
}

# Starts one side and waits until it says where it listens.
pair_serve() {
    local side=$1 pid tries=0 status
    # exec: the process that is ended later is the gateway itself, not a shell around it.
    (exec "$AS2GATE_BIN" -c "$PAIR_DIR/$side/as2gate.toml" serve) >>"$PAIR_DIR/$side/serve.log" 2>&1 &
    pid=$!
    PAIR_PIDS+=("$pid")
    until status=$(gw "$side" status -o json 2>/dev/null) && [ "$(json 'bool(it["listening"]["as2"])' <<<"$status" 2>/dev/null)" = True ]; do
        if ! kill -0 "$pid" 2>/dev/null || [ $((tries += 1)) -gt 300 ]; then
            echo "error: the gateway of ${side^^} did not start" >&2
            tail -n 20 "$PAIR_DIR/$side/serve.log" >&2
            return 1
        fi
        sleep 0.1
    done
    printf -v "${side^^}_SFTP" %s "$(json 'it["listening"]["sftp"][0].rsplit(":", 1)[1]' <<<"$status")"
    printf -v "${side^^}_AS2" %s "$(json 'it["listening"]["as2"][0].rsplit(":", 1)[1]' <<<"$status")"
    printf -v "${side^^}_PID" %s "$pid"
}

pair_stop() {
    [ ${#PAIR_PIDS[@]} -gt 0 ] || return 0
    kill "${PAIR_PIDS[@]}" 2>/dev/null || true
    wait "${PAIR_PIDS[@]}" 2>/dev/null || true
    PAIR_PIDS=()
}
