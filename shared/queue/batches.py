"""Names for event batches: each script call by a producer has the next number of its step."""

from __future__ import annotations

import itertools
import os
import secrets
import time

import msgspec

_encoder = msgspec.msgpack.Encoder()


def boot_name(role: str, host: str) -> str:
    """Return a name that is unique to this process: role, host, process id and boot epoch.

    A consumer with this name is a fencing token: entries of an earlier process do not belong to this one.
    """
    return f"{role}-{host}-{os.getpid()}-{time.time_ns() // 1_000_000:x}{secrets.token_hex(2)}"


class Numbered:
    """The heads of one producer's batches for one step. Numbers rise; no two batches share one."""

    def __init__(self, producer: str, step: str) -> None:
        self.producer = f"{producer}/{step}"
        self._packed = b"\x93" + _encoder.encode(self.producer)
        self._numbers = itertools.count(1)

    def next(self) -> tuple[int, bytes]:
        """Return the next number and the packed head `[producer, number, …` of its batch."""
        number = next(self._numbers)
        return number, self._packed + _encoder.encode(number)
