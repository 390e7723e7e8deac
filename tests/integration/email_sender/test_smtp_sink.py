"""Against Debian's smtp-sink, a mail server that shares no code with Kurir."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.smtp_sink import SmtpSink
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.running import opened


@pytest.mark.parametrize("pipelining", [True, False])
async def test_messages_are_taken(sink: SmtpSink, pipelining: bool) -> None:
    """Every message arrives once, whether commands are written ahead or one a round trip."""
    addresses = [f"r{number}@example.com" for number in range(20)]
    async with opened(smtp_settings(sink.url, pipelining=pipelining)) as channel:
        receipts = await asyncio.gather(*(channel.send(make_mail(address)) for address in addresses))
    assert all(receipt.response.startswith("250") for receipt in receipts)
    assert sink.deliveries() == dict.fromkeys(addresses, 1)
