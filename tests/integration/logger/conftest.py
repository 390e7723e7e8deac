"""One logger process for the tests that only ask; those that disturb it make their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.logger.service import LoggerProcess
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """A server that a module's logger keeps to itself."""
    server = RedisServer()
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="module")
def logger(own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggerProcess]:
    """A running logger."""
    process = LoggerProcess(own_redis.url, tmp_path_factory.mktemp("logger"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
def make_logger(tmp_path: Path) -> Iterator[LoggerMaker]:
    """Make loggers; none outlives its test."""
    maker = LoggerMaker(tmp_path)
    yield maker
    for process in maker.made:
        process.kill()


class LoggerMaker:
    """Makes loggers with their data below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[LoggerProcess] = []

    def __call__(self, redis_url: str, folder: str = "data") -> LoggerProcess:
        """Make a logger that is not running yet."""
        path = self._folder / folder
        path.mkdir(exist_ok=True)
        self.made.append(LoggerProcess(redis_url, path))
        return self.made[-1]
