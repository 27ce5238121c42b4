#!/usr/bin/env bash
# Verifies one captured request: 0 if it is Forewarn's and fresh, 1 with one sentence if not, 2 if it could not
# be asked. Needs bash 4 and openssl.
#
#     ./verify.sh secret.txt headers.txt body.bin               is it fresh now?
#     ./verify.sh secret.txt headers.txt body.bin 1772875805    was it fresh when it came? (seconds since 1970)
#
# headers.txt holds a `Name: value` a line, body.bin the bytes of the body as they came: not pretty-printed, with
# no newline added. For looking into a request by hand, and for receivers that are themselves scripts.
# While openssl runs, other users of the machine can read the key in the list of processes.
set -euo pipefail
export LC_ALL=C # Bytes are bytes.

refuse() { echo "Refused: $1" >&2; exit 1; }
fail() { echo "$1" >&2; exit 2; }

[[ $# -eq 3 || $# -eq 4 ]] || fail "Usage: verify.sh SECRET_FILE HEADERS_FILE BODY_FILE [SECONDS]"
command -v openssl >/dev/null || fail "openssl is needed and is not here."
for file in "$1" "$2" "$3"; do
    [[ -r $file ]] || fail "$file cannot be read."
done
now=${4:-$(date +%s)}
[[ $now =~ ^[0-9]{1,12}$ ]] || fail "$now is not a number of seconds."

# The value of a header, whatever the case of its name, without the spaces and the CR around it; the first if repeated.
header() {
    local name value
    while IFS=: read -r name value || [[ -n $name ]]; do
        if [[ ${name,,} == "$1" ]]; then
            value=${value%$'\r'}
            value=${value#"${value%%[! ]*}"}
            printf '%s' "${value%"${value##*[! ]}"}"
            return
        fi
    done <"$2"
}
id=$(header webhook-id "$2")
timestamp=$(header webhook-timestamp "$2")
signatures=$(header webhook-signature "$2")

[[ -n $id && -n $timestamp && -n $signatures ]] || refuse "one of webhook-id, webhook-timestamp and webhook-signature is missing."
[[ $timestamp =~ ^[0-9]{1,12}$ ]] || refuse "the webhook-timestamp is not a number of seconds."
off=$((now - 10#$timestamp)) # 10#: a leading 0 does not make it octal.
[[ ${off#-} -le 300 ]] || refuse "the webhook-timestamp is more than five minutes off."

read -r -a offered <<<"$signatures" # Several while the secret is being changed, and perhaps of unknown versions.
asked=0
while read -r secret || [[ -n $secret ]]; do
    [[ -n $secret ]] || continue
    # The key is bytes, zeros among them, which no variable of the shell can hold: so it goes on in hexadecimal.
    key=$(printf '%s' "${secret#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n') || key=
    [[ $secret == whsec_* && -n $key ]] || fail "A secret is whsec_ and a key in base64, as POST /v1/subscriptions gave it."
    expected=$({ printf '%s.%s.' "$id" "$timestamp" && cat "$3"; } |
        openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A) || fail "openssl failed."
    # This comparison ends at the first character that differs. A server that a forger can ask a million times must
    # not do that (the other examples do not); of a process started for one captured file he learns nothing.
    for one in "${offered[@]}"; do
        [[ $one != "v1,$expected" ]] || exit 0
    done
    asked=$((asked + 1))
done <"$1"
[[ $asked -gt 0 ]] || fail "There is no secret in $1."
refuse "no signature fits."
