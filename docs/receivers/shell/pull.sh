#!/usr/bin/env bash
# Pulls the events of a subscription that a folder does not hold yet, and says their sequences. Needs bash 4, curl and jq.
#
#     FOREWARN_URL=https://forewarn.example FOREWARN_KEY_FILE=key.txt ./pull.sh sub_0a1b2c3d4e5f60718293 inbox
#
# inbox/0000000004.msg_0a1b2c3d4e5f60718293_4.json is the event with sequence 4: the same names as those of
# node/receiver.mjs, whose inbox it can fill. Run it by cron beside a receiver, or instead of one.
set -euo pipefail
export LC_ALL=C

fail() { echo "$1" >&2; exit "${2:-1}"; }

[[ $# -eq 2 ]] || fail "Usage: pull.sh SUBSCRIPTION FOLDER" 2
for tool in curl jq; do
    command -v "$tool" >/dev/null || fail "$tool is needed and is not here." 2
done
: "${FOREWARN_URL:?Say where Forewarn is, such as https://forewarn.example}"
: "${FOREWARN_KEY_FILE:?Say which file holds the API key, fw_...}"
umask 077
mkdir -p "$2"
new=$(mktemp "$2/.new.XXXXXX")
trap 'rm -f "$new"' EXIT

# Sequences begin with 1 and have no gaps; so what is missing begins behind the first one that is not here.
after=0
while compgen -G "$2/$(printf '%010d' $((after + 1))).*.json" >/dev/null; do
    after=$((after + 1))
done

while [[ $after != null ]]; do
    # The key goes in by standard input: what is on a command line, everyone on the machine can read.
    # A redirect is not followed: the key would go along.
    page=$(printf 'header = "Authorization: Bearer %s"\n' "$(<"$FOREWARN_KEY_FILE")" |
        curl --config - --silent --show-error --max-time 30 --write-out '\n%{http_code}' \
            "${FOREWARN_URL%/}/v1/subscriptions/$1/events?limit=200&after=$after")
    status=${page##*$'\n'}
    page=${page%$'\n'*}
    [[ $status == 200 ]] || fail "$FOREWARN_URL answered $status: $page"
    while IFS=$'\t' read -r sequence id event; do
        [[ $sequence =~ ^[0-9]+$ && $id =~ ^[A-Za-z0-9_-]+$ ]] || fail "The service gave an id that is none: $id"
        printf '%s' "$event" >"$new"
        sync "$new"
        name="$2/$(printf '%010d' "$sequence").$id.json"
        # A link appears whole or not at all, and only one can: who comes second, we or a receiver, changes nothing.
        if [[ ! -e $name ]]; then
            if ln "$new" "$name" 2>/dev/null; then
                echo "$sequence"
            elif [[ ! -e $name ]]; then
                fail "$name cannot be written."
            fi
        fi
        rm "$new"
    done < <(jq -r '.items[] | "\(.sequence)\t\(.id)\t\(del(.id) | tojson)"' <<<"$page")
    after=$(jq -r .next <<<"$page")
done
