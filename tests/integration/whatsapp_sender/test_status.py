"""Whether Qiscus can be reached and takes our credentials, asked for real and without sending anything."""

from __future__ import annotations

import pytest

from tests.integration.whatsapp_sender.providers import error_body, opened, providing
from tests.servers import free_port


@pytest.mark.parametrize(
    ("status", "body", "authenticated"),
    [
        (400, error_body(100, "Invalid parameter"), True),
        (422, "to is required", True),
        (401, "Unauthorized", False),
        (400, error_body(190, "Access token has expired"), False),
        (403, error_body(131031, "Account has been locked"), False),
        (502, "Bad Gateway", False),
    ],
)
async def test_what_an_answer_says_of_us(status: int, body: object, authenticated: bool) -> None:
    """An empty message that is refused as empty was read in our name; anything else is not a yes."""
    async with providing() as provider, opened(provider.url) as channel:
        provider.answers(status, body)
        found = await channel.status()
    assert (found.reachable, found.authenticated) == (True, authenticated)
    assert found.detail["httpStatus"] == status
    assert ("error" in found.detail) != authenticated
    assert provider.bodies == [b"{}"]


async def test_a_provider_that_is_away() -> None:
    """Neither reachable nor authenticated, with the reason; the secret is not in it."""
    async with opened(f"http://127.0.0.1:{free_port()}") as channel:
        found = await channel.status()
    assert (found.reachable, found.authenticated) == (False, False)
    assert "cannot connect" in str(found.detail["error"])
    assert "s3cret" not in str(found.detail)
