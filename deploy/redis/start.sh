#!/bin/sh
# Starts Redis with Kurir's users. Their passwords come from files; Redis gets only the hashes.
# With REDIS_NODE, its own host name, it is a node of a cluster (docker-compose.cluster.yml).
set -eu

hash_of() {
    secret=$(cat "/run/secrets/$1" 2>/dev/null || :)
    if [ "${#secret}" -lt 16 ]; then
        echo "redis: secrets/$1 is missing or shorter than 16 characters: run deploy/make-secrets.sh" >&2
        exit 2
    fi
    printf %s "$secret" | sha256sum | cut -d ' ' -f 1
}

kurir=$(hash_of redis_password)
admin=$(hash_of redis_admin_password)
sed -e "s/KURIR_SHA256/$kurir/" -e "s/ADMIN_SHA256/$admin/" /etc/kurir/users.acl >/tmp/users.acl
set -- /etc/kurir/redis.conf --aclfile /tmp/users.acl --maxmemory "${REDIS_MAXMEMORY:-512mb}"
if [ -n "${REDIS_NODE:-}" ]; then
    # replicas log in at their masters, in a file: arguments are visible to all processes
    umask 077
    { cat /etc/kurir/redis.conf /etc/kurir/cluster.conf
      printf 'masteruser admin\nmasterauth %s\n' "$(cat /run/secrets/redis_admin_password)"
    } >/tmp/redis.conf
    shift
    set -- /tmp/redis.conf "$@" --cluster-announce-hostname "$REDIS_NODE"
fi
exec redis-server "$@"
