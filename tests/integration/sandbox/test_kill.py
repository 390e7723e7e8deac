"""The delivery file survives kill -9: it has every answered message and no incomplete line."""

from __future__ import annotations

import contextlib
import smtplib
import threading
from pathlib import Path

from tests.integration.sandbox.running import Sandbox


def test_every_answered_message_is_in_the_file(tmp_path: Path) -> None:
    """After two kills under load, the file has all answered messages and at most one more per client and kill."""
    sandbox = Sandbox(tmp_path)
    answered: list[str] = []
    clients = 4

    def keep_sending(client: int, round_number: int, enough: threading.Event) -> None:
        with contextlib.suppress(smtplib.SMTPException, OSError), smtplib.SMTP("127.0.0.1", sandbox.smtp_port) as smtp:
            for number in range(100_000):
                to = f"r{round_number}-{client}-{number}@example.com"
                smtp.sendmail("a@example.com", [to], b"Subject: s\r\n\r\nbody\r\n")
                answered.append(to)
                if number == 100:
                    enough.set()

    for round_number in range(2):
        sandbox.start()
        enough = threading.Event()
        threads = [
            threading.Thread(target=keep_sending, args=(client, round_number, enough)) for client in range(clients)
        ]
        for thread in threads:
            thread.start()
        assert enough.wait(60)
        sandbox.kill()
        for thread in threads:
            thread.join(30)
    delivered = [line["to"] for line in sandbox.delivered()]
    assert set(answered) <= set(delivered)
    assert len(delivered) == len(set(delivered))
    assert len(delivered) <= len(answered) + 2 * clients
