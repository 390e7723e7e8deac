"""A server that is another than KURIR_REDIS_URL says: it counts as unavailable, and the error says what to change."""

from __future__ import annotations

import pytest
from redis.exceptions import ClusterCrossSlotError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.errors import QueueUnavailableError
from shared.queue.connection import translated


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MovedError("1234 10.0.0.1:6379"), "must begin with redis+cluster://"),
        (ClusterCrossSlotError("Keys in request don't hash to the same slot"), "must begin with redis+cluster://"),
        (ResponseError("SELECT is not allowed in cluster mode"), "must begin with redis+cluster://"),
        (
            RedisConnectionError("no node of the cluster answers: This instance has cluster support disabled"),
            "must begin with redis:// or rediss://",
        ),
        (ResponseError("DB index is out of range"), "names a database that the server does not have"),
        (ResponseError("unknown command 'EVALSHA', with args beginning with: "), "for a Sentinel"),
        (ResponseError("unknown command `xreadgroup`, with args beginning with: "), "for a Sentinel"),
        (RedisConnectionError("no Sentinel answers: unknown command 'SENTINEL', with args"), "for a Sentinel"),
    ],
)
def test_the_error_says_what_to_change(error: RedisError, advice: str) -> None:
    """A service waits instead of ending with a traceback, and says why in its log and its health."""
    with pytest.raises(QueueUnavailableError, match="fetch: ") as raised, translated("fetch"):
        raise error
    assert "KURIR_REDIS_URL" in str(raised.value)
    assert advice in str(raised.value)


@pytest.mark.parametrize("words", ["unknown command 'CONFIG'", "GAP 5 7", "value is not an integer", "NOGROUP x"])
def test_other_errors_stay_what_they_are(words: str) -> None:
    """Callers read them; a managed service may not know CONFIG."""
    with pytest.raises(ResponseError), translated("call"):
        raise ResponseError(words)
