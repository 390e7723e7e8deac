"""One shared logger process for tests that only query it; tests that disturb it make their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.logger.service import LoggerProcess
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """Start a Redis server for one module's logger."""
    server = RedisServer()
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="module")
def logger(own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggerProcess]:
    """Start a logger for one module."""
    process = LoggerProcess(own_redis.url, tmp_path_factory.mktemp("logger"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
def make_logger(tmp_path: Path) -> Iterator[LoggerMaker]:
    """Return a maker of loggers, and kill them after the test."""
    maker = LoggerMaker(tmp_path)
    yield maker
    for process in maker.made:
        process.kill()


class LoggerMaker:
    """Makes loggers with their data under a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[LoggerProcess] = []

    def __call__(self, redis_url: str, folder: str = "data") -> LoggerProcess:
        """Return a logger that is not running yet."""
        path = self._folder / folder
        path.mkdir(exist_ok=True)
        self.made.append(LoggerProcess(redis_url, path))
        return self.made[-1]
