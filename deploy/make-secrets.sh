#!/bin/sh
# Makes the secrets that docker-compose.yml mounts: a random one for each file that is missing; what exists stays.
# The folder is closed to other users of this machine; the files are open to the containers' own users.
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
    echo "made $folder/$1"
}

mkdir -p "$folder"
chmod 0700 "$folder"
keep redis_password "$(random)"
keep redis_admin_password "$(random)"
keep api_keys "default:$(random):send+read+admin"
keep link_secret "$(random)"
keep internal_secret "$(random)"
keep grafana_password "$(random)"
# what a provider gave you: write it into these before you name them in .env
keep smtp_url ""
keep qiscus_secret_key ""
keep dkim_private_key ""
