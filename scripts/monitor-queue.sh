#!/bin/sh
# Shows the state of the queues with only curl and jq; `kurir monitor` shows more.
#   scripts/monitor-queue.sh [seconds between refreshes, 0 to print once (default 2)]
# KURIR_URL is the API's URL (default http://127.0.0.1:3000), KURIR_API_KEY a key with the scope `read`.
set -eu
url="${KURIR_URL:-http://127.0.0.1:3000}"
every="${1:-2}"

for tool in curl jq; do
    command -v "$tool" >/dev/null || { echo "monitor-queue.sh needs $tool" >&2; exit 2; }
done

ask() {
    if [ -n "${KURIR_API_KEY:-}" ]; then
        # pass the key by a file descriptor, so that the process list does not show it
        printf 'header = "Authorization: Bearer %s"\n' "$KURIR_API_KEY" | curl -fsS --max-time 10 -K - "$url$1"
    else
        curl -fsS --max-time 10 "$url$1"
    fi
}

look() {
    date '+%Y-%m-%d %H:%M:%S'
    ask /api/messages/stats | jq -r '
        (["channel", "waiting", "active", "delayed", "scheduled", "paused", "completed", "failed"]),
        (.stats.channels | to_entries[] | [.key, .value.waiting, .value.active, .value.delayed, .value.scheduled,
            .value.paused, .value.completed, .value.failed]) | @tsv' | column -t
    ask /api/channels | jq -r '.channels[] |
        if .paused then "\(.name) is paused: \(.paused)"
        elif .stats.waiting > 0 and (.senders | length) == 0 then "\(.name): \(.stats.waiting) messages wait, but no sender is running"
        elif .stats.waiting > 0 and ([.senders[] | select(.available)] | length) == 0
            then "\(.name): \(.stats.waiting) messages wait: \([.senders[].reason] | unique | join("; "))"
        else empty end'
    ask '/api/logs/messages?status=failed&limit=5' | jq -r '
        if (.logs | length) > 0 then "latest failures:" else empty end,
        (.logs[] | "  \(.updated_at) \(.job_id) \(.error_class // "-"): \(.error_message // "")")'
}

while :; do
    [ "$every" = 0 ] || printf '\033[H\033[2J'
    look || echo "no answer from $url"
    [ "$every" = 0 ] && break
    sleep "$every"
done
