"""Against Debian's smtp-sink, a mail server that shares no code with Kurir, with its soft and hard bounces.

Each case is one message to a server that fails one command in one way; the class is the table's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.email_sender.failures import ConnectionLostError
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    StopChannelError,
    TryLaterError,
    UnavailableError,
    UncertainError,
)
from tests.e2e.smtp_sink import SmtpSink
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.running import opened

SOFT, HARD = "450 4.3.0", "500 5.3.0"


@pytest.mark.parametrize("pipelining", [True, False])
async def test_messages_are_taken(sink: SmtpSink, pipelining: bool) -> None:
    """Every message arrives once, with pipelining and without."""
    addresses = [f"r{number}@example.com" for number in range(20)]
    async with opened(smtp_settings(sink.url, pipelining=pipelining)) as channel:
        receipts = await asyncio.gather(*(channel.send(make_mail(address)) for address in addresses))
    assert all(receipt.response.startswith("250") for receipt in receipts)
    assert sink.deliveries() == dict.fromkeys(addresses, 1)


async def test_sink_offers_pipelining(sink: SmtpSink) -> None:
    """The benchmark's server supports pipelining."""
    async with opened(smtp_settings(sink.url)) as channel:
        assert "'PIPELINING': ''" in str((await channel.status()).detail)


# the arguments of smtp-sink, the class, the code, and the reason of a suppression
CASES: list[tuple[str, type[SendError], str, str]] = [
    # soft bounces (-r) with the usual reply, 450 4.3.0
    ("-r connect", UnavailableError, SOFT, ""),
    ("-r ehlo,helo", UnavailableError, SOFT, ""),
    ("-r mail", TryLaterError, SOFT, ""),
    ("-r rcpt", TryLaterError, SOFT, ""),
    ("-r data", TryLaterError, SOFT, ""),
    ("-r .", TryLaterError, SOFT, ""),
    # with replies of another meaning (-b)
    ("-r rcpt -b 450_4.7.1_greylisted", DeferredError, "450 4.7.1", ""),
    ("-r rcpt -b 452_4.2.2_over_quota", DeferredError, "452 4.2.2", ""),
    ("-r . -b 452_4.3.1_disk_full", DeferredError, "452 4.3.1", ""),
    ("-r mail -b 450_busy", DeferredError, "450", ""),
    ("-r rcpt -b 451_local_error", TryLaterError, "451", ""),
    ("-r rcpt -b 450_4.1.1_unverified", TryLaterError, "450 4.1.1", ""),
    # hard bounces (-f) with the usual reply, 500 5.3.0
    ("-f connect", UnavailableError, HARD, ""),
    ("-f ehlo,helo", UnavailableError, HARD, ""),
    ("-f mail", PermanentError, HARD, ""),
    ("-f rcpt", PermanentError, HARD, ""),
    ("-f data", PermanentError, HARD, ""),
    ("-f .", PermanentError, HARD, ""),
    # with replies of another meaning (-B)
    ("-f rcpt -B 550_5.1.1_no_such_user", PermanentError, "550 5.1.1", "550 5.1.1"),
    ("-f rcpt -B 550_no_such_user", PermanentError, "550", "550"),
    ("-f rcpt -B 551_user_not_local", PermanentError, "551", "551"),
    ("-f rcpt -B 551_gone_elsewhere", PermanentError, "551", ""),
    ("-f rcpt -B 550_relay_not_permitted", PermanentError, "550", ""),
    ("-f rcpt -B 550_5.7.1_policy", PermanentError, "550 5.7.1", ""),
    ("-f rcpt -B 552_5.2.2_over_quota", PermanentError, "552 5.2.2", ""),
    ("-f . -B 550_5.1.1_no_such_user", PermanentError, "550 5.1.1", "550 5.1.1"),
    ("-f . -B 550_content_refused", PermanentError, "550", ""),
    ("-f mail -B 550_sender_refused", PermanentError, "550", ""),
    ("-f mail -B 530_authentication_required", StopChannelError, "530", ""),
    ("-f rcpt -B 535_5.7.8_bad_credentials", StopChannelError, "535 5.7.8", ""),
    # connections cut (-q)
    ("-q connect", UnavailableError, "connect", ""),
    ("-q ehlo", UnavailableError, "connect", ""),
    ("-q mail", ConnectionLostError, "connection_lost", ""),
    ("-q rcpt", ConnectionLostError, "connection_lost", ""),
    ("-q data", ConnectionLostError, "connection_lost", ""),
    ("-q .", UncertainError, "lost", ""),
    # 421 and a hang-up (-Q)
    ("-Q connect", UnavailableError, "421 4.0.0", ""),
    ("-Q mail", TryLaterError, "421 4.0.0", ""),
    ("-Q rcpt", TryLaterError, "421 4.0.0", ""),
    ("-Q .", TryLaterError, "421 4.0.0", ""),
]


@pytest.fixture(scope="module")
def sinks() -> Iterator[dict[str, SmtpSink]]:
    """Start one server per case, in parallel."""
    found = {case[0]: SmtpSink([word.replace("_", " ") for word in case[0].split(" ")]) for case in CASES}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(SmtpSink.start, found.values()))
    yield found
    for one in found.values():
        one.stop()


@pytest.mark.parametrize(("options", "expected", "code", "suppress"), CASES, ids=[case[0] for case in CASES])
async def test_failure_of_one_command_has_its_class(
    sinks: dict[str, SmtpSink], options: str, expected: type[SendError], code: str, suppress: str
) -> None:
    """With pipelining and without, the failing command's reply decides, by the table of classes."""
    for pipelining in (True, False):
        async with opened(smtp_settings(sinks[options].url, pipelining=pipelining)) as channel:
            with pytest.raises(SendError) as raised:
                await channel.send(make_mail())
        assert type(raised.value) is expected
        assert raised.value.code == code
        assert getattr(raised.value, "suppress", "") == suppress
