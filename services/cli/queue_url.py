"""The Redis of a system, for the commands that look into it directly."""

from __future__ import annotations

from collections.abc import Mapping

from services.cli.data_secrets import REDIS_PASSWORD, read_secret
from services.cli.plan import SERVER_OFFSET, UpOptions, with_redis
from shared.errors import KurirError, QueueUnavailableError
from shared.settings import EnvReader, read_partitions


def find_queue(options: UpOptions, env: Mapping[str, str]) -> str:
    """Return the URL of the queue's Redis: the one that is configured, else the embedded one with its password.

    Raises SettingsError.
    """
    given = with_redis(options, env).redis_url
    if given:
        return given
    password = read_secret(options.data_dir, REDIS_PASSWORD)
    return f"redis://{f':{password}@' if password else ''}127.0.0.1:{options.port + SERVER_OFFSET}/0"


def find_partitions(env: Mapping[str, str]) -> int:
    """Return the number of partitions of a channel's queue; raises SettingsError."""
    reader = EnvReader(env)
    count = read_partitions(reader)
    reader.finish()
    return count


def explained(error: KurirError) -> list[str]:
    """Return the lines that report why a command could not look into the queue, with what to do if Redis is away."""
    if isinstance(error, QueueUnavailableError):
        return [str(error), "check that `kurir up` is running, or set --redis-url or KURIR_REDIS_URL"]
    return [str(error)]
