#!/usr/bin/env bash
# Subscribes an endpoint and keeps its secret. Needs bash, curl and jq.
#
#     FOREWARN_URL=https://forewarn.example FOREWARN_KEY_FILE=key.txt \
#         ./subscribe.sh https://alerts.example.org/forewarn secret.txt '{"sectors": ["semiconductors"]}'
#
# Prints the subscription. Its secret is shown once, so it goes to a file that only you can read and is not printed.
# Start your receiver first: the endpoint is asked for its consent at once.
set -euo pipefail

fail() { echo "$1" >&2; exit "${2:-1}"; }

[[ $# -eq 2 || $# -eq 3 ]] || fail "Usage: subscribe.sh URL SECRET_FILE [FILTER]" 2
for tool in curl jq; do
    command -v "$tool" >/dev/null || fail "$tool is needed and is not here." 2
done
: "${FOREWARN_URL:?Say where Forewarn is, such as https://forewarn.example}"
: "${FOREWARN_KEY_FILE:?Say which file holds the API key, fw_...}"
[[ ! -s $2 ]] || fail "$2 holds a secret already; it is not overwritten."

body=$(jq -cn --arg url "$1" --argjson filter "${3:-"{}"}" '{$url, $filter}')
umask 077
: >"$2" # Before asking: a secret that cannot be kept is lost.
# The key goes in by standard input: what is on a command line, everyone on the machine can read.
# A redirect is not followed: the key would go along.
answer=$(printf 'header = "Authorization: Bearer %s"\n' "$(<"$FOREWARN_KEY_FILE")" |
    curl --config - --silent --show-error --max-time 30 --write-out '\n%{http_code}' \
        --header 'Content-Type: application/json' --data-binary "$body" "${FOREWARN_URL%/}/v1/subscriptions")
status=${answer##*$'\n'}
answer=${answer%$'\n'*}
[[ $status == 201 ]] || fail "$FOREWARN_URL answered $status: $answer"

jq -r .secret <<<"$answer" >"$2"
jq 'del(.secret)' <<<"$answer"
