"""Preflight: checks of the folder and the ports before anything is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services.cli.preflight import check_ports, claimed_folder
from shared.errors import SettingsError
from tests.servers import free_port


def test_a_folder_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    """The error of the second claim names the first; afterwards the folder is free again."""
    held = claimed_folder(tmp_path / "data", "pid 7, http://127.0.0.1:3000")
    refused = pytest.raises(SettingsError, match=r"in use by another kurir \(pid 7, http://127.0.0.1:3000\)")
    with held, refused:
        _claim(tmp_path / "data")
    _claim(tmp_path / "data")


def _claim(folder: Path) -> None:
    with claimed_folder(folder, "second"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file is in the way: the line has the path and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write the data folder .*file/data: Not a directory"):
        _claim(tmp_path / "file" / "data")


def test_every_port_that_is_taken_is_named_in_one_line() -> None:
    """The line lists both taken ports, and not the free one."""
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = {one.getsockname()[1]: "ingest", free: "logger", two.getsockname()[1]: "redis"}
        with pytest.raises(SettingsError) as raised:
            check_ports(ports, "127.0.0.1")
    (line,) = raised.value.problems
    taken = [port for port in ports if port != free]
    assert line == f"ports are already in use: {taken[0]} (ingest), {taken[1]} (redis); choose others with --port"


def test_free_ports_pass() -> None:
    """The check keeps no port open."""
    port = free_port()
    check_ports({port: "ingest"}, "127.0.0.1")
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_that_does_not_exist_is_refused() -> None:
    """--port 65500 would put the sandbox beyond the last port."""
    with pytest.raises(SettingsError, match="port 65590 is out of range"):
        check_ports({65590: "sandbox"}, "127.0.0.1")
