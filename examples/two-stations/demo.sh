#!/usr/bin/env bash
# The main job, to watch: ALICE puts three files with OpenSSH's sftp, her gateway signs, encrypts and posts them, BOB's
# opens and files them and answers with signed receipts, and what BOB fetches is compared byte for byte.
# Exit status 0 only if every byte and every MIC agreed. Everything stays under target/demo to be looked at.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

"$root/.ci/prerequisites" sftp python3
: "${AS2GATE_BIN:=${CARGO_TARGET_DIR:-$root/target}/release/as2gate}"
if [ ! -x "$AS2GATE_BIN" ]; then
    printf 'error: %s is not there\nhint:  make build\n' "$AS2GATE_BIN" >&2
    exit 1
fi
export AS2GATE_BIN
# shellcheck source=pair.sh
source "$here/pair.sh"
trap pair_stop EXIT
trap 'exit 130' INT TERM

BIG_MIB=${DEMO_BIG_MIB:-100}
PATIENCE=100 # seconds until every message has to be final
dir=${DEMO_DIR:-${CARGO_TARGET_DIR:-$root/target}/demo}

bold='' green='' red='' dim='' plain=''
if [ -t 1 ]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'
fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
ok() { printf '  %sok%s  %s\n' "$green" "$plain" "$*"; }
wrong() {
    printf '  %sNO%s  %s\n' "$red" "$plain" "$*"
    failures=$((failures + 1))
}
# A path as one would type it here.
short() { realpath --relative-base="$PWD" "$1"; }
failures=0
began=$SECONDS

title "1  Two gateways, two stations"
rm -rf "$dir"
mkdir -p "$dir"
pair_set_up "$dir"
pair_start
ok "ALICE  sftp 127.0.0.1:$ALICE_SFTP   as2 http://127.0.0.1:$ALICE_AS2/as2   process $ALICE_PID"
ok "BOB    sftp 127.0.0.1:$BOB_SFTP   as2 http://127.0.0.1:$BOB_AS2/as2   process $BOB_PID"
ok "each has its own keys, the other's certificate, and an SFTP user with a generated key"

title "2  ALICE's ERP puts three files with OpenSSH's sftp"
cp "$here"/edi/* "$dir/"
head -c "${BIG_MIB}M" /dev/urandom >"$dir/drawings-2026-11.bin"
files=(850-po-4500017342.x12 ORDERS-4500017388.edifact drawings-2026-11.bin)
for file in "${files[@]}"; do
    echo "put \"$dir/$file\" AS2/send/ALICE/BOB/"
done | ftp alice >"$dir/put.log" || {
    wrong "the upload was refused; the end of ALICE's log:"
    tail -n 5 "$dir/alice/serve.log"
    exit 1
}
for file in "${files[@]}"; do
    ok "$(printf '%-28s %11d bytes   AS2/send/ALICE/BOB/' "$file" "$(stat -c %s "$dir/$file")")"
done

title "3  Signed, encrypted, posted, opened, verified, filed, receipted"
posted=$SECONDS
until gw alice message list -o json >"$dir/alice.json" && gw bob message list -o json >"$dir/bob.json" &&
    [ "$(json 'sum(m["state"] in ("delivered", "failed") for m in it)' <"$dir/alice.json")" -ge ${#files[@]} ]; do
    if [ $((SECONDS - posted)) -gt "$PATIENCE" ]; then
        wrong "after $PATIENCE s not every message is final"
        break
    fi
    sleep 0.2
done
printf '\nALICE: as2gate message list\n'
gw alice message list -o table
printf '\nBOB: as2gate message list\n'
gw bob message list -o table

mkdir -p "$dir/fetched"
title "4  BOB's ERP fetches from the inbox; bytes and MICs are compared"
# id FILE SIDE: the one message of that file.
id() { json "next((m['id'] for m in it if m['file'] == '$1'), '')" <"$dir/$2.json"; }
for file in "${files[@]}"; do
    sent=$(id "$file" alice) received=$(id "$file" bob)
    if [ -z "$sent" ] || [ -z "$received" ]; then
        wrong "$file did not arrive"
        continue
    fi
    echo "get \"AS2/files/BOB/ALICE/inbox/$received/$file\" \"$dir/fetched/$file\"" | ftp bob >"$dir/get.log" || true
    echo "get \"AS2/raw-mdn/incoming/$sent.mdn\" \"$dir/fetched/$file.mdn\"" | ftp alice >>"$dir/get.log" || true
    if ! cmp -s "$dir/$file" "$dir/fetched/$file"; then
        wrong "$file: what BOB fetched differs from what ALICE put"
        continue
    fi
    gw alice message show "$sent" -o json >"$dir/sent.json"
    gw bob message show "$received" -o json >"$dir/received.json"
    if mic=$(python3 "$here/receipt.py" check "$dir/fetched/$file.mdn" "$dir/sent.json" "$dir/received.json"); then
        ok "$(printf '%-26s same bytes   sent, received and receipted MIC %s' "$file" "$mic")"
    else
        wrong "$file: $mic"
    fi
done

title "5  One of the receipts, as BOB's gateway signed it"
python3 "$here/receipt.py" show "$dir/fetched/${files[0]}.mdn" || failures=$((failures + 1))

title "6  Where everything lies"
first=$(id "${files[0]}" alice) last=$(id "${files[0]}" bob)
# place DIR PATH WORDS: a file that has to be there.
place() { if [ -e "$1/$2" ]; then printf '    %-22s %s%s%s\n' "$3" "$dim" "$2" "$plain"; else wrong "$3: $1/$2 is not there"; fi; }
tree=$dir/alice/data/tree/mftg-alice/AS2
printf '  ALICE  %s\n' "$(short "$tree")"
place "$tree" "files/ALICE/BOB/outbox/$first/${files[0]}" "file as sent"
place "$tree" "raw-message/ALICE/BOB/outbox/$first/message.as2" "bytes on the wire"
place "$tree" "headers/ALICE/BOB/outbox/$first/headers.txt" "HTTP headers"
place "$tree" "raw-mdn/incoming/$first.mdn" "signed receipt"
tree=$dir/bob/data/tree/mftg-bob/AS2
printf '  BOB    %s\n' "$(short "$tree")"
place "$tree" "files/BOB/ALICE/inbox/$last/${files[0]}" "file as received"
place "$tree" "raw-message/BOB/ALICE/inbox/$last/message.as2" "bytes on the wire"
place "$tree" "raw-mdn/outgoing/$last.mdn" "the receipt it gave"
printf '  Logs   %s   %s\n' "$(short "$dir/alice/serve.log")" "$(short "$dir/bob/serve.log")"

printf '\nTo go on by yourself:\n'
printf '  %s -c %s message show %s\n' "$(short "$AS2GATE_BIN")" "$(short "$dir/alice/as2gate.toml")" "${first##*-}"
printf '  %s -c %s serve\n' "$(short "$AS2GATE_BIN")" "$(short "$dir/alice/as2gate.toml")"

if [ "$failures" -gt 0 ]; then
    title "${red}$failures things were wrong${plain}; the logs are named above"
    exit 1
fi
title "${green}All bytes and all MICs agreed${plain} ($((SECONDS - began)) s)"
