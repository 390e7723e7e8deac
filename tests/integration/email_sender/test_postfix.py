"""Against Debian's Postfix, with STARTTLS and AUTH: a real server that shares no code with Kurir."""

from __future__ import annotations

import msgspec
import pytest

from services.email_sender.settings import SmtpSettings
from shared.errors import DeferredError, PermanentError, StopChannelError, UnavailableError
from shared.jobs import Attachment
from tests.integration.email_sender.mails import Content, fill, make_mail, smtp_settings
from tests.integration.email_sender.postfix import Postfix
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.queue.world import World
from tests.servers import wait_for


def trusting(postfix: Postfix, url: str) -> SmtpSettings:
    return smtp_settings(url, ca_file=str(postfix.ca_file))


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_mail_is_accepted_and_arrives_as_it_was(postfix: Postfix, scheme: str) -> None:
    """The session is encrypted and logged in; names, dots, long lines and attachments arrive unchanged."""
    text = f".\n..dots\nSelamat pagi, Café 🚚\n{'long ' * 300}\n.\n"
    content = Content(
        f"Pesanan é {scheme}", "Änä, B.", text, "<p>.é</p>", [Attachment("日本.pdf", "image/png", b"\0\xff")]
    )
    async with opened(trusting(postfix, postfix.url(scheme=scheme))) as channel:
        receipt = await channel.send(fill(content))
        assert receipt.response.startswith("250 2.0.0 Ok: queued as")

    (message,) = await wait_for(lambda: [one for one in postfix.delivered() if one["Subject"] == content.subject])
    assert "with ESMTPSA" in message["Received"]
    assert message["To"].addresses[0].display_name == "Änä, B."
    body = message.get_body(("plain",))
    assert body is not None
    assert body.get_content() == text
    (attachment,) = message.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content()) == ("日本.pdf", b"\0\xff")


async def test_international_address_is_taken_with_smtputf8(postfix: Postfix) -> None:
    """Postfix offers SMTPUTF8, so an address beyond ASCII is sent unchanged."""
    async with opened(trusting(postfix, postfix.url())) as channel:
        await channel.send(make_mail("jörg@example.com"))
    await wait_for(lambda: [one for one in postfix.mailbox() if "\nTo: Ana <jörg@example.com>\n".encode() in one])


async def test_refusals_have_their_classes_and_the_connection_continues(postfix: Postfix) -> None:
    """A hard bounce, a greylisting and an acceptance over one connection each get their own class."""
    async with opened(trusting(postfix, postfix.url(options="?concurrency=1"))) as channel:
        for _ in range(2):
            with pytest.raises(PermanentError) as gone:
                await channel.send(make_mail("gone@example.com"))
            with pytest.raises(DeferredError) as grey:
                await channel.send(make_mail("grey@example.com"))
            await channel.send(make_mail("fine@example.com"))
    assert (gone.value.code, gone.value.suppress) == ("550 5.1.1", "550 5.1.1")
    assert "no such user" in gone.value.reply
    assert grey.value.wait_s == 300
    assert postfix.log().count("connect from") < 40


async def test_certificate_that_nobody_vouches_for_is_not_trusted(postfix: Postfix) -> None:
    """Without its authority no password is sent: the server counts as unavailable, with the reason."""
    async with opened(smtp_settings(postfix.url())) as channel:
        with pytest.raises(UnavailableError, match="not trusted") as refused:
            await channel.send(make_mail())
    assert refused.value.code == "tls"


async def test_sender_without_credentials_is_refused_for_good(postfix: Postfix) -> None:
    """Postfix does not relay without a log-in: 5.7.x is permanent, and the address is not suppressed."""
    async with opened(smtp_settings(f"smtp://localhost:{postfix.port}")) as channel:
        with pytest.raises(PermanentError) as refused:
            await channel.send(make_mail())
    assert refused.value.suppress == ""


async def test_status_really_logs_in(postfix: Postfix) -> None:
    """The status has the server's extensions and whether it accepts our credentials."""
    async with opened(trusting(postfix, postfix.url())) as channel:
        status = await channel.status()
    assert (status.reachable, status.authenticated) == (True, True)
    (server,) = msgspec.convert(status.detail["servers"], list[dict[str, object]])
    assert str(server["encryption"]).startswith("TLS")
    assert {"PIPELINING", "8BITMIME", "SMTPUTF8", "AUTH"} <= set(msgspec.convert(server["offers"], dict[str, str]))
    async with opened(trusting(postfix, postfix.url("wrong"))) as channel:
        status = await channel.status()
    assert (status.reachable, status.authenticated) == (True, False)
    assert "535" in str(status.detail)


async def test_password_over_an_unencrypted_connection_is_not_offered(postfix: Postfix) -> None:
    """Postfix offers AUTH only under TLS; a sender with tls=off stops the channel with that reason."""
    async with opened(smtp_settings(postfix.url(options="?tls=off"))) as channel:
        with pytest.raises(StopChannelError, match="no AUTH method"):
            await channel.send(make_mail())


async def test_wrong_password_pauses_the_channel_and_loses_nothing(world: World, postfix: Postfix) -> None:
    """A 535 pauses with the server's words, and all jobs wait; once the password is corrected, a resume sends all."""
    blast = await world.given(25)
    async with sending_mail(world, trusting(postfix, postfix.url("new"))):

        async def pause_reason() -> str:
            return (await world.control.channel_stats("email")).pause_reason

        assert "535 5.7.8" in await wait_for(pause_reason, what="the pause")

        async def all_wait() -> bool:
            stats = await world.control.channel_stats("email")
            return stats.active == 0 and stats.waiting == 25

        await wait_for(all_wait, what="all jobs given back")
        postfix.set_password("new")
        await world.control.resume_channel("email")

        async def counts() -> bool:
            return (await world.progress(blast)).counts["sent"] == 25

        await wait_for(counts, what="all to be sent")
    await world.check_balance()
    postfix.set_password("right")
