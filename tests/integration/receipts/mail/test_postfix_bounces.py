"""Mail that Debian's Postfix cannot deliver comes back to the listener and names its job.

The email sender hands the mail to Postfix, which accepts it and only then learns from the remote server that it cannot
be delivered. Its bounce goes to the return path of the message, whose domain is the listener's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from services.email_sender.channel import EmailChannel
from services.email_sender.message import Frame
from services.receipts.mail.listener import BounceListener
from services.receipts.mail.reading import read_mail
from shared.errors import QueueUnavailableError
from shared.receipts import Receipt
from tests.integration.email_sender.mails import MAIL, email_settings, make_blast, make_job, smtp_settings
from tests.integration.email_sender.postfix import Postfix
from tests.integration.receipts.mail.inboxes import FakeInbox, Tally
from tests.integration.receipts.mail.remote import RemoteServer
from tests.servers import wait_for

DOMAIN = "bounces.example.com"
BOUNCING = replace(MAIL, bounce_domain=DOMAIN)
REPLIES = {
    "gone": ["550 5.1.1 <gone@remote.example>: Recipient address rejected: User unknown"],
    "full": ["552 5.2.2 The mailbox is over its quota"],
    "words": ["550 No such user here"],
    "spam": ["554 5.7.1 Rejected: this looks like spam"],
    "later": ["450 4.2.0 Greylisted, try again later", "550 5.1.1 No such user"],
    "never": ["451 4.3.0 The database is away"],
}
# after a back-off of 1 s, less what its clock rounds, the queue manager may find a mail still locked by the delivery
# before and skip it for good
_MORE = """\
relay_domains = remote.example bounces.example.com
transport_maps = inline:{{ {{ remote.example = smtp:[127.0.0.1]:{remote} }}, \
{{ bounces.example.com = smtp:[127.0.0.1]:{listener} }} }}
virtual_alias_maps = inline:{{ {{ team@remote.example = gone@remote.example, ana@remote.example }} }}
smtp_tls_security_level = none
smtp_host_lookup = native
minimal_backoff_time = 3s
maximal_backoff_time = 3s
queue_run_delay = 1s
maximal_queue_lifetime = {lifetime}
bounce_queue_lifetime = 60s
delay_warning_time = {warning}
"""


@dataclass
class System:
    """A Postfix between the sender and a remote server, and the listener for its bounces."""

    postfix: Postfix
    remote: RemoteServer
    inbox: FakeInbox

    async def send(self, local: str, index: int) -> str:
        """Send one mail through Postfix, which accepts it; return its job's id."""
        job = make_job(f"{local}@remote.example", index=index)
        channel = EmailChannel(email_settings(smtp_settings(self.postfix.url(), ca_file=str(self.postfix.ca_file))))
        await channel.open()
        try:
            receipt = await channel.send(Frame(make_blast(), BOUNCING).fill(job))
        finally:
            await channel.close()
        assert receipt.response.startswith("250 2.0.0 Ok: queued as")
        return job.job_id

    async def receipts(self) -> list[Receipt]:
        """Return what all mails say that came to the listener."""
        return [receipt for raw in self.inbox.mails for receipt in read_mail(raw, time.time(), MAIL.secret).receipts]


@asynccontextmanager
async def running(*, lifetime: str = "60s", warning: str = "0h") -> AsyncIterator[System]:
    inbox, remote = FakeInbox(), RemoteServer({name: list(replies) for name, replies in REPLIES.items()})
    listener = BounceListener(DOMAIN, inbox, "127.0.0.1", 0, Tally())
    await listener.open()
    await remote.open()
    places = {"remote": remote.port, "listener": listener.port, "lifetime": lifetime, "warning": warning}
    postfix = Postfix(_MORE.format(**places))
    try:
        postfix.start()
        yield System(postfix, remote, inbox)
    finally:
        sys.stdout.write(postfix.log())  # shown if the test fails
        postfix.stop()
        await listener.close()
        await remote.close()


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with running() as system:
        yield system


@pytest.mark.parametrize(
    ("local", "severity", "code"),
    [("gone", "hard", "5.1.1"), ("full", "soft", "5.2.2"), ("words", "hard", "550"), ("spam", "soft", "5.7.1")],
)
async def test_bounce_names_its_job(system: System, local: str, severity: str, code: str) -> None:
    """Postfix's bounce gives one trusted receipt, hard for an unknown user and soft for a full mailbox or spam."""
    job_id = await system.send(local, 17)
    await wait_for(lambda: system.inbox.mails, what="the bounce", timeout_s=30)
    (receipt,) = await system.receipts()
    assert (receipt.kind, receipt.job_id, receipt.trusted) == ("bounced", job_id, True)
    assert (receipt.severity, receipt.code, receipt.address) == (severity, code, f"{local}@remote.example")
    assert REPLIES[local][0].partition(" ")[2][-20:] in receipt.words
    assert abs(receipt.at - time.time()) < 60


async def test_member_of_an_alias_who_is_gone_does_not_condemn_the_alias(system: System) -> None:
    """Postfix expands an alias and keeps our return path: the bounce of one member is soft, since another has it."""
    job_id = await system.send("team", 21)
    await wait_for(lambda: system.inbox.mails, what="the bounce", timeout_s=30)
    (receipt,) = await system.receipts()
    assert (receipt.kind, receipt.job_id, receipt.trusted) == ("bounced", job_id, True)
    assert (receipt.severity, receipt.code, receipt.address) == ("soft", "5.1.1", "gone@remote.example")


async def test_bounce_after_a_delay_is_read_too(system: System) -> None:
    """A server that first puts Postfix off and then refuses causes a bounce later, which is as good."""
    job_id = await system.send("later", 18)
    await wait_for(lambda: system.inbox.mails, what="the bounce", timeout_s=60)
    assert system.remote.asked == ["later", "later"]
    (receipt,) = await system.receipts()
    assert (receipt.kind, receipt.job_id, receipt.severity) == ("bounced", job_id, "hard")


async def test_delay_is_ignored_and_giving_up_is_a_soft_bounce() -> None:
    """Postfix first warns of the delay, which settles nothing; when it gives up, the bounce is soft."""
    async with running(lifetime="9s", warning="1s") as system:
        job_id = await system.send("never", 19)
        await wait_for(lambda: len(system.inbox.mails) == 2, what="the warning and the bounce", timeout_s=60)
        warning = read_mail(system.inbox.mails[0], time.time(), MAIL.secret)
        assert (list(warning.receipts), warning.ignored) == ([], 1)
        (receipt,) = await system.receipts()
    assert (receipt.kind, receipt.job_id, receipt.severity, receipt.trusted) == ("bounced", job_id, "soft", True)


async def test_bounce_waits_at_postfix_while_redis_is_away(system: System) -> None:
    """What the listener does not take stays in Postfix's queue and comes again."""
    system.inbox.failure = QueueUnavailableError("Redis is away")
    await system.send("gone", 20)
    await wait_for(lambda: system.inbox.tried >= 2, what="two attempts", timeout_s=60)
    assert system.inbox.mails == []
    system.inbox.failure = None
    await wait_for(lambda: system.inbox.mails, what="the bounce", timeout_s=60)
    assert [one.kind for one in await system.receipts()] == ["bounced"]
