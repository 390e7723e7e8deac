#!/bin/sh
# Succeeds if Redis answers its user, and, as a node of a cluster, if the cluster is made and serves.
set -eu
ask() { # ask USER SECRET COMMAND…
    user=$1 REDISCLI_AUTH=$(cat "/run/secrets/$2")
    export REDISCLI_AUTH
    shift 2
    redis-cli --user "$user" --no-auth-warning "$@"
}
ask kurir redis_password ping | grep -q PONG
[ -z "${REDIS_NODE:-}" ] || ask admin redis_admin_password cluster info | grep -q cluster_state:ok
