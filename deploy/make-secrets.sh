#!/bin/sh
# Creates the secrets that docker-compose.yml mounts: a random value for each missing file. Existing files stay.
# Other users of this machine cannot open the folder; the containers' users can read the files.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-secrets}

random() {
    LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 40
}

keep() { # keep NAME TEXT
    [ -e "$folder/$1" ] && return
    printf '%s\n' "$2" >"$folder/$1"
    chmod 0444 "$folder/$1"
    echo "created $folder/$1"
}

mkdir -p "$folder"
chmod 0700 "$folder"
keep redis_password "$(random)"
keep redis_admin_password "$(random)"
keep postgres_password "$(random)"
keep api_keys "default:$(random):send+read+admin"
keep link_secret "$(random)"
keep internal_secret "$(random)"
keep hook_token "$(random)"
keep grafana_password "$(random)"
# for a provider's credentials: write them into these files before you name the files in .env
keep smtp_url ""
keep qiscus_secret_key ""
keep meta_access_token ""
keep dkim_private_key ""
