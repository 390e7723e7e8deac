"""A third channel needs one folder (`sms`) and one line in the list of channels.

The folder has the parts of a channel (channel, replies, settings). Its messages pass from a request's recipients
through the real queue and the real sending loop to a centre behind a socket, and produce events.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.cli.embedded import ServerBinary
from services.cli.plan import UpOptions, make_plan
from services.ingest.settings import read_settings as read_ingest_settings
from shared.blasts import Blast
from shared.channels import CHANNELS, Channel
from shared.events import Deferred, Ended, EventBatch, Retrying, Sent
from shared.jobs import Job, Recipient
from shared.lifecycle import Stop
from shared.queue.event_log import EventLog
from shared.queue.producer import Chunk
from shared.queue.suppressions import Suppressions
from shared.sending.loop import SendingLoop
from shared.settings import Rate
from shared.templates import Template
from tests.integration.queue.world import World
from tests.integration.sending.fakes import RememberedAttempts
from tests.integration.sending.sms.channel import Sms, SmsChannel
from tests.integration.sending.sms.settings import SmsSettings, read_settings
from tests.servers import INTERNAL_SECRET, wait_for

LINE = Channel("sms", "phone", 40, "sms_sender", ("KURIR_SMS_SOCKET",))
TEMPLATE = Template("t", "T", ["sms"], text="Halo {{ name }}")


@dataclass
class Centre:
    """An SMS centre: answers by the number, and records what it accepted."""

    accepted: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    paid: bool = True

    def reply(self, line: str) -> str:
        number = line.partition(" ")[0]
        self.seen[number] += 1
        refusals = {"628001": "BUSY 0.1", "628002": "FAILED"} if self.seen[number] == 1 else {}
        word = "UNPAID" if not self.paid else "NOBODY" if number == "628003" else refusals.get(number)
        if word is None:
            self.accepted.append(line)
        return word or f"OK {len(self.accepted)}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode().strip()
        if line:  # otherwise the sender hung up before its start
            writer.write(f"{self.reply(line)}\n".encode())
        writer.close()


@pytest.fixture
def sms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SmsSettings:
    """Add the line to the list of channels; return the settings of its sender."""
    monkeypatch.setitem(CHANNELS, "sms", LINE)
    return read_settings(
        {
            "KURIR_SMS_SOCKET": str(tmp_path / "centre"),
            "KURIR_SMS_RATE": "500/1s",
            "KURIR_TIME_SCALE": "0.1",
            "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
        }
    )


@asynccontextmanager
async def running(world: World, sms: SmsSettings, centre: Centre) -> AsyncIterator[RememberedAttempts]:
    """Run the centre and one sender, wired as by a `main`."""
    observer, stop = RememberedAttempts(), Stop()
    async with await asyncio.start_unix_server(centre.serve, sms.socket):
        loop: SendingLoop[Sms] = SendingLoop(world.redis, SmsChannel(sms.socket), sms.sending, observer)
        task = asyncio.create_task(loop.run(stop))
        try:
            yield observer
        finally:
            stop.set()
            async with asyncio.timeout(60):
                await task


async def enqueue(world: World, blast_id: str, numbers: list[str]) -> Blast:
    blast = Blast(blast_id, TEMPLATE, ["sms"], "normal", 0, {"sms": len(numbers)}, len(numbers))
    await world.blasts.create(blast)
    jobs = [
        Job(blast_id, index, "sms", "normal", Recipient(number, f"R{index}"), 0) for index, number in enumerate(numbers)
    ]
    await world.producer.enqueue(Chunk(blast, "sms", 0, jobs))
    return blast


async def counts(world: World, blast: Blast) -> dict[str, int]:
    progress = await world.blasts.progress(blast.blast_id)
    assert progress is not None
    return {status: n for status, n in progress.channels["sms"].counts.items() if n}


async def test_a_blast_through_a_channel_of_ones_own(world: World, sms: SmsSettings) -> None:
    """Jobs are deferred, retried, suppressed and sent by its replies; events, counts and limits work without code."""
    centre = Centre()
    numbers = ["628001", "628002", "628003", *(f"62810{number:02d}" for number in range(20))]
    async with running(world, sms, centre) as observer:
        blast = await enqueue(world, "b1", numbers)

        async def has_ended() -> bool:
            return await counts(world, blast) == {"sent": 22, "failed": 1}

        await wait_for(has_ended, what="the blast to end")
    assert Counter(centre.accepted) == Counter(f"{n} Halo R{i}" for i, n in enumerate(numbers) if n != "628003")
    assert Counter(name for name, _ in observer.attempts) == {"sent": 22, "deferred": 1, "retrying": 1, "failed": 1}
    assert [one.reason for one in await Suppressions(world.redis).get("sms", "628003")] == ["hard_bounce: NOBODY"]
    assert (await world.control.stats())["sms"].counters["sent"] == 22
    log = EventLog(world.redis, tuple(CHANNELS))
    kinds: Counter[type] = Counter()
    while entries := await log.read(1000, 0.0) or await log.read(1000, 0.0):
        kinds.update(type(event) for one in entries if isinstance(one.batch, EventBatch) for event in one.batch.events)
        await log.ack(entries)
    assert [kinds[kind] for kind in (Sent, Deferred, Retrying, Ended)] == [22, 1, 1, 1]


async def test_a_stop_pauses_the_new_channel_alone(world: World, sms: SmsSettings) -> None:
    """Its own replies pause it with the provider's reply; nothing is lost, and email continues."""
    centre = Centre(paid=False)
    async with running(world, sms, centre):
        blast = await enqueue(world, "b2", ["628101"])

        async def is_paused() -> bool:
            return "UNPAID" in (await world.control.channel_stats("sms")).pause_reason

        await wait_for(is_paused, what="the pause")
        assert (await world.control.channel_stats("email")).pause_reason == ""
        centre.paid = True
        await world.control.resume_channel("sms")

        async def is_sent() -> bool:
            return await counts(world, blast) == {"sent": 1}

        await wait_for(is_sent, what="the message after the resume")


def test_its_settings_are_those_of_every_sender(sms: SmsSettings) -> None:
    """KURIR_SMS_RATE, _CONCURRENCY and the like are read by the channel's name."""
    assert sms.sending.rate == Rate(500, 1.0)
    assert sms.sending.sender_id.startswith("sms-")


def test_the_rest_of_the_system_knows_it_by_its_line(sms: SmsSettings) -> None:
    """`kurir up` starts its sender on its port; ingest knows that it is configured, and its URL."""
    env = {"KURIR_SMS_SOCKET": str(sms.socket), "KURIR_INTERNAL_SECRET": INTERNAL_SECRET}
    plan = make_plan(UpOptions(port=4000), env, ServerBinary(Path("/bin/valkey-server"), "valkey", (9, 1, 2)))
    (spec,) = [spec for spec in plan.services if spec.name == "sms_sender"]
    assert spec.command[-1] == "services.sms_sender"
    assert spec.env["KURIR_PORT"] == "4040"
    assert plan.sandboxed == ["email", "whatsapp"]
    ingest = read_ingest_settings({**env, "KURIR_SMS_SENDER_URL": spec.env["KURIR_SMS_SENDER_URL"]})
    assert "sms" in ingest.configured_channels
    assert ingest.sender_urls["sms"] == "http://127.0.0.1:4040"
    assert "sms" in make_plan(UpOptions(port=4000), {}, None).unconfigured
