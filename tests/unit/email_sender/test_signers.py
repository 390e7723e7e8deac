"""The signing processes: the order of messages, given-up ones, and that a process that fails costs no message."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import psutil
import pytest
import structlog

from services.email_sender import signers as module
from services.email_sender.dkim_keys import DkimKey
from services.email_sender.signatures import REQUEST, pack_keys
from services.email_sender.signers import PendingMessage, Signers
from services.email_sender.signing import Draft
from tests.servers import wait_for
from tests.unit.email_sender.keys import ed25519_key, rsa_key, verdicts

RSA = DkimKey("example.com", "r", rsa_key(1024))
ED25519 = DkimKey("example.com", "e", ed25519_key())
# opens signers, says which processes they are, and waits
PARENT = """
import asyncio
from services.email_sender.signers import Signers
from tests.unit.email_sender.test_signers import RSA

async def main():
    signers = Signers([RSA])
    await signers.open()
    print(*(one.pid for one in signers._processes), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that stands still, a process may take long to start."""
    monkeypatch.setattr(module, "STUCK_S", 60.0)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[PendingMessage]:
    """The messages in the order in which they were completed."""
    completed: list[PendingMessage] = []
    complete = PendingMessage.complete

    def recorded(pending: PendingMessage, signatures: Sequence[bytes]) -> None:
        complete(pending, signatures)
        completed.append(pending)

    monkeypatch.setattr(PendingMessage, "complete", recorded)
    return completed


@pytest.fixture
async def signers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Signers]:
    """One process that gets one message at a time, so that the order is deterministic."""
    monkeypatch.setattr(module, "_MOST_PROCESSES", 1)
    monkeypatch.setattr(module, "_MOST_GIVEN", 1)
    monkeypatch.setattr(module, "_FEWEST_GIVEN", 0)
    made = Signers([RSA, ED25519])
    await made.open()
    yield made
    await made.close()


def draft(name: bytes, keys: Sequence[DkimKey] = (RSA,)) -> Draft:
    return Draft(b"", b"From: a@example.com\r\n\r\n%b\r\n" % name, keys)


def add(signers: Signers, name: bytes, keys: Sequence[DkimKey] = (RSA,), *, urgent: bool = False) -> PendingMessage:
    pending = PendingMessage()
    signers.add(pending, draft(name, keys), urgent=urgent)
    return pending


def stop(signers: Signers) -> int:
    """Stop the only process; return its id."""
    pid = signers._processes[0].pid
    os.kill(pid, signal.SIGSTOP)
    return pid


async def replaced(signers: Signers, pid: int) -> None:
    """Wait until another process has taken the place of this one."""
    await wait_for(lambda: bool(signers._processes) and signers._processes[0].pid != pid, what="another process")


async def test_each_signature_verifies(signers: Signers) -> None:
    """Messages with an RSA key, an Ed25519 key and both get their own signatures, in any mixture."""
    kinds = [(RSA,), (ED25519,), (RSA, ED25519), (ED25519, RSA)] * 5
    added = [add(signers, b"%d" % number, keys) for number, keys in enumerate(kinds)]
    for pending, keys in zip(added, kinds, strict=True):
        await pending.wait()
        assert pending.content is not None
        assert verdicts(pending.content, keys) == [True] * len(keys)


async def test_hurried_message_goes_before_all_that_wait(signers: Signers, done: list[PendingMessage]) -> None:
    """A message whose turn has come is signed next, once; then urgent ones, and the others in their order."""
    pid = stop(signers)
    first, second, third, fourth = (add(signers, name) for name in (b"1", b"2", b"3", b"4"))
    await asyncio.sleep(0)
    urgent = add(signers, b"5", urgent=True)
    signers.hurry(fourth)
    os.kill(pid, signal.SIGCONT)
    await asyncio.gather(*(one.wait() for one in (first, second, third, fourth, urgent)))
    assert done == [first, urgent, fourth, second, third]


async def test_message_that_is_given_up_is_not_signed(signers: Signers, done: list[PendingMessage]) -> None:
    """A message that has left the sender takes no signing time from the others, even if a process has it already."""
    pid = stop(signers)
    first, second, third = (add(signers, name) for name in (b"1", b"2", b"3"))
    await asyncio.sleep(0)
    first.give_up()
    second.give_up()
    os.kill(pid, signal.SIGCONT)
    await third.wait()
    assert [first.content, second.content] == [None, None]
    assert done == [first, third]


async def test_messages_of_a_process_that_ends_are_signed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had several, some in mid-answer: each is signed once, and a process takes its place."""
    monkeypatch.setattr(module, "_MOST_PROCESSES", 1)
    signers = Signers([RSA])
    await signers.open()
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            pid = stop(signers)
            added = [add(signers, b"%d" % number) for number in range(40)]
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
            await replaced(signers, pid)
            await asyncio.gather(*(one.wait() for one in added))
            # with the only process gone they are signed at their turns
            assert all(one.given_up for one in added)
            again = [add(signers, b"%d" % number) for number in range(40)]
            await asyncio.gather(*(one.wait() for one in again))
            assert [verdicts(one.content or b"", [RSA]) for one in again] == [[True]] * 40
    assert {one["event"] for one in logged} == {"signing_process_lost"}
    await signers.close()


async def test_messages_of_a_process_that_ends_go_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two processes nothing is given up."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    signers = Signers([RSA])
    await signers.open()
    assert len(signers._processes) == 2
    pid = stop(signers)
    added = [add(signers, b"%d" % number) for number in range(100)]
    await added[-1].wait()
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*(one.wait() for one in added))
    assert [verdicts(one.content or b"", [RSA]) for one in added] == [[True]] * 100
    await signers.close()


async def test_process_that_stands_still_is_replaced(signers: Signers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose turn has come waits for it a few seconds; it is then signed otherwise."""
    pid = stop(signers)
    stuck = add(signers, b"1")
    await asyncio.sleep(0)
    with monkeypatch.context() as patched:
        patched.setattr(module, "STUCK_S", 0.05)
        assert await signers.wait(stuck) is None
    await replaced(signers, pid)
    assert verdicts(await signers.wait(add(signers, b"2")) or b"", [RSA]) == [True]


async def test_without_a_process_messages_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are signed at their turns; as soon as a process can be started, it signs again."""
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as logged:
        patched.setattr(sys, "executable", "/nowhere/python")
        signers = Signers([ED25519])
        await signers.open()
        assert (await signers.wait(add(signers, b"1", [ED25519]))) is None
    assert {one["event"] for one in logged} == {"signing_process_not_started"}
    await wait_for(lambda: bool(signers._processes), what="a process")
    assert verdicts(await signers.wait(add(signers, b"2", [ED25519])) or b"", [ED25519]) == [True]
    await signers.close()


async def test_closed_signers_leave_no_process(signers: Signers) -> None:
    """What waits is given up, and nothing is started again."""
    pid = stop(signers)
    waiting = add(signers, b"1")
    os.kill(pid, signal.SIGCONT)
    await signers.close()
    assert waiting.given_up
    assert not signers._processes
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_processes_end_with_a_killed_sender() -> None:
    """Even a sender that can do nothing any more leaves none behind."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert processes
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def test_process_answers_requests_that_come_in_pieces() -> None:
    """It ignores the signals that end a sender, answers what is whole, and ends with its stdin."""
    digest = b"d" * 32
    packed = pack_keys([RSA.private, ED25519.private]) + REQUEST.pack(1, digest) + REQUEST.pack(0, digest)
    command = [sys.executable, "-m", "services.email_sender.signatures"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for at in range(0, len(packed), 7):
            process.stdin.write(packed[at : at + 7])
        assert process.stdout.read(64) == ED25519.sign(digest)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.stdin.write(REQUEST.pack(1, digest))
        answer = b""
        while len(answer) < 128 + 64:
            answer += process.stdout.read(1024)
        assert answer == RSA.sign(digest) + ED25519.sign(digest)
        process.stdin.close()
        assert process.wait(30) == 0
