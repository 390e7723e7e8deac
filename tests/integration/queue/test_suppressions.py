"""Suppressions: an address is suppressed in every spelling, whichever spelling was suppressed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shared.jobs import Recipient
from shared.queue.doctor import Doctor
from shared.queue.suppressions import Listed, Place, Suppressions
from shared.suppressions import Suppression, pack_suppression, unpack_suppressions
from tests.integration.queue.world import World

PARTITIONS = (4,)

KEY = "{email}:suppressed"
BOUNCE = Suppression(
    "all", "bounce", "hard_bounce: 550 5.1.1", 1000, job_id="b:0:email", words="550 5.1.1 no such user"
)
MANUAL = Suppression("all", "api", "manual", 1000)
OPT_OUT = Suppression("marketing", "unsubscribe", "unsubscribed", 1000)


async def stored(world: World) -> dict[str, str]:
    """Return the stored suppressions, by address."""
    redis: Any = world.redis
    rows = (await redis.hgetall(KEY)).items()
    return {field.decode(): ", ".join(one.reason for one in unpack_suppressions(value)) for field, value in rows}


async def store(world: World, suppressed: dict[str, str]) -> None:
    """Store suppressions as earlier versions did: under the spelling."""
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
    assert await Suppressions(world.redis).add("email", suppressed, BOUNCE) == "new"
    assert await words(world, sent_to) == ["suppressed"]
    assert await words(world, "someone.else@example.com") == ["granted"]


async def test_a_suppression_is_found_and_lifted_in_any_spelling(world: World) -> None:
    """A second spelling adds nothing, and lifts what the first added."""
    suppressions = Suppressions(world.redis)
    assert await suppressions.add("email", "Siti@Example.com", MANUAL) == "new"
    assert await suppressions.add("email", "siti@example.com", replace(MANUAL, reason="other")) == "kept"
    assert await suppressions.get("email", "SITI@EXAMPLE.COM") == [MANUAL]
    assert await suppressions.remove("email", "siti@Example.com")
    assert await stored(world) == {}


async def test_suppressions_of_earlier_versions_are_moved(world: World) -> None:
    """Suppressions stored under a spelling are found under the identity; of one scope the first stays."""
    old = {
        "Siti@example.com": "unsubscribed",
        "Budi@example.com": "hard_bounce: 550 5.1.1",
        "budi@example.com": "manual",
        "wati@münchen.de": "manual",
        "ani@example.com": "manual",
    }
    await store(world, old)
    suppressions = Suppressions(world.redis)
    assert await suppressions.rekey(world.partition) == 3
    assert await stored(world) == {
        "siti@example.com": "unsubscribed",
        "budi@example.com": "manual",
        "wati@xn--mnchen-3ya.de": "manual",
        "ani@example.com": "manual",
    }
    assert await suppressions.rekey(world.partition) == 0


async def test_many_suppressions_are_moved(world: World) -> None:
    """More than one page is moved, and none is lost."""
    await store(world, {f"Reader{i}@example.com": "unsubscribed" for i in range(5000)})
    await Suppressions(world.redis).rekey(world.partition)
    assert await stored(world) == {f"reader{i}@example.com": "unsubscribed" for i in range(5000)}


async def test_an_old_spelling_is_lifted_before_it_is_moved(world: World) -> None:
    """An id given out for the old spelling still lifts the suppression."""
    await store(world, {"Siti@example.com": "manual"})
    assert await Suppressions(world.redis).remove("email", "Siti@example.com")
    assert await stored(world) == {}


async def test_the_doctor_finds_old_spellings(world: World) -> None:
    """Without repair they are counted; with it they are moved."""
    await store(world, {"Siti@example.com": "manual"})
    for repair, left in ((False, "Siti@example.com"), (True, "siti@example.com")):
        found = await Doctor(world.partition, "doctor", repair=repair).examine()
        assert [(one.what, one.count, one.repaired) for one in found] == [
            ("suppressions that are not under the identity of their address", 1, repair)
        ]
        assert await stored(world) == {left: "manual"}


@pytest.mark.parametrize(
    ("reason", "kind", "outcomes"),
    [
        ("hard_bounce: 550 5.1.1", ("all", "bounce"), ("suppressed", "suppressed")),
        ("unsubscribed", ("marketing", "unsubscribe"), ("granted", "suppressed")),
        ("opted_out: 131050", ("marketing", "opt_out"), ("granted", "suppressed")),
        ("manual", ("all", "api"), ("suppressed", "suppressed")),
        ("asked by phone", ("all", "api"), ("suppressed", "suppressed")),
        ("", ("all", "api"), ("suppressed", "suppressed")),
    ],
)
async def test_reasons_of_earlier_versions_have_their_scope(
    reason: str, kind: tuple[str, str], outcomes: tuple[str, str], world: World
) -> None:
    """An earlier version stored only the reason; Python and the script derive the same scope from it."""
    await store(world, {"r@example.com": reason})
    (found,) = await Suppressions(world.redis).get("email", "r@example.com")
    assert (found.scope, found.source, found.reason, found.created_at_ms) == (*kind, reason, 0)
    assert [*await words(world, "r@example.com"), *await words(world, "r@example.com", marketing=True)] == [*outcomes]


@pytest.mark.parametrize(
    ("suppression", "transactional", "marketing"),
    [
        (MANUAL, "suppressed", "suppressed"),
        (OPT_OUT, "granted", "suppressed"),
        (replace(MANUAL, expires_at_ms=1), "granted", "granted"),
        (replace(OPT_OUT, expires_at_ms=1), "granted", "granted"),
        (replace(MANUAL, expires_at_ms=1 << 42), "suppressed", "suppressed"),
    ],
)
async def test_a_suppression_stops_its_scope_until_it_expires(
    suppression: Suppression, transactional: str, marketing: str, world: World
) -> None:
    """It stops all messages, or only marketing; none once it has expired."""
    redis: Any = world.redis
    await redis.hset(KEY, "r@example.com", b"\x91" + pack_suppression(suppression))
    assert await words(world, "r@example.com") == [transactional]
    assert await words(world, "r@example.com", marketing=True) == [marketing]


async def test_lifting_a_bounce_leaves_the_opt_out(world: World) -> None:
    """An address has a suppression of each scope, whichever came first, and each is lifted by itself."""
    suppressions = Suppressions(world.redis)
    for first, second in ((OPT_OUT, BOUNCE), (BOUNCE, OPT_OUT)):
        assert await suppressions.add("email", "r@example.com", first) == "new"
        assert await suppressions.add("email", "r@example.com", second) == "changed"
        assert await suppressions.get("email", "r@example.com") == [BOUNCE, OPT_OUT]
        assert await suppressions.remove("email", "r@example.com", "all") == 1
        assert await suppressions.get("email", "r@example.com") == [OPT_OUT]
        assert await suppressions.remove("email", "r@example.com") == 1
        assert await suppressions.remove("email", "r@example.com") == 0


async def test_the_longer_of_two_suppressions_stays(world: World) -> None:
    """Of equals the first stays; an expired one does not count."""
    suppressions, far = Suppressions(world.redis), 1 << 42
    week, month = replace(MANUAL, expires_at_ms=far), replace(MANUAL, expires_at_ms=far + 1, reason="month")
    ever = replace(MANUAL, reason="ever")
    for one, stored_as, kept in (
        (replace(MANUAL, expires_at_ms=1), "kept", []),
        (week, "new", [week]),
        (replace(week, reason="again"), "kept", [week]),
        (month, "changed", [month]),
        (week, "kept", [month]),
        (ever, "changed", [ever]),
        (month, "kept", [ever]),
        (BOUNCE, "kept", [ever]),
    ):
        assert await suppressions.add("email", "r@example.com", one) == stored_as
        assert await suppressions.get("email", "r@example.com") == kept


async def test_a_full_redis_takes_and_lifts_suppressions(world: World) -> None:
    """A hard bounce must be recorded, and a mistake undone, while Redis is full."""
    suppressions = Suppressions(world.redis)
    await world.given(50)
    await world.redis.config_set("maxmemory", "1mb")
    try:
        assert await suppressions.add("email", "r@example.com", BOUNCE) == "new"
        assert await suppressions.add("email", "r@example.com", OPT_OUT) == "changed"
        assert await suppressions.remove("email", "r@example.com") == 2
    finally:
        await world.redis.config_set("maxmemory", "0")


@pytest.mark.parametrize("many", [7, 3000])
async def test_pages_contain_every_suppression(many: int, world: World) -> None:
    """None is missed and no page is too long, for a small table, which Redis returns whole, and one that shrinks."""
    suppressions = Suppressions(world.redis)
    for start in range(0, many, 500):
        every = [(f"r{i}@example.com", MANUAL) for i in range(start, min(start + 500, many))]
        assert set(await suppressions.add_all("email", every)) == {"new"}
    await suppressions.add("email", "r3@example.com", OPT_OUT)
    found: list[Listed] = []
    place: Place | None = Place()
    while place is not None:
        rows, place = await suppressions.page("email", 2, place)
        assert len(rows) <= 2
        await suppressions.remove_all("email", rows)
        found += rows
    assert len({one.mark for one in found}) == many + 1
    assert await stored(world) == {}


async def test_a_search_finds_all_matches(world: World) -> None:
    """They are found however far apart they are; expired ones are not listed."""
    suppressions = Suppressions(world.redis)
    every = [(f"r{i}@example.com", MANUAL if i % 100 else BOUNCE) for i in range(1000)]
    for start in range(0, 1000, 500):
        await suppressions.add_all("email", every[start : start + 500])
    redis: Any = world.redis
    await redis.hset(KEY, "old@example.com", b"\x91" + pack_suppression(replace(BOUNCE, expires_at_ms=1)))
    rows, place = await suppressions.page("email", 50, matches=lambda one: one.suppression.source == "bounce")
    assert (len(rows), place) == (10, None)
    blocks = [block async for block in suppressions.every("email")]
    assert len({one.mark for block in blocks for one in block}) == 1000


async def test_expired_suppressions_are_deleted_when_a_sender_starts(world: World) -> None:
    """Only the expired one is deleted if its address has another."""
    redis: Any = world.redis
    over = pack_suppression(replace(MANUAL, expires_at_ms=1))
    await redis.hset(KEY, "a@example.com", b"\x91" + over)
    await redis.hset(KEY, "b@example.com", b"\x92" + over + pack_suppression(OPT_OUT))
    assert await Suppressions(world.redis).rekey(world.partition) == 0
    assert await stored(world) == {"b@example.com": "unsubscribed"}


async def test_an_opt_in_lifts_an_earlier_opt_out_alone(world: World) -> None:
    """A bounce, an unsubscribe, what a person added, and an opt-out that is later than the opt-in stay."""
    suppressions, at_ms = Suppressions(world.redis), 5000
    opt_out = Suppression("marketing", "opt_out", "opted_out", at_ms - 1)
    kept = [OPT_OUT, replace(opt_out, created_at_ms=at_ms + 1), replace(opt_out, source="api"), BOUNCE]
    for number, one in enumerate([opt_out, *kept]):
        await suppressions.add("email", f"user{number}@example.com", one)
    await suppressions.add("email", "user0@example.com", BOUNCE)
    lifted = [await suppressions.opt_in("email", f"User{number}@example.com", at_ms) for number in range(5)]
    assert lifted == [1, 0, 0, 0, 0]
    assert await suppressions.get("email", "user0@example.com") == [BOUNCE]
    assert [await suppressions.get("email", f"user{number}@example.com") for number in range(1, 5)] == [
        [one] for one in kept
    ]
    assert await suppressions.opt_in("email", "user0@example.com", at_ms) == 0


@pytest.mark.parametrize("source", ["complaint", "unsubscribe", "api"])
async def test_an_opt_in_lifts_no_other_reason_in_any_order(source: Any, world: World) -> None:
    """Who complained and opted out gets no marketing after an opt-in, whichever of the two came first."""
    suppressions = Suppressions(world.redis)
    opt_out = Suppression("marketing", "opt_out", "opted_out", 2000)
    other = Suppression("marketing", source, "said so", 1000)
    for number, (first, second, words) in enumerate(
        [(other, opt_out, "kept"), (opt_out, other, "changed"), (opt_out, opt_out, "kept")]
    ):
        address = f"user{number}@example.com"
        assert await suppressions.add("email", address, first) == "new"
        assert await suppressions.add("email", address, second) == words
        assert await suppressions.add("email", address, second) == "kept"
        await suppressions.opt_in("email", address, 3000)
        assert await suppressions.get("email", address) == ([] if first == second else [other])


async def test_an_opt_out_gives_way_to_nothing_shorter(world: World) -> None:
    """A suppression for a week would end before the opt-out does."""
    suppressions = Suppressions(world.redis)
    opt_out = Suppression("marketing", "opt_out", "opted_out", 2000)
    week = Suppression("marketing", "api", "for a week", 1000, 1 << 42)
    assert await suppressions.add("email", "r@example.com", opt_out) == "new"
    assert await suppressions.add("email", "r@example.com", week) == "kept"
    assert await suppressions.get("email", "r@example.com") == [opt_out]
