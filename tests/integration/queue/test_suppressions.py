"""Suppressions: an address is suppressed in every spelling, however the suppression was spelled."""

from __future__ import annotations

from typing import Any

import pytest

from shared.jobs import Recipient
from shared.queue.doctor import Doctor
from shared.queue.suppressions import Suppressions
from tests.integration.queue.world import World

KEY = "{email}:suppressed"


async def stored(world: World) -> dict[str, str]:
    """Return what the server holds, by address."""
    redis: Any = world.redis
    return {field.decode(): reason.decode() for field, reason in (await redis.hgetall(KEY)).items()}


async def store(world: World, suppressed: dict[str, str]) -> None:
    """Store suppressions as earlier versions did: as they are spelled."""
    redis: Any = world.redis
    await redis.hset(KEY, mapping=suppressed)


async def words(world: World, address: str, **changes: Any) -> list[str]:
    """Enqueue one job to an address and try to begin it."""
    await world.enqueue(await world.blast(1), recipient=Recipient(address, "R"), **changes)
    sender = await world.sender()
    return [grant.kind for grant in await sender.begin(await sender.fetch())]


@pytest.mark.parametrize(
    ("suppressed", "sent_to"),
    [
        ("Siti@Example.com", "siti@example.com"),
        ("siti@example.com", "SITI@example.com"),
        ("siti@münchen.de", "Siti@xn--mnchen-3ya.de"),
        ("siti@xn--mnchen-3ya.de", "siti@münchen.de"),
        ("5215512345678", "525512345678"),
        ("5581987654321", "558187654321"),
    ],
)
async def test_a_suppression_stops_every_spelling(suppressed: str, sent_to: str, world: World) -> None:
    """A bounce in one spelling stops messages to another."""
    assert await Suppressions(world.redis).add("email", suppressed, "hard_bounce: 550")
    assert await words(world, sent_to) == ["suppressed"]
    assert await words(world, "someone.else@example.com") == ["granted"]


async def test_a_suppression_is_found_and_lifted_in_any_spelling(world: World) -> None:
    """A second spelling adds nothing, and lifts what the first added."""
    suppressions = Suppressions(world.redis)
    assert await suppressions.add("email", "Siti@Example.com", "manual")
    assert not await suppressions.add("email", "siti@example.com", "other")
    assert await suppressions.get("email", "SITI@EXAMPLE.COM") == "manual"
    assert await suppressions.remove("email", "siti@Example.com")
    assert await stored(world) == {}


async def test_suppressions_of_earlier_versions_are_moved(world: World) -> None:
    """What was stored as it was spelled is found under the identity; of two reasons a hard bounce stays."""
    old = {
        "Siti@example.com": "unsubscribed",
        "Budi@example.com": "hard_bounce: 550 5.1.1",
        "budi@example.com": "manual",
        "wati@münchen.de": "manual",
        "ani@example.com": "manual",
    }
    await store(world, old)
    suppressions = Suppressions(world.redis)
    assert await suppressions.unify("email") == 3
    assert await stored(world) == {
        "siti@example.com": "unsubscribed",
        "budi@example.com": "hard_bounce: 550 5.1.1",
        "wati@xn--mnchen-3ya.de": "manual",
        "ani@example.com": "manual",
    }
    assert await suppressions.unify("email") == 0


async def test_many_suppressions_are_moved(world: World) -> None:
    """More than one page of them, none is lost."""
    await store(world, {f"Reader{i}@example.com": "unsubscribed" for i in range(5000)})
    await Suppressions(world.redis).unify("email")
    assert await stored(world) == {f"reader{i}@example.com": "unsubscribed" for i in range(5000)}


async def test_an_old_spelling_is_lifted_before_it_is_moved(world: World) -> None:
    """An id given out for the old spelling still lifts the suppression."""
    await store(world, {"Siti@example.com": "manual"})
    assert await Suppressions(world.redis).remove("email", "Siti@example.com")
    assert await stored(world) == {}


async def test_the_doctor_finds_old_spellings(world: World) -> None:
    """Without repair they are counted, with it moved."""
    await store(world, {"Siti@example.com": "manual"})
    for repair, left in ((False, "Siti@example.com"), (True, "siti@example.com")):
        found = await Doctor(world.redis, "email", "doctor", repair=repair).examine()
        assert [(one.what, one.count, one.repaired) for one in found] == [
            ("suppressions that are not under the identity of their address", 1, repair)
        ]
        assert await stored(world) == {left: "manual"}
