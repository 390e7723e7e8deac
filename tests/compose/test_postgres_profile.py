"""The profile for PostgreSQL in real use: a log moves there, two loggers write, and a backup is a file again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compose.stack import Stack, is_available

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not is_available("postgres"), reason="$COMPOSE_SKIP has postgres"),
]

URL = "postgresql://kurir@postgres:5432/kurir"
RECIPIENTS = 500
KILL = """
import os
for pid in filter(str.isdigit, os.listdir('/proc')):
    if pid != '1' and int(pid) != os.getpid():
        if b'services.logger' in open(f'/proc/{pid}/cmdline', 'rb').read():
            os.kill(int(pid), 9)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Run the project with the log in its file, and without PostgreSQL's secret, as one that was upgraded."""
    found = Stack(tmp_path)
    found.make_secrets()
    (found.folder / "secrets" / "postgres_password").unlink()
    try:
        found.up(email_senders=1, build=True)
        yield found
    finally:
        found.destroy()


def _send(stack: Stack, name: str) -> str:
    recipients = [{"name": f"No {n}", "email": f"{name}{n}@example.com"} for n in range(RECIPIENTS)]
    body = {"templateId": "welcome", "globalVariables": {"start_url": "https://example.com"}, "channels": ["email"]}
    return str(stack.call("POST", "/api/messages/blast", {**body, "recipients": recipients})["blastId"])


def _wait_until_sent(stack: Stack, blast_id: str) -> None:
    def blast() -> dict[str, Any]:
        found: dict[str, Any] = stack.call("GET", f"/api/blasts/{blast_id}")["blast"]
        return found

    stack.wait(lambda: blast()["state"].startswith("completed"), 300, f"blast {blast_id} to end")
    assert (blast()["state"], blast()["counts"]["sent"]) == ("completed", RECIPIENTS)


def test_a_log_moves_to_postgresql_and_two_loggers_continue(stack: Stack) -> None:
    """Nothing needs PostgreSQL's secret before; afterwards old and new messages are there, and a logger may die."""
    first = _send(stack, "first")
    _wait_until_sent(stack, first)

    stack.make_secrets()
    stack.profiles.append("postgres")
    for name, value in (
        ("POSTGRES_PASSWORD_FILE", "./secrets/postgres_password"), ("KURIR_DATABASE_URL", URL), ("LOGGERS", "2"),
    ):  # fmt: skip
        stack.set(name, value)
    stack.compose("stop", "logger")
    while_it_stands = _send(stack, "second")
    stack.compose("up", "-d", "postgres")
    ask = ("pg_isready", "-h", "localhost", "-U", "kurir")
    stack.wait(lambda: "accepting" in stack.execute("postgres", *ask, check=False), 120, "PostgreSQL to be ready")
    copy = ("run", "--rm", "logger", "kurir", "copy-logs", "--data-dir", "/var/lib/kurir", "--to", URL)
    assert f"{RECIPIENTS} messages copied" in stack.compose(*copy)
    stack.up(email_senders=1, recreate=True)
    _wait_until_sent(stack, while_it_stands)

    for index in (1, 2):
        third = _send(stack, f"killed{index}")
        stack.execute("logger", "python", "-c", KILL, index=index, check=False)
        _wait_until_sent(stack, third)
    query = "SELECT status, count(*) AS n, count(DISTINCT job_id) AS jobs FROM message_logs GROUP BY 1"
    said = stack.execute("logger", "kurir", "query", "--json", query)
    assert f'"n": {4 * RECIPIENTS}' in said, said
    assert f'"jobs": {4 * RECIPIENTS}' in said, said
    assert stack.call("GET", f"/api/logs/messages?blast={first}")["logs"][0]["status"] == "sent"
    assert "SQLite format 3" in stack.execute(
        "logger", "sh", "-c", "kurir backup back.db >&2 && head -c 15 /var/lib/kurir/back.db"
    )


def test_a_password_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    """With the profile and without the setting, one line names the file and the remedy."""
    stack = Stack(tmp_path)
    stack.make_secrets()
    stack.profiles.append("postgres")
    try:
        said = stack.compose("up", "-d", "check-postgres-secret", "postgres", check=False)
        said += stack.compose("logs", "check-postgres-secret", check=False)
    finally:
        stack.destroy()
    assert "kurir: secrets/postgres_password is empty or shorter than 16 characters: run deploy/make-secrets.sh" in said
