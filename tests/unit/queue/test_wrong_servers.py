"""A server that is another than KURIR_REDIS_URL says: it counts as unavailable, and the error says what to change."""

from __future__ import annotations

import pytest
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

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


_SECRETS = ("10.0.0.9", "kurir-user", "s3cret", "xadd", "{email}")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (AuthenticationError("invalid username-password pair or user is disabled."), "the user name or the password"),
        (AuthenticationError("Authentication required."), "the user name or the password"),
        (AuthenticationWrongNumberOfArgsError("wrong number of arguments for 'auth' command"), "the password"),
        (RedisConnectionError("no Sentinel names a master: 10.0.0.9:1: WRONGPASS invalid"), "the password"),
        (NoPermissionError("User kurir-user has no permissions to run the 'xadd' command"), "lacks a right"),
        (NoPermissionError("No permissions to access a key {email}"), "lacks a right"),
        (BusyLoadingError("Valkey is loading the dataset in memory"), "still loading"),
        (ReadOnlyError("You can't write against a read only replica."), "is a replica"),
        (MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."), "lost its master"),
        (ClusterDownError("Hash slot not served"), "cluster is not complete"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "fewer replicas"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "write to its disk"),
        (ResponseError("BUSY Redis is busy running a script."), "busy with a script"),
        (RedisConnectionError("max number of clients reached"), "too many clients"),
        (
            RedisConnectionError("Error 1 connecting to 10.0.0.9:6380. [SSL: CERTIFICATE_VERIFY_FAILED]"),
            "TLS connection",
        ),
        (RedisTimeoutError("Timeout reading from 10.0.0.9:6379"), "does not answer in time"),
        (RedisConnectionError("Error 111 connecting to 10.0.0.9:6379. Connection refused."), "cannot be reached"),
        (MovedError("1234 10.0.0.9:6379"), "must begin with redis+cluster://"),
        (OSError("s3cret"), "cannot be reached"),
    ],
)
def test_the_words_for_clients_say_why_without_addresses_and_names(error: Exception, why: str) -> None:
    """The API's 503 said that Redis cannot be reached, whatever was wrong with it."""
    with pytest.raises(QueueUnavailableError) as raised, translated("fetch"):
        raise error
    assert why in raised.value.why
    assert not any(secret in raised.value.why for secret in _SECRETS)
