"""Sending signed mail: RSA signatures are made ahead, and every message that arrives verifies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import psutil
import pytest
import structlog

from services.email_sender import encoder
from services.email_sender.channel import EmailChannel
from services.email_sender.dkim_keys import DkimKey, KeyRing
from services.email_sender.encoder import SIGN_AHEAD_BYTES, draft
from services.email_sender.identity import Identity
from services.email_sender.message import Mail
from services.email_sender.settings import SmtpSettings
from services.email_sender.signing import Draft
from shared.errors import PermanentError, UnavailableError
from shared.jobs import Attachment
from shared.templates import Template
from tests.integration.email_sender.mails import email_settings, make_blast, make_job, make_mail, smtp_settings
from tests.integration.email_sender.peer import peer
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.queue.world import World
from tests.servers import wait_for
from tests.unit.email_sender.keys import ed25519_key, rsa_key, verdicts

RSA = DkimKey("example.com", "r", rsa_key())
ED25519 = DkimKey("example.com", "e", ed25519_key())
LINE = "<p>and more, in lines</p>\n"
NOBODY: SmtpSettings = smtp_settings("smtp://127.0.0.1:9")


@pytest.mark.parametrize("keys", [[RSA], [ED25519], [RSA, ED25519]], ids=["rsa", "ed25519", "both"])
async def test_every_message_of_a_blast_arrives_verifiable(keys: list[DkimKey], world: World) -> None:
    """A whole sender sends sixty chained messages, each once; dkimpy verifies each."""
    blast = await world.given(60)
    async with peer() as server, sending_mail(world, smtp_settings(server.url), keys=KeyRing(keys)):

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 60

        await wait_for(all_sent, what="sixty messages sent")
        messages = [one.replace(b"\r\n..", b"\r\n.") for one in server.messages if one]
        assert sum(session.announced for session in server.sessions) > 0
    ids = {one.partition(b"X-Kurir-Job: ")[2].partition(b"\r\n")[0] for one in messages}
    assert len(messages) == len(ids) == 60
    for message in messages:
        assert verdicts(message, keys) == [True] * len(keys)


async def test_killed_signing_processes_cost_no_message(world: World) -> None:
    """G1, G2: while its processes are killed one after the other, a sender sends each message once, signed."""
    blast = await world.given(400)
    async with peer() as server, sending_mail(world, smtp_settings(server.url), keys=KeyRing([RSA])):
        killed = 0

        async def all_sent() -> bool:
            nonlocal killed
            signing = [
                one for one in psutil.Process().children() if "services.email_sender.signatures" in one.cmdline()
            ]
            if signing and killed < 8:
                signing[0].kill()
                killed += 1
            return (await world.progress(blast)).counts["sent"] == 400

        await wait_for(all_sent, what="all messages sent")
        messages = [one.replace(b"\r\n..", b"\r\n.") for one in server.messages if one]
    assert killed
    ids = {one.partition(b"X-Kurir-Job: ")[2].partition(b"\r\n")[0] for one in messages}
    assert len(messages) == len(ids) == 400
    for message in messages:
        assert verdicts(message, [RSA]) == [True]


@pytest.mark.parametrize("keys", [[RSA], [ED25519], [RSA, ED25519]], ids=["rsa", "ed25519", "both"])
async def test_what_is_coming_is_signed_before_its_turn(keys: list[DkimKey]) -> None:
    """Rendering returns the prepared message; once it is signed, encoding it costs nothing."""
    blast, job = make_blast(), make_job()
    async with opened(NOBODY, KeyRing(keys)) as channel:
        channel.work_ahead([(job, blast)])
        await asyncio.sleep(0)
        mail = channel.render(job, blast)
        assert mail.signed is not None
        await mail.signed.wait()
        content = channel._encoder.encode_at_once(mail, eight_bit=True)
        assert content is not None
        assert content is mail.signed.content
        assert verdicts(content, keys) == [True] * len(keys)
        # it is taken once: an attempt without preparation makes its own
        again = channel.render(job, blast)
        assert again.signed is None
        assert verdicts(await channel._encoder.encode(again, eight_bit=True), keys) == [True] * len(keys)


async def test_nothing_is_prepared_that_is_not_signed() -> None:
    """Rendering ahead would gain nothing."""
    async with opened(NOBODY, KeyRing([])) as channel:
        assert not channel.prepares
        channel.work_ahead([(make_job(), make_blast())])
        await asyncio.sleep(0)
        assert channel.render(make_job(), make_blast()).signed is None


async def test_large_message_waits_for_its_turn() -> None:
    """Preparing several large ones would take much memory; each is still signed at its turn."""
    big = make_blast(attachments=[Attachment("f.pdf", "application/pdf", bytes(SIGN_AHEAD_BYTES))])
    async with opened(NOBODY, KeyRing([RSA])) as channel:
        channel.work_ahead([(make_job(), big)])
        await asyncio.sleep(0)
        mail = channel.render(make_job(), big)
        assert mail.signed is None
        assert verdicts(await channel._encoder.encode(mail, eight_bit=True), [RSA]) == [True]


async def test_a_letter_of_a_hundred_kilobytes_is_signed_before_its_turn() -> None:
    """Then it can be announced with the end of the message before; a thread hashes it."""
    template = Template("t", "T", ["email"], subject="s", html="<p>{{ name }}</p>\n" + LINE * 4_000, text="{{ name }}")
    blast, job = make_blast(template=template), make_job()
    async with opened(NOBODY, KeyRing([RSA])) as channel:
        channel.work_ahead([(job, blast)])
        await asyncio.sleep(0)
        mail = channel.render(job, blast)
        assert mail.signed is not None
        await mail.signed.wait()
        content = channel._encoder.encode_at_once(mail, eight_bit=True)
        assert content is not None
        assert content is mail.signed.content
        assert verdicts(content, [RSA]) == [True]


async def test_a_forgotten_signature_is_made_again() -> None:
    """A job that has left this sender leaves no prepared message behind."""
    blast, job = make_blast(), make_job()
    async with opened(NOBODY, KeyRing([RSA])) as channel:
        channel.work_ahead([(job, blast)])
        await asyncio.sleep(0)
        channel.forget(job)
        assert channel.render(job, blast).signed is None


async def test_ed25519_does_not_wait_for_its_process() -> None:
    """A message whose turn comes before its process has answered is signed at once."""
    blast, job = make_blast(), make_job()
    async with opened(NOBODY, KeyRing([ED25519])) as channel:
        channel.work_ahead([(job, blast)])
        await asyncio.sleep(0)
        mail = channel.render(job, blast)
        assert mail.signed is not None
        assert mail.signed.content is None
        assert verdicts(channel._encoder.encode_at_once(mail, eight_bit=True) or b"", [ED25519]) == [True]
        assert mail.signed.given_up


@pytest.mark.parametrize("lines", [1, 4_000], ids=["small", "large"])
async def test_message_that_no_process_can_sign_is_signed_in_a_thread(lines: int) -> None:
    """A sender whose processes are gone sends more slowly, but sends."""
    template = Template("t", "T", ["email"], subject="s", html="<p>{{ name }}</p>\n" + LINE * lines, text="{{ name }}")
    blast, jobs = make_blast(template=template), [make_job(index=index) for index in range(3)]
    async with opened(NOBODY, KeyRing([RSA])) as channel:
        await channel._encoder._signers.close()
        channel.work_ahead([(job, blast) for job in jobs])
        await asyncio.sleep(0)
        for job in jobs:
            content = await channel._encoder.encode(channel.render(job, blast), eight_bit=True)
            assert verdicts(content, [RSA]) == [True]


async def test_failed_draft_fails_its_own_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in a thread ahead of a message's turn is raised at its turn; others are signed."""
    template = Template("t", "T", ["email"], subject="s", html="<p>{{ name }}</p>\n" + LINE * 4_000, text="{{ name }}")
    blast = make_blast(template=template)
    first, second = make_job(index=1), make_job(index=2)

    def failing(mail: Mail, keys: Sequence[DkimKey]) -> Draft:
        if mail.message_id.startswith(f"<{blast.blast_id}.1."):
            raise PermanentError("cannot be encoded")
        return draft(mail, keys)

    monkeypatch.setattr(encoder, "draft", failing)
    async with opened(NOBODY, KeyRing([RSA])) as channel:
        channel.work_ahead([(first, blast), (second, blast)])
        await asyncio.sleep(0)
        with pytest.raises(PermanentError):
            await channel._encoder.encode(channel.render(first, blast), eight_bit=True)
        assert verdicts(await channel._encoder.encode(channel.render(second, blast), eight_bit=True), [RSA]) == [True]


async def test_status_says_who_we_are_and_what_to_publish() -> None:
    """It has the name in EHLO, the return path, the keys of each domain, and their DNS records."""
    async with peer() as server, opened(smtp_settings(server.url), KeyRing([RSA])) as channel:
        status = await channel.status()
    assert status.detail["identity"] == {
        "ehlo": "client.example.com",
        "returnPath": "the address of From",
        "domains": [{"domain": "example.com", "signedBy": ["rsa-sha256 r._domainkey.example.com"], "spfAligned": True}],
        "dkimRecords": {"r._domainkey.example.com": RSA.dns_record},
    }


async def test_unaligned_domains_are_reported_at_the_start() -> None:
    """The log names domains without a key, and those of them that the return path does not align with."""
    keys = KeyRing([RSA])
    identity = Identity("client.example.com", "b@example.com", ("example.com", "example.org"), keys)
    channel = EmailChannel(replace(email_settings(NOBODY, keys=keys), identity=identity))
    with structlog.testing.capture_logs() as logged:
        await channel.open()
        await channel.close()
    assert {(one["event"], *one["domains"]) for one in logged} == {
        ("sender_unaligned", "example.org"),
        ("dkim_key_missing", "example.org"),
    }


async def test_sandboxed_sender_talks_to_nothing_but_the_sandbox() -> None:
    """Its mail has no working unsubscribe link, so a real server left in the settings gets none of it."""
    async with peer() as server:
        async with opened(smtp_settings(server.url, sandboxed=True)) as channel:
            with pytest.raises(UnavailableError, match="not Kurir's sandbox"):
                await channel.send(make_mail())
        assert not server.messages
    async with peer({"CONNECT": ["220 sandbox.kurir ESMTP"] * 2}) as server:
        async with opened(smtp_settings(server.url, sandboxed=True)) as channel:
            await channel.send(make_mail())
        assert len(server.messages) == 1
