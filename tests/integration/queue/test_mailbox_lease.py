"""The lease of a mailbox for bounces: one holder at a time, until it gives it up or its time ends."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from shared.queue.connection import connect
from shared.queue.mailbox_lease import MailboxLease
from tests.servers import wait_for


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = connect(redis_url)
    yield redis
    await redis.aclose()


@pytest.fixture
def mailbox() -> str:
    return f"bounces@mail.example.com:993/{uuid.uuid4()}"


async def test_one_holds_it_and_renews_it(redis: Redis, mailbox: str) -> None:
    """The first one has it and may renew it; a second one waits; another mailbox has a lease of its own."""
    first, second = MailboxLease(redis, mailbox, "one"), MailboxLease(redis, mailbox, "two")
    assert await first.hold(60)
    assert not await second.hold(60)
    assert await first.hold(60)
    assert await MailboxLease(redis, f"{mailbox}/other", "two").hold(60)


async def test_given_up_it_is_free(redis: Redis, mailbox: str) -> None:
    """Only its holder can give it up; then another one takes it at once."""
    first, second = MailboxLease(redis, mailbox, "one"), MailboxLease(redis, mailbox, "two")
    assert await first.hold(60)
    await second.release()
    assert not await second.hold(60)
    await first.release()
    assert await second.hold(60)


async def test_lease_of_a_dead_process_ends(redis: Redis, mailbox: str) -> None:
    """Without renewal it ends after its time, which a renewal extends."""
    first, second = MailboxLease(redis, mailbox, "one"), MailboxLease(redis, mailbox, "two")
    assert await first.hold(0.05)
    assert await wait_for(lambda: second.hold(60), what="the end of the lease")
    assert not await first.hold(60)
