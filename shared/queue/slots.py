"""Which slot of a cluster a command belongs to; one for two slots, or one that is not known, is an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.crc import key_slot

SLOTS = 16384

_NO_KEY = frozenset({"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "INFO", "PING", "SCRIPT", "TIME", "WAIT"})
_EVERY_KEY = frozenset({"DEL", "EXISTS", "UNLINK"})
# the key follows the subcommand
_CONTAINERS = frozenset({"MEMORY", "OBJECT", "XGROUP", "XINFO"})
_FIRST_KEY = frozenset(
    {
        *("DUMP", "EXPIRE", "GET", "INCR", "PERSIST", "PEXPIRE", "PTTL", "RESTORE", "SET", "TTL", "TYPE"),
        *("HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HLEN", "HMGET", "HSCAN", "HSET", "HSETNX"),
        *("SADD", "SCARD", "SISMEMBER", "SMEMBERS", "SREM", "SSCAN"),
        *("XACK", "XADD", "XCLAIM", "XDEL", "XLEN", "XPENDING", "XRANGE", "XREVRANGE", "XTRIM"),
        *("ZADD", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZRANK", "ZREM", "ZSCAN", "ZSCORE"),
    }
)


class CrossSlotError(ValueError):
    """A command names keys of several slots, or cannot be assigned to one: a defect of the caller."""


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key: that of its hash tag, if it has one."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def slot_of_command(args: Sequence[Any]) -> int | None:
    """Return the slot of a command, None if it has no key; raises CrossSlotError."""
    slots = {slot_of(key) for key in _keys(args)}
    if len(slots) > 1:
        raise CrossSlotError(f"{args[0]} names keys of {len(slots)} slots")
    return slots.pop() if slots else None


def _keys(args: Sequence[Any]) -> Sequence[Any]:
    name, _, subcommand = str(args[0]).upper().partition(" ")
    if name in _NO_KEY:
        return ()
    if name in _FIRST_KEY:
        return args[1:2]
    if name in _EVERY_KEY:
        return args[1:]
    if name in {"EVAL", "EVALSHA"}:
        return args[3 : 3 + int(args[2])]
    if name in _CONTAINERS:
        return args[1:2] if subcommand else args[2:3]
    if name in {"XREAD", "XREADGROUP"}:
        options = args[4:] if name == "XREADGROUP" else args[1:]  # after GROUP, group and consumer
        after = options[next(at for at, word in enumerate(options) if word in {"STREAMS", b"STREAMS"}) + 1 :]
        return after[: len(after) // 2]
    raise CrossSlotError(f"{name} has no place in a cluster: ask one of its nodes")
