"""Why Redis does not serve a call: the driver's errors in words for the log, and in words that any client may read.

The words for clients are fixed sentences: those of the driver and the server may contain addresses and user names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MaxConnectionsError,
    NoPermissionError,
    ReadOnlyError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import CANNOT_BE_REACHED

NOT_REDIS = "the server at KURIR_REDIS_URL does not answer as Redis or Valkey does: check its host and port"
_OF_A_CLUSTER = (
    "the server belongs to a cluster, so KURIR_REDIS_URL must begin with redis+cluster:// or rediss+cluster://"
)
# refusals of a server that is another than KURIR_REDIS_URL says: by their words, and what to do
_WRONG_SERVERS = (
    (re.compile("(?i)hash to the same slot|not allowed in cluster mode"), _OF_A_CLUSTER),
    (
        re.compile("(?i)cluster support disabled"),
        "the server belongs to no cluster, so KURIR_REDIS_URL must begin with redis:// or rediss://",
    ),
    (re.compile("(?i)DB index is out of range"), "KURIR_REDIS_URL names a database that the server does not have"),
    (
        re.compile("(?i)unknown command.{0,3}(?:eval|script|x(?:add|readgroup|group)|sentinel)"),
        "the server is not one that Kurir can use; for a Sentinel, KURIR_REDIS_URL must begin with redis+sentinel://",
    ),
    (re.compile("(?i)Protocol error, got|does not answer as Redis"), NOT_REDIS),
)
_LOG_IN = "Redis refuses the user name or the password in KURIR_REDIS_URL"
_RIGHTS = "Redis's user lacks a right that Kurir needs"
_LOADING = "Redis is still loading its data"
_READS_ONLY = "the server is a replica, which only reads; a failover may be under way"
_NO_MASTER = "the replica has lost its master; a failover may be under way"
_TOO_MANY = "Redis has too many clients"
_BY_CLASS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ((AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError), _LOG_IN),
    (NoPermissionError, _RIGHTS),
    (BusyLoadingError, _LOADING),
    (ReadOnlyError, _READS_ONLY),
    (MaxConnectionsError, "this service uses all its connections to Redis"),
)
# for errors without a class, and for those that another error quotes: a Sentinel's, or those of a cluster's nodes
_BY_WORDS = (
    (
        re.compile("(?i)WRONGPASS|NOAUTH|invalid (?:username|password)|authentication required|no password is set"),
        _LOG_IN,
    ),
    (re.compile("(?i)NOPERM|has no permissions|no permissions to"), _RIGHTS),
    (re.compile("(?i)loading the dataset|is loading"), _LOADING),
    (re.compile("(?i)read only replica"), _READS_ONLY),
    (re.compile("(?i)MASTERDOWN|link with master is down"), _NO_MASTER),
    (re.compile("(?i)NOREPLICAS"), "Redis has fewer replicas than it needs to accept writes"),
    (re.compile("(?i)MISCONF|unable to persist"), "Redis cannot write to its disk and refuses writes"),
    (re.compile("(?i)^BUSY |busy running a script"), "Redis is busy with a script"),
    (re.compile("(?i)max number of clients"), _TOO_MANY),
    (
        re.compile(r"(?i)\[SSL|certificate"),
        "the TLS connection to Redis fails: check its certificates and KURIR_REDIS_URL",
    ),
    (re.compile("(?i)timeout|no reply within"), "Redis does not answer in time"),
)


def advice_on(error: Exception) -> str:
    """Return what to do where the server is another than KURIR_REDIS_URL says, "" otherwise."""
    if isinstance(error, AskError):
        return _OF_A_CLUSTER
    return _first(_WRONG_SERVERS, str(error))


def words_of(error: Exception) -> str:
    """Return the server's error text, with advice, for the log and the health.

    In a pipeline the driver prefixes it with the command, which may contain a name or a body, and quotes it.
    """
    before, marker, words = str(error).rpartition(" of pipeline caused error: ")
    advice = advice_on(error)
    shown = words.strip("(,)'\"") if marker else before + words
    return f"{shown} ({advice})" if advice and advice != shown else shown


def why(error: Exception) -> str:
    """Return why Redis does not serve, for clients: without an address, a name or data."""
    if advice := advice_on(error):
        return advice
    if found := next((words for kinds, words in _BY_CLASS if isinstance(error, kinds)), ""):
        return found
    if found := _first(_BY_WORDS, str(error)):
        return found
    if isinstance(error, ClusterDownError | TryAgainError):
        return "the cluster is not complete at the moment"
    return "Redis does not answer in time" if isinstance(error, RedisTimeoutError) else CANNOT_BE_REACHED


def _first(table: Iterable[tuple[re.Pattern[str], str]], words: str) -> str:
    return next((said for pattern, said in table if pattern.search(words)), "")
