"""INFO of a Redis that would lose jobs, as servers and managed services return it."""

from __future__ import annotations

import pytest

from shared.queue.safety import REASONS, judge

SAFE = {
    "redis_version": "7.4.1",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
}


@pytest.mark.parametrize(
    ("changes", "appendfsync", "reasons"),
    [
        ({}, "always", []),
        ({}, "everysec", []),
        ({}, "no", ["fsync"]),
        ({"maxmemory_policy": "allkeys-lru"}, "always", ["eviction"]),
        ({"maxmemory_policy": "volatile-lfu"}, "always", ["eviction"]),
        ({"aof_enabled": 0}, "always", ["append_only_file"]),
        ({"aof_enabled": 0}, "no", ["append_only_file"]),
        ({"aof_last_write_status": "err"}, "always", ["write_failing"]),
        ({"redis_version": "7.0.4"}, "always", ["version"]),
        ({"redis_version": "6.2.14"}, "always", ["version"]),
        ({"redis_version": "7.0.5"}, "always", []),
        ({"redis_version": "7.1"}, "always", []),
        ({"redis_version": "255.255.255"}, "always", []),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.8"}, "always", ["version"]),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.0"}, "always", []),
        ({"redis_version": "unstable"}, "always", []),
        ({"maxmemory_policy": "allkeys-lru", "aof_enabled": 0, "redis_version": "5.0"}, "",
         ["version", "eviction", "append_only_file"]),
    ],
)  # fmt: skip
def test_each_danger_is_named(changes: dict[str, object], appendfsync: str, reasons: list[str]) -> None:
    """It is reported with its reason, a text and advice."""
    found = judge(SAFE | changes, appendfsync)
    assert [danger.reason for danger in found.dangers] == reasons
    assert all(danger.what and danger.advice for danger in found.dangers)
    assert bool(found.notes) == (appendfsync == "everysec")


def test_missing_fields_are_unchecked() -> None:
    """Managed services omit fields and forbid CONFIG: that is not a danger, and it is unchecked."""
    assert judge({}, "").unchecked == ("version", "eviction", "append_only_file", "write_failing")
    assert judge(SAFE, "").unchecked == ("fsync",)
    assert judge(SAFE, "always").unchecked == ()
    assert not judge({}, "").dangers
    assert set(REASONS) >= {"version", "eviction"}
