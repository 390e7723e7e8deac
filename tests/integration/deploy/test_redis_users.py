"""The users of deploy/redis on real servers: who comes in, and what a restart leaves of the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import Kind, RedisServer

ACL = Path(__file__).resolve().parents[3] / "deploy" / "redis" / "users.acl"
PASSWORD = "password-of-kurir"
# as in the queue's scripts, two writes: a server that logs them puts them into a transaction
SCRIPT = "redis.call('HSET', KEYS[1], 'total', '1'); return redis.call('HINCRBY', KEYS[1], 'sent', '1')"


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server of each kind with these users."""
    users = tmp_path / "users.acl"
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    users.write_text(ACL.read_text().replace("KURIR_SHA256", digest).replace("ADMIN_SHA256", digest))
    kind: Kind = request.param
    found = RedisServer(kind, ["--aclfile", str(users)])
    found.start()
    yield found
    found.destroy()


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, username="kurir", password=PASSWORD, decode_responses=True)


def test_scripts_writes_outlive_a_restart(server: RedisServer) -> None:
    """What scripts and transactions wrote is read back when the server loads its file.

    Redis loads it as its own user `default`: with that user's rights taken away, every transaction in the file was
    refused while it was loaded, and the server started without the data and without an error.
    """
    with _client(server) as client:
        client.eval(SCRIPT, 1, "blast:one")
        with client.pipeline(transaction=True) as pipe:
            pipe.set("blast:two", "2")
            pipe.set("blast:three", "3")
            pipe.execute()
    server.restart()
    with _client(server) as client:
        found: Any = client.hgetall("blast:one")
        assert found == {"total": "1", "sent": "1"}
        assert (client.get("blast:two"), client.get("blast:three")) == ("2", "3")


def test_nobody_comes_in_without_a_password(server: RedisServer) -> None:
    """The user `default`, whom a client without a name is, may do nothing: neither with a password nor without."""
    for name, password in ((None, None), ("default", "")):
        with (
            redis.Redis(port=server.port, username=name, password=password, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.get("blast:one")
