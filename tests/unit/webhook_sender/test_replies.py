"""What answers and errors mean, and what their words must not show."""

from __future__ import annotations

import ssl

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from services.webhook_sender.replies import Answer, hidden_texts, loss_of, receipt_of, refusal_of
from shared.errors import DeferredError, SendError, ServerFailedError, StopChannelError, TransientError


@given(st.integers(100, 999), st.text(), st.binary(max_size=2000), st.text(), st.text(), st.text())
def test_every_answer_has_one_outcome(  # noqa: PLR0917 -- one for each field of an answer
    status: int, reason: str, raw: bytes, encoding: str, retry_after: str, location: str
) -> None:
    """Whatever it says, in whatever bytes: legible words, and no exception but the outcome."""
    answer = Answer(status, reason, raw, encoding, retry_after, location, 1_700_000_000.0)
    if answer.is_acceptance:
        assert receipt_of(answer, "evt_1", []).response.startswith(str(status))
        return
    error = refusal_of(answer, ["secret"])
    assert isinstance(error, SendError)
    assert error.code == str(status)
    assert isinstance(error, StopChannelError) == (status == 410)
    f"{error.message}{error.reply}".encode()


def test_kinds_of_refusals() -> None:
    """The table of the module's docstring, at its edges."""
    kinds = {status: type(refusal_of(Answer(status), [])) for status in (199, 300, 399, 400, 499, 500, 599, 600)}
    transient, failed = TransientError, ServerFailedError
    assert list(kinds.values()) == [transient, transient, transient, transient, transient, failed, failed, transient]
    assert type(refusal_of(Answer(429, retry_after="5"), [])) is DeferredError
    assert type(refusal_of(Answer(500, retry_after="5"), [])) is ServerFailedError


def test_hidden_texts_are_the_path_the_query_and_their_parts() -> None:
    """As written and decoded; what is too short to be a secret stays, or every answer would be stars."""
    url = URL("https://example.com/api/hook/T0123456789/a%20token?k=1&token=p%26q-secret")
    hidden = hidden_texts(url, ["whsec_c2VjcmV0"])
    for text in ("T0123456789", "p&q-secret", "whsec_c2VjcmV0", "c2VjcmV0", url.raw_path_qs, "k=1&token=p%26q-secret"):
        assert text in hidden
    for text in ("hook", "api", "1", "/", "example.com", ""):
        assert text not in hidden
    assert hidden_texts(URL("https://example.com/")) == []


@pytest.mark.parametrize(
    "quote", ["/a/s3cr3t?x=1&y=2", "\\/a\\/s3cr3t?x=1&y=2", "/a/s3cr3t?x=1&amp;y=2", "x=1&amp;y=2"]
)
def test_url_is_hidden_however_an_answer_spells_it(quote: str) -> None:
    """As it is, as PHP writes it in JSON, and as HTML has it."""
    answer = Answer(404, "Not Found", f"no {quote} here".encode())
    assert answer.words(hidden_texts(URL("https://example.com/a/s3cr3t?x=1&y=2"))) == "no *** here"


def test_secret_at_the_cut_leaves_no_beginning() -> None:
    """Words are shortened after they are hidden, so a secret across the cut does not show its first half."""
    answer = Answer(404, "Not Found", b"a" * 990 + b"token-0123456789-token" + b"b" * 100)
    words = answer.words(["token-0123456789-token"])
    assert len(words) <= 1000
    assert "token" not in words


def test_words_of_a_refusal_quote_a_little_of_the_answer() -> None:
    """In one line; the whole beginning is the reply."""
    error = refusal_of(Answer(422, "Unprocessable", b"first\nsecond\t" + b"x" * 5000), [])
    assert error.message.startswith("the endpoint answered 422 Unprocessable: first second xxx")
    assert len(error.message) < 300
    assert error.reply.startswith("first\nsecond")
    assert len(error.reply) <= 1000


_URL = "https://example.com/secret-path?token=hidden"


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ConnectionTimeoutError(f"Connection timeout to host {_URL}"),
        TimeoutError(_URL),
        aiohttp.ServerDisconnectedError(_URL),
        aiohttp.ClientOSError(104, f"Can not write request body for {_URL}"),
        aiohttp.ClientConnectionError(_URL),
        aiohttp.ClientPayloadError(_URL),
        aiohttp.InvalidURL(_URL),
        aiohttp.ClientResponseError(None, (), status=400, message=f"Bad header:\n\n  b'{_URL}'"),  # type: ignore[arg-type]
        ConnectionResetError(_URL),
        ssl.SSLError(1, _URL),
    ],
)
def test_no_loss_quotes_the_url(error: Exception, begun: bool) -> None:
    """aiohttp's texts have it whole; these words have the host and what happened."""
    lost = loss_of(error, "example.com:443", begun=begun)
    assert "secret-path" not in lost.message + lost.reply
    assert "hidden" not in lost.message + lost.reply
    assert lost.code
