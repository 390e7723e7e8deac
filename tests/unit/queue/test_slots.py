"""The slot of a command, by which a cluster's client sends it."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from shared.channels import CHANNELS
from shared.queue.keys import LimitKeys, PartitionKeys, place_of
from shared.queue.slots import SLOTS, CrossSlotError, slot_of, slot_of_command


@pytest.mark.parametrize(
    ("command", "tag"),
    [
        (("HGET", "{email}:a", "field"), "email"),
        (("HMGET", "{email.3}:blast:b", "a", "b"), "email.3"),
        (("DEL", "{email}:a", "{email}:b"), "email"),
        (("EVALSHA", "digest", 2, "{email.1}:bell", "{email.1}:none", "{other}:x"), "email.1"),
        (("EVAL", "source", 1, "receipts"), "receipts"),
        (("XREAD", "COUNT", 1, "BLOCK", 10, "STREAMS", "{a}:1", "0-0"), "a"),
        (("XREADGROUP", "GROUP", "streams", "c", "STREAMS", "{a}:1", "{a}:2", ">", ">"), "a"),
        (("XREADGROUP", b"GROUP", b"g", b"c", b"STREAMS", b"{a}:1", b">"), "a"),
        (("XINFO STREAM", "{receipts}:set_aside"), "receipts"),
        (("XINFO", "STREAM", "{receipts}:set_aside"), "receipts"),
        (("MEMORY USAGE", "gateway:events"), "gateway:events"),
        (("XGROUP CREATE", "{email}:events", "g", "0"), "email"),
    ],
)
def test_a_command_belongs_to_the_slot_of_its_keys(command: tuple[str | int, ...], tag: str) -> None:
    """Its other words, which may look like keys, do not matter."""
    assert slot_of_command(command) == slot_of(tag)


def test_a_command_without_a_key_belongs_to_no_slot() -> None:
    """Any node may answer it."""
    assert [slot_of_command(command) for command in (("INFO", "memory"), ("PING",), ("WAIT", 1, 100))] == [None] * 3


@pytest.mark.parametrize(
    "command",
    [
        ("DEL", "{email}:a", "{email.1}:a"),
        ("EVAL", "source", 2, "a", "b"),
        ("XREAD", "STREAMS", "a", "b", "0", "0"),
        ("SCAN", 0),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("MIGRATE", "host", 6379, "key", 0, 1000),
    ],
)
def test_a_command_for_two_slots_or_an_unknown_one_is_refused(command: tuple[str | int, ...]) -> None:
    """Before it is sent: it is a defect of the caller, and would fail on a cluster only."""
    with pytest.raises(CrossSlotError):
        slot_of_command(command)


def test_each_partition_and_its_limits_have_a_slot() -> None:
    """All keys of a partition share one; those of the limits have their own."""
    tags = [PartitionKeys("email", index) for index in range(64)] + [LimitKeys("email")]
    assert [keys.tag for keys in (tags[0], tags[1], tags[-1])] == ["{email}", "{email.1t}", "{email.limits}"]
    for keys in tags:
        own = key_slot(keys.tag[1:-1].encode())
        assert {slot_of(key) for key in (*keys.routing, keys.events, keys.bulk("b"), keys.blast("{b}"))} == {own}
    assert len({slot_of(keys.bell) for keys in tags}) > 60


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(("masters", "each"), [(3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (4, 4), (6, 2), (6, 3)])
def test_partitions_are_spread_evenly_over_the_masters_of_a_new_cluster(channel: str, masters: int, each: int) -> None:
    """Masters have equal ranges of slots; with a multiple of their number each has as many partitions."""
    slots = [slot_of(PartitionKeys(channel, index).tag) for index in range(masters * each)]
    assert sorted(slot * masters // SLOTS for slot in slots) == sorted([*range(masters)] * each)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_key_names_its_partition(channel: str) -> None:
    """Whatever letter its tag has, for each of the most partitions that there may be; other keys name none."""
    every = [PartitionKeys(channel, index) for index in range(64)]
    assert [place_of(keys.events) for keys in every] == [(channel, index) for index in range(64)]
    assert len({slot_of(keys.tag) for keys in every}) == 64
    assert place_of("gateway:events") == ("", 0)
    assert place_of(PartitionKeys("webhook", 123).events) == ("webhook", 123)
