"""The table of error codes is complete and correct: each code can be provoked, and has the status of the table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from services.ingest.http.errors import ERROR_CODES
from tests.integration.ingest.conftest import StartIngest
from tests.integration.ingest.provocations import PROVOCATIONS, Setting
from tests.integration.ingest.running import Api


@pytest.fixture
async def setting(api: Api, redis: Redis, start_ingest: StartIngest) -> AsyncIterator[Setting]:
    async with AsyncExitStack() as stack:
        yield Setting(api, redis, start_ingest, stack)


def test_every_code_has_its_provocation() -> None:
    """Every code of the table can be provoked, and no other code is returned."""
    assert set(PROVOCATIONS) == set(ERROR_CODES)


@pytest.mark.parametrize("code", sorted(PROVOCATIONS))
async def test_a_provoked_code_comes_with_its_status(code: str, setting: Setting) -> None:
    """The answer has the table's status, the form of every error, and the code."""
    reply = await PROVOCATIONS[code](setting)
    assert reply.body["success"] is False
    assert code in reply.codes, reply.body
    assert reply.status == ERROR_CODES[reply.body["code"]].status
    if code != "SENDER_NOT_ALLOWED":
        assert ERROR_CODES[code].status == reply.status
    assert reply.body["message"]
    if reply.status in {429, 503} or code == "IDEMPOTENCY_IN_PROGRESS":
        assert int(reply.headers["Retry-After"]) >= 1
