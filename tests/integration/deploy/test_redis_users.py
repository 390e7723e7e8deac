"""The users of deploy/redis on real servers: who has access, and that data survives a restart."""

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
# two writes, as in the queue's scripts: the server writes them to its file as a transaction
SCRIPT = "redis.call('HSET', KEYS[1], 'total', '1'); return redis.call('HINCRBY', KEYS[1], 'sent', '1')"


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """Run a server of each kind with these users."""
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


def test_writes_of_scripts_survive_a_restart(server: RedisServer) -> None:
    """When the server loads its file, it reads back all writes of scripts and transactions.

    Redis loads the file as its own user `default`. Without that user's rights it refused every transaction in the file,
    and started without the data and without an error.
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


def test_access_requires_a_password(server: RedisServer) -> None:
    """The user `default`, which anonymous clients get, has no access, with or without an empty password."""
    for name, password in ((None, None), ("default", "")):
        with (
            redis.Redis(port=server.port, username=name, password=password, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.get("blast:one")
