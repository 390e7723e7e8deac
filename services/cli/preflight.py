"""Checks before anything is started: the data folder is ours and writable, and the ports are free."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shared.errors import SettingsError

_LOCK_NAME = "kurir.lock"


@contextmanager
def claimed_folder(folder: Path, description: str) -> Iterator[None]:
    """Lock the data folder for this process; raises SettingsError if it is not writable or another process holds it.

    The kernel releases the lock with the process, however it ends. The `description` is shown to a second process.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SettingsError([f"cannot write the data folder {folder}: {error.strerror}"]) from error
    try:
        _claim(lock, folder, description)
        yield
    finally:
        os.close(lock)


def _claim(lock: int, folder: Path, description: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode(errors="replace").strip() or "unknown"
        raise SettingsError(
            [f"the data folder {folder} is in use by another kurir ({holder}): stop it, or choose another --data-dir"]
        ) from None
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"{description}\n".encode())
    except OSError as error:
        raise SettingsError([f"cannot write the data folder {folder}: {error.strerror}"]) from error


def check_ports(ports: Mapping[int, str], host: str) -> None:
    """Raise SettingsError with one line that names every taken port and the service that needs it."""
    taken = [f"{port} ({needed_by})" for port, needed_by in ports.items() if not _is_free(port, host)]
    if taken:
        plural = "ports are" if len(taken) > 1 else "port is"
        raise SettingsError([f"{plural} already in use: {', '.join(taken)}; choose others with --port"])


def _is_free(port: int, host: str) -> bool:
    if not 0 < port < 65536:
        raise SettingsError([f"port {port} is out of range; choose a lower --port"])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise SettingsError([f"cannot listen on {host}:{port}: {error.strerror}"]) from error
    return True
