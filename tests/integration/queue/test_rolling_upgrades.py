"""Two versions at once: every script handles jobs of a later version, and jobs of an earlier one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest

from shared.blasts import Blast
from shared.errors import QueueUnavailableError
from shared.jobs import Attachment, Job, Lane, Recipient, pack_job
from shared.queue.doctor import Doctor
from shared.queue.producer import Chunk
from tests.integration.queue.world import World, ends

FILE = Attachment("a.pdf", "application/pdf", b"\xff\x00" * 40_000)


def _further(job: Job) -> bytes:
    """A job of a later version: one more field, and one more in its recipient."""
    fields: list[Any] = msgspec.msgpack.decode(pack_job(job))
    fields[4].append({"more": 1})
    return msgspec.msgpack.encode([*fields, "further"])


def _binary(job: Job) -> bytes:
    """A job of a later version with a field that the server's msgpack does not support."""
    fields: list[Any] = msgspec.msgpack.decode(pack_job(job))
    return msgspec.msgpack.encode([*fields, b"\xff" * 300])


def _files_within(job: Job) -> bytes:
    """A job of the previous version: its recipient has five fields, the last of which is its files."""
    recipient = job.recipient
    files = [[FILE.filename, FILE.content_type, FILE.content]]
    fields: list[Any] = msgspec.msgpack.decode(pack_job(job))
    fields[4] = [recipient.address, recipient.name, recipient.variables, recipient.reference, files]
    return msgspec.msgpack.encode(fields)


@pytest.fixture(params=[_further, _binary, _files_within])
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], bytes]:
    """Make producers pack jobs as another version does."""
    pack: Callable[[Job], bytes] = request.param
    monkeypatch.setattr("shared.queue.producer.pack_job", pack)
    return pack


another_version = pytest.mark.usefixtures("other")


async def given(world: World, count: int, lane: Lane = "normal", **changes: Any) -> Blast:
    """Enqueue jobs of that version."""
    return await world.given(count, lane, **changes)


@another_version
async def test_jobs_of_the_previous_version_are_sent(world: World) -> None:
    """It is fetched, begun, retried, deferred, given back and sent; unknown fields are ignored."""
    blast = await given(world, 4)
    sender = await world.sender()
    one, two, three, four = await sender.take()
    assert await sender.retry(one, 0)
    assert await sender.defer(two, 0)
    assert await sender.give_back(three)
    assert await sender.finish(four) == [True]
    left = {one.job_id, two.job_id, three.job_id}
    while left:
        for lease in await sender.take():
            assert await sender.finish(lease) == [True]
            left.remove(lease.job_id)
    await world.check_balance(blast)


async def test_jobs_of_the_previous_version_keep_their_files(world: World, other: Callable[[Job], bytes]) -> None:
    """A job that carries its files is sent with them."""
    await given(world, 1)
    sender = await world.sender()
    (lease,) = await sender.take()
    whole = await world.whole(lease.job)
    assert whole.recipient.attachments == ([FILE] if other is _files_within else [])


@another_version
async def test_jobs_begun_by_a_dead_sender_are_taken_over(world: World) -> None:
    """It is recorded as uncertain, counted, and sent again alone, like any other job."""
    blast = await given(world, 3)
    sender = await world.sender()
    leases = await sender.take()
    assert await world.reaper(sender.name).give_up(leases) == 3
    assert (await world.progress(blast)).counts["retrying"] == 3
    await world.check_balance(blast)
    (again, *_) = await sender.fetch()
    assert [grant.kind for grant in await sender.begin([again])] == ["alone"]
    assert again.attempt == 2


@another_version
@pytest.mark.parametrize("lane", ["normal", "bulk"])
async def test_cancelled_jobs_of_the_previous_version_end(world: World, lane: Lane) -> None:
    """A sweep ends them, or, if a script cannot read them, the sender that fetches them: one event each."""
    blast = await given(world, 120, lane)
    await world.control.cancel_blast(blast.blast_id)
    sender = await world.sender()
    while leases := await sender.fetch(100):
        assert set(await sender.obey(leases)) == {"cancelled"}
    assert (await world.progress(blast)).counts["cancelled"] == 120
    told = ends(await world.written())
    assert (len(told), set(told.values())) == (120, {1})
    await world.check_balance(blast)


@another_version
async def test_a_job_of_the_previous_version_is_cancelled_or_accepted_late(world: World) -> None:
    """A job is found by its first bytes, whatever follows."""
    blast = await given(world, 2)
    assert await world.control.cancel_job(f"{blast.blast_id}:0:email") == "cancelled"
    sender = await world.sender()
    (lease,) = await sender.fetch()
    other = await world.sender()
    assert await other.late(lease)
    assert (await world.progress(blast)).counts["sent"] == 1
    await world.check_balance(blast)


@another_version
async def test_the_doctor_leaves_jobs_of_the_previous_version_alone(world: World) -> None:
    """New, parked, deferred, scheduled or in flight: nothing is wrong, and nothing is repaired."""
    later = await given(world, 2, scheduled_at_ms=4_000_000_000_000)
    blast = await given(world, 110, "bulk")
    sender = await world.sender()
    leases = await sender.take(5)
    assert await sender.retry(leases[0], 60_000)
    assert await sender.defer(leases[1], 60_000)
    doctor = Doctor(world.partition, "doctor", repair=True)
    assert [found for found in await doctor.examine() if found.wrong] == []
    await world.check_balance(later, blast)


@another_version
async def test_paused_and_resumed_jobs_of_the_previous_version_wait(world: World) -> None:
    """They are moved to their blast's own stream unchanged."""
    blast = await given(world, 3)
    sender = await world.sender()
    leases = await sender.fetch()
    await world.control.pause_blast(blast.blast_id, "wait")
    assert set(await sender.obey(leases)) == {"paused"}
    await world.check_balance(blast)
    await world.control.resume_blast(blast.blast_id)
    assert len(await sender.take()) == 3


@another_version
async def test_dead_letters_of_the_previous_version_are_sent_again(world: World) -> None:
    """A dead letter of that version starts its next run."""
    blast = await given(world, 1)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert await sender.fail(lease)
    assert (await world.again(blast, [0], run=2)).added == 1
    await world.check_balance(blast)


async def test_files_stay_in_jobs_while_a_previous_versions_sender_runs(world: World) -> None:
    """It gets jobs that it can read; after its heartbeat, files are stored separately, and all jobs are sent."""
    await world.redis.hset("{email}:senders", "old", orjson.dumps({"host": "h"}))
    await world.redis.set("{email}:sender:old", b"{}", px=60_000)
    recipient = Recipient("a@example.com", "A", attachments=[FILE])
    blast = await world.blast(2)
    await world.enqueue(blast, 0, 1, recipient=recipient)
    found: Any = await world.redis.xrange("{email}:jobs:normal")
    ((_, fields),) = found
    assert msgspec.msgpack.decode(fields[b"d"])[4][4] == [[FILE.filename, FILE.content_type, FILE.content, ""]]
    with pytest.raises(QueueUnavailableError, match="earlier version"):
        await world.producer.put_files(Chunk(blast, "email", 1, []), {"digest": b"content"})
    assert not [key async for key in world.redis.scan_iter("{email}:file*")]
    await world.redis.delete("{email}:sender:old")
    await world.enqueue(blast, 1, 1, recipient=recipient)
    assert [key async for key in world.redis.scan_iter("{email}:file:*")]
    sender = await world.sender()
    leases = await sender.take()
    assert [(await world.whole(lease.job)).recipient.attachments for lease in leases] == [[FILE], [FILE]]
    assert await sender.finish(*leases) == [True, True]
    await world.check_balance(blast)


async def test_a_previous_versions_sender_sends_nothing_without_its_files() -> None:
    """It cannot read a job whose files are stored separately, and reports that."""

    class OldRecipient(msgspec.Struct, array_like=True):
        address: str
        name: str
        variables: dict[str, Any] = {}
        reference: str = ""
        attachments: list[Attachment] = []

    apart = msgspec.msgpack.encode(Recipient("a@example.com", "A", attachments=None))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(apart, type=OldRecipient)
    plain = msgspec.msgpack.encode(Recipient("a@example.com", "A"))
    assert msgspec.msgpack.decode(plain, type=OldRecipient).address == "a@example.com"
