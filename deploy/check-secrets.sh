#!/bin/sh
# Stops the start with one line if a secret is missing: there are no default passwords. Arguments: other names to check.
set -eu
[ $# -gt 0 ] || set -- redis_password redis_admin_password api_keys link_secret internal_secret hook_token grafana_password
for name in "$@"; do
    if [ "$(wc -c <"/run/secrets/$name")" -lt 16 ]; then
        echo "kurir: secrets/$name is empty or shorter than 16 characters: run deploy/make-secrets.sh" >&2
        exit 2
    fi
done
echo "kurir: all secrets are present"
