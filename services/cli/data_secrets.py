"""The secrets of a data folder: created at the first start of `kurir up`, kept for the next, read by other commands.

Each is a file that only its owner can read. Files are written atomically, so a start that is killed leaves no empty
one behind.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from shared.errors import SettingsError
from shared.settings import INTERNAL_SECRET, EnvReader

LINKS, INTERNAL, REDIS_PASSWORD, HOOKS = "secret", "internal_secret", "redis_password", "hook_token"
SERVER_CONFIG = "redis.conf"
_OWNERS_ALONE = 0o600


def make_secrets(folder: Path) -> None:
    """Create missing secrets, and the embedded server's configuration with its password; raises OSError."""
    for name in (LINKS, INTERNAL, REDIS_PASSWORD, HOOKS):
        path = folder / name
        if not path.exists() or not path.stat().st_size:
            _write(path, secrets.token_urlsafe(32) + "\n")
        path.chmod(_OWNERS_ALONE)
    # every user of the machine can see a password on the command line
    _write(folder / SERVER_CONFIG, f"requirepass {read_secret(folder, REDIS_PASSWORD)}\n")


def read_secret(folder: Path, name: str) -> str:
    """Return a secret of a data folder, "" if it does not exist; raises SettingsError if it cannot be read."""
    path = folder / name
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError([f"cannot read {path}: {reason}; run this as the user of `kurir up`"]) from error


def internal_secret(env: Mapping[str, str], folder: Path) -> str:
    """Return the secret by which a system's services authenticate: from the environment, or from its data folder."""
    reader = EnvReader(env)
    given = reader.text(INTERNAL_SECRET, "")
    reader.finish()
    return given or read_secret(folder, INTERNAL)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _OWNERS_ALONE)
    try:
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - Path.open takes no mode bits
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        # a full disk is reported without the file's name
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    partial.replace(path)
