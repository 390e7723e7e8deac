#!/bin/sh
# Makes a cluster of the nodes named as arguments: the first half are masters, the others their replicas, in that order.
# Run it at each start: nodes whose addresses have changed find each other again, and a cluster that exists stays as it is.
set -eu
SLOTS=16384
REDISCLI_AUTH=$(cat /run/secrets/redis_admin_password)
export REDISCLI_AUTH

at() { # at NODE COMMAND…
    node=$1
    shift
    redis-cli -h "$node" --user admin --no-auth-warning "$@"
}

until_true() { # until_true WHAT COMMAND…
    what=$1
    shift
    for _ in $(seq 120); do
        "$@" && return
        sleep 1
    done
    echo "make-cluster: not within 120 s: $what" >&2
    exit 1
}

answers() { at "$1" PING 2>/dev/null | grep -q PONG; }
says() { at "$1" CLUSTER INFO 2>/dev/null | tr -d '\r' | grep -qx "$2"; }
has_replica_data() { at "$1" INFO replication | tr -d '\r' | grep -qx master_link_status:up; }

first=$1
masters=$(($# / 2))
for node in "$@"; do
    until_true "$node to answer" answers "$node"
done
for node in "$@"; do
    address=$(getent hosts "$node" | cut -d ' ' -f 1 | head -n 1)
    [ "$node" = "$first" ] || at "$first" CLUSTER MEET "$address" 6379 >/dev/null
done
for node in "$@"; do
    until_true "$node to know the others" says "$node" "cluster_known_nodes:$#"
done
if says "$first" cluster_slots_assigned:0; then
    number=0
    for node in "$@"; do
        number=$((number + 1))
        [ "$number" -gt "$masters" ] && break
        from=$(((number - 1) * SLOTS / masters))
        to=$((number * SLOTS / masters - 1))
        at "$node" CLUSTER ADDSLOTSRANGE "$from" "$to" >/dev/null
        at "$node" CLUSTER SET-CONFIG-EPOCH "$number" >/dev/null || :
    done
    number=0
    for node in "$@"; do
        number=$((number + 1))
        [ "$number" -le "$masters" ] && continue
        eval "master=\${$((number - masters))}"
        at "$node" CLUSTER REPLICATE "$(at "$master" CLUSTER MYID)" >/dev/null
        until_true "$node to have the data of $master" has_replica_data "$node"
    done
fi
for node in "$@"; do
    until_true "$node to serve" says "$node" cluster_state:ok
done
echo "the cluster is complete: $*"
