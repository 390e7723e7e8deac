#!/bin/sh
# Makes a cluster of the nodes named as arguments: the first half are masters, the others their replicas, in that order.
# A cluster that exists stays as it is. It then stays to join nodes again whose addresses have changed: nodes find each other
# by their addresses, and containers may get others at each start. `--healthy` asks whether it has made the cluster.
set -eu
MADE=/tmp/made
[ "$1" != --healthy ] || exec test -e "$MADE"
SLOTS=16384
WATCH_S=5
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

sees() { # sees NODE NUMBER: it has a link to that many nodes, itself included, and takes none for failed
    seen=$(at "$1" CLUSTER NODES 2>/dev/null) || return 1
    [ "$(echo "$seen" | grep -c .)" -eq "$2" ] && ! echo "$seen" | grep -Eq '[ ,](fail\??|handshake|noaddr)[ ,]| disconnected'
}

# A replica may learn its master's new address from others and still call the former one: it is told to follow it again.
follows() { # follows NODE: it is a master, or has the data of its master
    said=$(at "$1" INFO replication 2>/dev/null | tr -d '\r') || return 1
    ! echo "$said" | grep -qx 'role:master\|master_link_status:up' || return 0
    seen=$(at "$1" CLUSTER NODES 2>/dev/null) || return 1
    master=$(echo "$seen" | sed -n 's/.*[ ,]myself[^ ]* \([^ ]*\) .*/\1/p')
    address=$(echo "$seen" | sed -n "s/^$master \(.*:[0-9]*\)@.*/\1/p")
    called=$(echo "$said" | sed -n 's/^master_host://p'):$(echo "$said" | sed -n 's/^master_port://p')
    [ "$called" = "$address" ] || at "$1" CLUSTER REPLICATE "$master" >/dev/null 2>&1 || :
    return 1
}

# One MEET is not enough: a node that does not know yet that another is away tells everybody its former address again.
all_are_joined() { # all_are_joined NODE…: introduces those that do not see all others to the first
    joined=true
    for node in "$@"; do
        sees "$node" "$#" && follows "$node" && continue
        joined=false
        address=$(getent hosts "$node" | cut -d ' ' -f 1 | head -n 1)
        [ "$node" = "$first" ] || [ -z "$address" ] || at "$first" CLUSTER MEET "$address" 6379 >/dev/null 2>&1 || :
    done
    "$joined"
}

first=$1
masters=$(($# / 2))
for node in "$@"; do
    until_true "$node to answer" answers "$node"
done
until_true "all nodes to find each other" all_are_joined "$@"
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
touch "$MADE"
trap exit TERM
apart=false
while sleep "$WATCH_S"; do
    if all_are_joined "$@"; then
        apart=false
    elif ! "$apart"; then
        echo "some nodes do not see all others, or have no data; joining them again until they do"
        apart=true
    fi
done
