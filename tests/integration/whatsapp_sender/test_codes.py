"""Every WhatsApp code of the table, each answered by a real HTTP server in the Cloud API's form."""

from __future__ import annotations

import json

import pytest

from services.sandbox.outcomes import WHATSAPP_ERRORS
from services.whatsapp_sender.replies import DEFERRED, PERMANENT_DATA, PERMANENT_RECIPIENT, STOP, STOP_BLAST, TRANSIENT
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    StopBlastError,
    StopChannelError,
    TransientError,
    UncertainError,
)
from tests.integration.whatsapp_sender.providers import ACCEPTED, MESSAGE, error_body, opened, providing

# written out once more, so that the code's table is held against another hand's
TABLE: dict[type[SendError], list[int]] = {
    DeferredError: [4, 613, 80007, 130429, 131056],
    TransientError: [1, 2, 131000, 131016, 131057, 133004],
    PermanentError: [
        *(131021, 131026, 131030, 131047, 131049, 130472, 133010, 131050),
        *(100, 131008, 131009, 132000, 132001, 132005, 132007, 132012),
    ],
    StopChannelError: [0, 3, 10, 190, *range(200, 300), 131005, 131031, 131042, 131048, 368],
    StopBlastError: [132015, 132016],
}  # fmt: skip
CASES = [(kind, code) for kind, codes in TABLE.items() for code in codes]


async def test_every_code_of_the_table() -> None:
    """Each code has its class whatever the HTTP status; reason, code and the provider's own words are kept."""
    async with providing() as provider, opened(provider.url) as channel:
        for kind, code in CASES:
            for status in (400, 200, 500):
                provider.answers(status, error_body(code))
                with pytest.raises(SendError) as caught:
                    await channel.send(MESSAGE)
                error = caught.value
                assert type(error) is kind, (code, status, error)
                assert error.code == str(code)
                assert error.reply == json.dumps(error_body(code))
                assert error.message == f"WhatsApp error {code}: (#{code}) Something (More about it)"
    assert len(provider.bodies) == len(CASES) * 3


def test_the_table_is_whole() -> None:
    """Code and test speak of the same codes, and the sandbox can answer with each class."""
    known = DEFERRED | TRANSIENT | PERMANENT_RECIPIENT | PERMANENT_DATA | STOP | STOP_BLAST
    assert known == {code for _, code in CASES}
    assert set(WHATSAPP_ERRORS) <= known
    for codes in TABLE.values():
        assert set(codes) & set(WHATSAPP_ERRORS)


async def test_only_an_opt_out_suppresses() -> None:
    """131050 suppresses marketing to the number; a number that is not on WhatsApp today may be tomorrow."""
    async with providing() as provider, opened(provider.url) as channel:
        for code in TABLE[PermanentError]:
            provider.answers(400, error_body(code))
            with pytest.raises(PermanentError) as caught:
                await channel.send(MESSAGE)
            assert caught.value.suppress == ("opted_out: 131050" if code == 131050 else "")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, StopChannelError), (403, StopChannelError), (429, DeferredError), (400, TransientError),
     (404, TransientError), (301, TransientError), (500, TransientError), (503, TransientError)],
)  # fmt: skip
async def test_a_status_without_a_code(status: int, kind: type[SendError]) -> None:
    """A page of a gateway or a proxy counts by its status; a redirect is not followed with our secret."""
    async with providing() as provider, opened(provider.url) as channel:
        provider.answers(status, "<html>no</html>", {"Location": provider.url})
        with pytest.raises(SendError) as caught:
            await channel.send(MESSAGE)
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.reply) == (f"http {status}", "<html>no</html>")
    assert len(provider.bodies) == 1


async def test_retry_after_is_honoured() -> None:
    """In a throttling, with a code or without; None where nothing is asked."""
    async with providing() as provider, opened(provider.url) as channel:
        for body in (error_body(130429), "slow down"):
            for headers, wait_s in (({"Retry-After": "17"}, 17.0), ({}, None)):
                provider.answers(429, body, headers)
                with pytest.raises(DeferredError) as caught:
                    await channel.send(MESSAGE)
                assert caught.value.wait_s == wait_s


async def test_acceptance_and_what_was_asked() -> None:
    """Path, headers and body are those that Qiscus documents; the receipt has its id and its words."""
    async with providing() as provider, opened(provider.url) as channel:
        receipt = await channel.send(MESSAGE)
    assert receipt.message_id == ACCEPTED["messages"][0]["id"]  # type: ignore[index]  # a literal of the test's own
    assert receipt.response == json.dumps(ACCEPTED)
    (request,) = provider.requests
    assert (request.method, request.path) == ("POST", "/whatsapp/v1/app/42/messages")
    assert request.headers["Qiscus-App-Id"] == "app"
    assert request.headers["Qiscus-Secret-Key"] == "s3cret"
    assert request.headers["Content-Type"] == "application/json"
    assert provider.bodies == [MESSAGE.body]


async def test_acceptance_without_an_id_is_uncertain() -> None:
    """It may have been sent, so it is neither counted as sent under an invented id nor blindly sent again."""
    async with providing() as provider, opened(provider.url) as channel:
        provider.answers(200, {"success": True})
        with pytest.raises(UncertainError):
            await channel.send(MESSAGE)


async def test_an_absurdly_long_answer_is_cut() -> None:
    """Megabytes of an error page are not kept."""
    async with providing() as provider, opened(provider.url) as channel:
        provider.answers(400, "x" * 5_000_000)
        with pytest.raises(TransientError) as caught:
            await channel.send(MESSAGE)
    assert len(caught.value.reply) == 64 * 1024
