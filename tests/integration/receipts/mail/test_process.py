"""The receipts service as a process, with bounce mail: what was answered or marked takes effect, over kill -9."""

from __future__ import annotations

import signal
import smtplib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from shared.receipts import RETURN_PREFIX, make_return_token
from tests.integration.receipts.mail.dovecot import Dovecot
from tests.integration.receipts.test_process import ReceiptsProcess
from tests.integration.receipts.world import World
from tests.servers import RedisServer, free_port, wait_for
from tests.unit.receipts.mail.reading_samples import SECRET, sample

DOMAIN = "bounces.example.com"


def bounce(index: int) -> tuple[str, bytes, str]:
    """Return the job, a bounce of it without any other trace, and its return path."""
    job_id = f"06fv3k9qz1m2n4p7:{index}:email"
    to = f"{RETURN_PREFIX}{make_return_token(job_id, SECRET)}@{DOMAIN}"
    return job_id, sample("postfix-foreign").replace(b"bounces@example.com", to.encode()), to


class MailProcess(ReceiptsProcess):
    """The process with settings for bounce mail."""

    def __init__(self, redis_url: str, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(redis_url, folder)
        self.smtp_port = free_port()
        listener = {"KURIR_BOUNCE_SMTP_PORT": str(self.smtp_port), "KURIR_BOUNCE_DOMAIN": DOMAIN}
        self._env |= {"KURIR_SECRET": SECRET, **(settings or listener)}

    def deliver(self, to: str, raw: bytes) -> None:
        """Deliver a mail; raises unless it was answered with 250."""
        with smtplib.SMTP("127.0.0.1", self.smtp_port, "mx.example.net", timeout=60) as client:
            client.sendmail("", to, raw)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.destroy()


@pytest.fixture
async def own(server: RedisServer) -> AsyncIterator[World]:
    world = World(server.url)
    yield world
    await world.aclose()


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    server = Dovecot()
    try:
        server.start()
        yield server
    finally:
        server.remove()


Make = Callable[[Mapping[str, str]], MailProcess]


@pytest.fixture
def make_service(server: RedisServer, tmp_path: Path) -> Iterator[Make]:
    """Make processes that end with their test, also with one that fails."""
    made: list[MailProcess] = []

    def make(settings: Mapping[str, str]) -> MailProcess:
        made.append(MailProcess(server.url, tmp_path, settings))
        return made[-1]

    yield make
    for service in made:
        service.end(signal.SIGKILL)


async def test_bounce_becomes_an_event_of_the_email_channel(own: World, make_service: Make) -> None:
    """A bounce that was answered with 250 is a trusted receipt; foreign mail is set aside and counted."""
    service = make_service({})
    service.start()
    job_id, raw, to = bounce(1)
    service.deliver(to, raw)
    service.deliver(f"someone@{DOMAIN}", sample("spam"))
    await own.emptied()
    (receipt,) = await own.receipts("email")
    assert (receipt.kind, receipt.job_id, receipt.trusted, receipt.severity) == ("bounced", job_id, True, "hard")
    assert service.sample('kurir_bounce_mails_total{result="taken",way="smtp"}') == 2
    assert service.sample('kurir_receipts_read_total{kind="bounced",provider="mail"}') == 1
    (aside,) = await own.inbox.list_set_aside(5)
    assert sample("spam") in aside.body
    assert service.end(signal.SIGTERM) == 0


async def test_answered_bounces_survive_kill_9(own: World, make_service: Make) -> None:
    """Each bounce that was answered with 250 takes effect under one name, whenever the process is killed."""
    service = make_service({})
    answered = set()
    for turn in range(3):
        service.start()
        for n in range(20):
            job_id, raw, to = bounce(100 * turn + n)
            service.deliver(to, raw)
            answered.add(job_id)
        service.end(signal.SIGKILL)
    service.start()
    await own.emptied(30)
    assert service.end(signal.SIGTERM) == 0
    named = {(batch.producer, batch.sequence) for batch in await own.batches("email")}
    assert len(named) == len(answered)
    assert {one.job_id for one in await own.receipts("email")} == answered


@pytest.mark.timeout(300)
async def test_mailbox_is_read_over_kill_9_and_an_outage_of_redis(
    own: World, server: RedisServer, dovecot: Dovecot, make_service: Make
) -> None:
    """With `then=delete`, every mail of a mailbox becomes a receipt, over a kill and an outage; none is lost."""
    url = dovecot.url(options="?then=delete&every=1s")
    settings = {"KURIR_BOUNCE_IMAP_URL": url, "KURIR_BOUNCE_IMAP_CA_FILE": str(dovecot.ca_file)}
    service = make_service(settings)
    bounces = [bounce(n) for n in range(30)]
    dovecot.append(*(raw for _, raw, _ in bounces))
    service.start()
    await wait_for(lambda: dovecot.count() < 25, 60, "some mails to be taken")
    service.end(signal.SIGKILL)
    server.kill()
    service.start()
    server.start()
    await wait_for(lambda: dovecot.count() == 0, 90, "an empty mailbox")
    await wait_for(lambda: service.sample("kurir_bounce_mailbox_failing_seconds") == 0, what="a read mailbox")
    await own.emptied(30)
    assert service.end(signal.SIGTERM) == 0
    expected = {job_id for job_id, _, _ in bounces}
    receipts = await own.receipts("email")
    assert {one.job_id for one in receipts} == expected
    # a mail that was read twice gives equal receipts, which the log counts once
    assert len({(one.job_id, one.kind, one.at, one.source) for one in receipts}) == len(expected)
    assert "right?" not in (service.folder / "logs" / "combined.log").read_text()
