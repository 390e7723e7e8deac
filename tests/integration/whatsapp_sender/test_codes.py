"""Every WhatsApp code of the table, each answered by a real HTTP server in the Cloud API's form, for both drivers."""

from __future__ import annotations

import json

import pytest

from services.sandbox.outcomes import WHATSAPP_ERRORS
from services.whatsapp_sender.codes import KNOWN
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    ServerFailedError,
    StopBlastError,
    StopChannelError,
    TransientError,
    TryLaterError,
    UnavailableError,
    UncertainError,
)
from tests.integration.whatsapp_sender.providers import ACCEPTED, Api, error_body

# written out again, to check the code's table against an independent one
TABLE: dict[type[SendError], list[int]] = {
    DeferredError: [4, 17, 32, 341, 613, *range(80000, 80015), 130429, 131056, 132069, 133016],
    TransientError: [1, 131000],
    TryLaterError: [2, 131016, 131057, 133004],
    PermanentError: [
        *(130497, 131021, 131026, 131030, 131047, 131049, 130472, 131062, 131050, 137000),
        *(100, 131008, 131009, 131051, 131052, 131053, 132000, 132001, 132005, 132007, 132008, 132012, 135000),
    ],
    StopChannelError: [
        *(0, 3, 10, 33, 101, 102, 104, 190, *range(200, 300), 368),
        *(131005, 131031, 131037, 131042, 131044, 131045, 131048, 131064, 133010, 2500),
    ],
    StopBlastError: [131063, 132015, 132016, 132068, 139000, 139001, 139002, 139003, 139004],
}  # fmt: skip
CASES = [(kind, code) for kind, codes in TABLE.items() for code in codes]


async def test_every_code_of_the_table(api: Api) -> None:
    """Each code has its class, whatever the HTTP status; reason, code and the provider's words are kept."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        for kind, code in CASES:
            for status in (400, 200, 500):
                provider.answers(status, error_body(code))
                with pytest.raises(SendError) as caught:
                    await channel.send(api.message)
                error = caught.value
                assert type(error) is kind, (code, status, error)
                assert error.code == str(code)
                assert error.reply == json.dumps(error_body(code))
                assert error.message == f"WhatsApp error {code}: (#{code}) Something (More about it)"
    assert len(provider.bodies) == len(CASES) * 3


def test_the_table_is_whole() -> None:
    """Code and test list the same codes, and the sandbox can answer with each class."""
    assert {code for _, code in CASES} == KNOWN
    assert set(WHATSAPP_ERRORS) <= KNOWN
    for codes in TABLE.values():
        assert set(codes) & set(WHATSAPP_ERRORS)


async def test_only_an_opt_out_suppresses(api: Api) -> None:
    """131050 suppresses marketing to the number; a number not on WhatsApp is not suppressed, as it may join later."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        for code in TABLE[PermanentError]:
            provider.answers(400, error_body(code))
            with pytest.raises(PermanentError) as caught:
                await channel.send(api.message)
            assert caught.value.suppress == ("opted_out: 131050" if code == 131050 else "")


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ((401, 402, 403, 404, 407, 410), StopChannelError),
        ((405, 406, 411, 413, 414, 415, 417, 422, 431), PermanentError),
        ((400, 408, 409, 418, 425), TransientError),
        ((500, 502, 503, 504), ServerFailedError),
        ((429,), DeferredError),
    ],
)
async def test_a_status_without_a_code(api: Api, statuses: tuple[int, ...], kind: type[SendError]) -> None:
    """The status decides for a page of a gateway or proxy and for Qiscus's own JSON; 400 with JSON is permanent."""
    for status in statuses:
        # the breaker, which counts consecutive 5xx, is not tested here
        async with api.providing() as provider, api.opened(provider.url) as channel:
            for body in ("<html>no</html>", "", {"errors": {"message": "no"}}, {"status": status, "error": "no"}):
                provider.answers(status, body)
                with pytest.raises(SendError) as caught:
                    await channel.send(api.message)
                expected = PermanentError if status == 400 and isinstance(body, dict) else kind
                assert type(caught.value) is expected, (status, body)
                assert caught.value.code == f"http {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_opens_the_breaker(api: Api, status: int) -> None:
    """Our secret is sent nowhere else, no attempt is used, and after five the channel is not tried for a while."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(status, "<html>moved</html>", {"Location": f"{provider.url}/log-in"})
        for _ in range(5):
            with pytest.raises(
                UnavailableError, match=r"redirected to http.*/log-in, but redirects are not followed"
            ) as caught:
                await channel.send(api.message)
            assert caught.value.code == f"http {status}"
        assert not channel.available()
    assert {request.path for request in provider.requests} == {api.path}
    assert len(provider.bodies) == 5


@pytest.mark.parametrize("body", ["<html>Log in to the network</html>", {"status": "ok"}, ""])
async def test_pages_that_only_resemble_acceptances_open_the_breaker(api: Api, body: object) -> None:
    """A captive portal answers 200 to everything: five messages are uncertain, and the rest waits until it is gone."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(200, body)
        for _ in range(5):
            assert channel.available()
            with pytest.raises(UncertainError):
                await channel.send(api.message)
        assert not channel.available()
        with pytest.raises(UnavailableError, match="without a message id"):
            await channel.send(api.message)
    assert len(provider.bodies) == 5


@pytest.mark.parametrize("code", [131_999, 139_100, 2388001, 138_006])
async def test_a_code_of_metas_that_is_not_listed(api: Api, code: int) -> None:
    """With a 4xx it is permanent, unless the status concerns us or is temporary."""
    kinds = {400: PermanentError, 404: PermanentError, 422: PermanentError, 401: StopChannelError,
             402: StopChannelError, 408: TransientError, 429: DeferredError, 500: TransientError}  # fmt: skip
    async with api.providing() as provider, api.opened(provider.url) as channel:
        for status, kind in kinds.items():
            provider.answers(status, error_body(code))
            with pytest.raises(SendError) as caught:
                await channel.send(api.message)
            assert type(caught.value) is kind, status
            assert caught.value.code == str(code)


async def test_a_number_that_does_not_exist_stops_the_channel(api: Api) -> None:
    """100 concerns the message, unless Meta's subcode 33 or a 404 says that the sending number does not exist."""
    missing = error_body(100, "Unsupported post request. Object with ID '42' does not exist")
    missing["error"]["error_subcode"] = 33
    async with api.providing() as provider, api.opened(provider.url) as channel:
        for status, body in ((400, missing), (404, error_body(100))):
            provider.answers(status, body)
            with pytest.raises(StopChannelError):
                await channel.send(api.message)
        provider.answers(404, error_body(132001))
        with pytest.raises(PermanentError):
            await channel.send(api.message)


@pytest.mark.parametrize("status", [302, 400, 500, 502, 504])
async def test_a_failure_that_names_a_message_is_not_sent_again(api: Api, status: int) -> None:
    """If a gateway fails after WhatsApp's acceptance, it is unknown whether the message was forwarded."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(status, ACCEPTED)
        with pytest.raises(UncertainError, match="wamid"):
            await channel.send(api.message)


async def test_foreign_bytes_in_a_header_do_no_harm(api: Api) -> None:
    """They become part of the reason, which is stored."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(302, "", {"Location": "/\udce4nderung"})
        with pytest.raises(UnavailableError) as caught:
            await channel.send(api.message)
    assert "nderung" in caught.value.message
    caught.value.message.encode()


async def test_an_answer_never_shows_our_secret(api: Api) -> None:
    """A proxy's page that shows the request's headers is kept without it."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(400, "you sent the key: s3cret")
        with pytest.raises(SendError) as caught:
            await channel.send(api.message)
    assert caught.value.reply == "you sent the key: ***"


async def test_retry_after_is_honoured(api: Api) -> None:
    """It counts for rate limits, with a code or without (None without the header), and for trouble."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        for status, trouble in ((503, "maintenance"), (503, error_body(131016)), (500, error_body(131000)), (408, "")):
            provider.answers(status, trouble, {"Retry-After": "90"})
            with pytest.raises(DeferredError) as away:
                await channel.send(api.message)
            assert away.value.wait_s == 90.0
        for body in (error_body(130429), "slow down"):
            for headers, wait_s in (({"Retry-After": "17"}, 17.0), ({}, None)):
                provider.answers(429, body, headers)
                with pytest.raises(DeferredError) as caught:
                    await channel.send(api.message)
                assert caught.value.wait_s == wait_s
        # gateways wrap refusals in a 200
        provider.answers(200, error_body(130429), {"Retry-After": "17"})
        with pytest.raises(DeferredError) as wrapped:
            await channel.send(api.message)
        assert wrapped.value.wait_s == 17.0


async def test_acceptance_and_what_was_asked(api: Api) -> None:
    """The provider finds nothing wrong with path, headers and body; the receipt has the response's id and words."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        receipt = await channel.send(api.message)
    assert receipt.message_id == ACCEPTED["messages"][0]["id"]  # type: ignore[index]  # a literal of the test's own
    assert receipt.response == json.dumps(ACCEPTED)
    (request,) = provider.requests
    assert (request.method, request.path) == ("POST", api.path)
    assert provider.bodies == [api.message.body]


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream; charset=klingon", "", "*"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
async def test_an_acceptance_is_read_in_any_encoding(api: Api, encoding: str, content_type: str) -> None:
    """A byte order mark or a wrong content type does not make the message be sent again."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(200, json.dumps(ACCEPTED).encode(encoding), {"Content-Type": content_type})
        receipt = await channel.send(api.message)
    assert receipt.message_id == ACCEPTED["messages"][0]["id"]  # type: ignore[index]  # a literal of the test's own


async def test_acceptance_without_an_id_is_uncertain(api: Api) -> None:
    """It may have been sent, so it does not count as sent under an invented id, and is not blindly sent again."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(200, {"success": True})
        with pytest.raises(UncertainError):
            await channel.send(api.message)


async def test_an_absurdly_long_answer_is_cut(api: Api) -> None:
    """Megabytes of an error page are not kept."""
    async with api.providing() as provider, api.opened(provider.url) as channel:
        provider.answers(400, "x" * 5_000_000)
        with pytest.raises(TransientError) as caught:
            await channel.send(api.message)
    assert len(caught.value.reply) == 64 * 1024
