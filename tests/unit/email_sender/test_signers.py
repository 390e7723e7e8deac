"""The signing threads: the order of messages, cancelled ones, and that none is signed twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from services.email_sender.dkim_keys import DkimKey
from services.email_sender.signers import PendingMessage, Signers
from services.email_sender.signing import Draft
from tests.unit.email_sender.keys import rsa_key

RSA = DkimKey("example.com", "r", rsa_key(1024))


class Gate:
    """Blocks the signature of message 1 until it is opened, and records the order of all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.opened = threading.Event(), threading.Event()
        self.signed: list[bytes] = []
        monkeypatch.setattr(Draft, "signed", lambda draft: self._signed(draft._rest))

    def _signed(self, message: bytes) -> bytes:
        if message == content(b"1"):
            self.started.set()
            self.opened.wait(60)
        self.signed.append(message)
        return message


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def signers() -> Iterator[Signers]:
    """One thread, so that the order is deterministic."""
    made = Signers(1)
    yield made
    made.close()


def ahead(name: bytes) -> PendingMessage:
    return PendingMessage(Draft(b"", content(name), [RSA]).signed)


def content(name: bytes) -> bytes:
    return b"From: a@example.com\r\n\r\n%b\r\n" % name


def test_hurried_message_goes_before_all_that_wait(gate: Gate, signers: Signers) -> None:
    """A message whose turn has come is signed next, once; the others follow in their order."""
    first, second, third = ahead(b"1"), ahead(b"2"), ahead(b"3")
    for one in (first, second, third):
        signers.add(one)
    assert gate.started.wait(60)
    signers.hurry(third)
    gate.opened.set()
    assert [one.result(60) for one in (first, second, third)] == [content(b"1"), content(b"2"), content(b"3")]
    assert gate.signed == [content(b"1"), content(b"3"), content(b"2")]


def test_cancelled_message_is_not_signed(gate: Gate, signers: Signers) -> None:
    """A message that has left the sender takes no signing time from the others."""
    first, second, third = ahead(b"1"), ahead(b"2"), ahead(b"3")
    for one in (first, second, third):
        signers.add(one)
    assert gate.started.wait(60)
    assert second.cancel()
    gate.opened.set()
    assert third.result(60) == content(b"3")
    assert gate.signed == [content(b"1"), content(b"3")]


def test_threads_start_again_after_a_rest(signers: Signers) -> None:
    """A thread without work ends; the next message starts another."""
    for number in range(50):
        one = ahead(b"%d" % number)
        signers.add(one)
        assert one.result(60).endswith(content(b"%d" % number))
