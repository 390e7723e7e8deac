"""The commands of `kurir`, run as a user would, against a running system."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.debian import program
from tests.e2e.system import KURIR, System

PEOPLE = """name,email,phone,order_number,amount,due_date
Siti,siti@example.com,081234567890,INV-1,15000,2026-12-01
Budi,bounce@example.com,081234567891,INV-2,15000,2026-12-01
Ayu,ayu@example.com,081234567892,INV-3,15000,2026-12-01
"""


class Shell:
    """Runs commands against one system."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self.people = folder / "people.csv"
        self.people.write_text(PEOPLE)
        self._url = f"http://127.0.0.1:{system.port}"
        self._logger_url = f"http://127.0.0.1:{system.port + 30}"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {"KURIR_URL": self._url, "KURIR_LOGGER_URL": self._logger_url, "PATH": "/usr/bin:/bin"}
        return subprocess.run([str(KURIR), *words], capture_output=True, text=True, timeout=60, env=env, check=False)

    def said(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *words: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.said(*words, "--json"))
        return answer

    def monitor_script(self) -> str:
        script = Path(__file__).resolve().parents[2] / "scripts" / "monitor-queue.sh"
        env = {"KURIR_URL": self._url, "PATH": f"{Path(program('jq')).parent}:/usr/bin:/bin"}
        done = subprocess.run([str(script), "0"], capture_output=True, text=True, timeout=60, env=env, check=True)
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Run a sandboxed system, and commands against it."""
    folder = tmp_path_factory.mktemp("commands")
    system = System(folder)
    system.up("--sandbox")
    yield Shell(system, folder)
    system.interrupt()


@pytest.fixture(scope="module")
def blast_id(shell: Shell) -> str:
    """Send the blast that the other tests use; one of its six messages cannot be delivered."""
    words = ("send", "-t", "invoice_reminder", "-c", "email", "-c", "whatsapp", "--csv", str(shell.people))
    done = shell.run(*words, "--watch", "--json")
    assert done.returncode == 1, done.stderr
    blast = json.loads(done.stdout)
    assert blast["state"] == "completed_with_failures"
    assert (blast["counts"]["sent"], blast["counts"]["failed"]) == (5, 1)
    blast_id, deadline = str(blast["blastId"]), time.monotonic() + 60
    while _statuses(shell.system, blast_id) != ["failed", *["sent"] * 5]:
        assert time.monotonic() < deadline, "the log does not have the end of every message"
        time.sleep(0.1)
    return blast_id


def _statuses(system: System, blast_id: str) -> list[str]:
    return sorted(row["status"] for row in system.get(f"/api/logs/messages?blast={blast_id}")["logs"])


def test_dry_run_sends_nothing(shell: Shell) -> None:
    """It reports how many messages it would send."""
    answer = shell.json("send", "-t", "invoice_reminder", "--csv", str(shell.people), "--dry-run")
    assert (answer["totalMessages"], answer["dryRun"]) == (3, True)
    assert "blastId" not in answer


def test_send_and_preview_warn_about_unused_variables(shell: Shell, tmp_path: Path) -> None:
    """Each warning is one line on stderr, with the nearest name."""
    path = tmp_path / "codes.csv"
    path.write_text("name,email,CODE,minuts\nSiti,siti@example.com,1,3\n")
    sent = shell.run("send", "-t", "otp", "--csv", str(path), "--var", "brand=X", "--dry-run")
    assert sent.returncode == 0
    assert "warning: globalVariables.brand: the template otp does not use" in sent.stderr
    assert "warning: recipients[0].variables.minuts: " in sent.stderr
    assert "did you mean 'minutes'?" in sent.stderr
    shown = shell.run("preview", "-t", "otp", "--email", "s@example.com", "--var", "code=1", "--var", "minuts=3")
    assert "warning: recipient.variables.minuts: " in shown.stderr


def test_status_shows_the_queues_and_the_blast(shell: Shell, blast_id: str) -> None:
    """It shows everything without an id, and the blast with one."""
    assert blast_id in shell.said("status")
    assert shell.json("status", blast_id)["counts"]["sent"] == 5


def test_the_history_of_a_failed_message_has_the_providers_words(shell: Shell, blast_id: str) -> None:
    """`kurir logs` finds it, `kurir message` shows it."""
    (row,) = shell.json("logs", "--status", "failed", "--blast", blast_id)["logs"]
    story = shell.said("message", row["job_id"])
    assert "550 5.1.1" in story
    assert row["job_id"] in shell.said("logs", "--status", "failed")


def test_logs_are_exported(shell: Shell, blast_id: str) -> None:
    """The CSV has a header and one line per message."""
    lines = shell.said("logs", "--blast", blast_id, "--export", "csv").splitlines()
    assert len(lines) == 1 + 6
    assert "job_id" in lines[0]


def test_logs_of_requests_and_of_the_system(shell: Shell, blast_id: str) -> None:
    """The other two logs can be queried as well."""
    assert blast_id
    assert any(row["endpoint"].endswith("/messages/blast") for row in shell.json("logs", "api")["logs"])
    assert shell.json("logs", "system")["success"]


def test_a_channel_is_paused_limited_and_resumed(shell: Shell) -> None:
    """`kurir channels` shows each change."""
    shell.said("pause", "email", "--reason", "maintenance")
    assert "paused: maintenance" in shell.said("channels")
    assert "email is paused: maintenance" in shell.json("monitor")["reasons"]
    shell.said("limit", "email", "50/1s")
    shell.said("resume", "email")
    assert shell.json("channels")["channels"][0]["rate"] == "50/1s"
    shell.said("limit", "email", "off")


def test_a_scheduled_blast_is_cancelled(shell: Shell, blast_id: str) -> None:
    """All of its messages are cancelled; cancelling a completed blast is refused."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    words = ("send", "-t", "invoice_reminder", "--csv", str(shell.people), "--schedule", tomorrow)
    scheduled = str(shell.json(*words)["blastId"])
    shell.said("cancel", scheduled)
    assert shell.json("status", scheduled)["counts"]["cancelled"] == 3
    assert shell.run("cancel", blast_id).returncode == 1


def test_templates_and_preview(shell: Shell, tmp_path: Path) -> None:
    """Templates can be listed, described, created from a file, rendered and deleted."""
    assert "invoice_reminder" in shell.said("templates")
    path = tmp_path / "hello.yaml"
    path.write_text("id: hello\nname: Hello\nchannels: [email]\nsubject: Hello {{ name }}\ntext: Hi {{ name }}\n")
    shell.said("templates", "--put", str(path))
    assert "Hello Siti" in shell.said("preview", "-t", "hello", "--name", "Siti", "--email", "siti@example.com")
    shell.said("templates", "hello", "--delete")
    assert shell.run("templates", "hello").returncode == 1


def test_the_log_can_be_queried_in_sql(shell: Shell, blast_id: str, tmp_path: Path) -> None:
    """As a table, CSV or JSON; what would write is refused, and so is a caller without the secret."""
    sql, own = (
        f"SELECT channel, count(*) AS n FROM message_logs WHERE blast_id = '{blast_id}' GROUP BY 1",
        ("--data-dir", str(shell.system.data)),
    )
    assert shell.json("query", sql, *own)["rows"] == [{"channel": "email", "n": 3}, {"channel": "whatsapp", "n": 3}]
    assert shell.said("query", sql, "--csv", *own) == "channel,n\nemail,3\nwhatsapp,3\n"
    assert "whatsapp" in shell.said("query", sql, *own)
    refused = shell.run("query", "DELETE FROM message_logs RETURNING id", *own)
    assert (refused.returncode, "INVALID_QUERY" in refused.stderr) == (1, True)
    assert shell.run("query", sql, "--data-dir", str(tmp_path)).returncode == 1


def test_backup_is_a_complete_database(shell: Shell, blast_id: str, tmp_path: Path) -> None:
    """The copy has all rows and passes SQLite's check; other folders and callers without the secret are refused."""
    copy, own = shell.system.data / "copy.db", ("--data-dir", str(shell.system.data))
    shell.said("backup", "copy.db", *own)
    assert copy.stat().st_size > 0
    assert copy.stat().st_mode & 0o777 == 0o600
    elsewhere = shell.run("backup", str(tmp_path / "copy.db"), *own)
    assert (elsewhere.returncode, "KURIR_BACKUP_DIR" in elsewhere.stderr) == (1, True)
    stranger = shell.run("backup", "stolen.db", "--data-dir", str(tmp_path))
    assert (stranger.returncode, "KURIR_INTERNAL_SECRET" in stranger.stderr) == (1, True)
    assert not (shell.system.data / "stolen.db").exists()
    command = [shutil.which("python3") or "python3", "-c", _COUNT, str(copy), blast_id]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["ok", "6"]


_COUNT = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("PRAGMA integrity_check").fetchone()[0])
print(db.execute("SELECT count(*) FROM message_logs WHERE blast_id = ?", (sys.argv[2],)).fetchone()[0])
"""


def test_monitor_once_and_its_script(shell: Shell, blast_id: str) -> None:
    """Both the terminal view and the curl script show queues and the latest failure."""
    assert blast_id
    shown = shell.said("monitor", "--once")
    assert "550 5.1.1" in shown
    script = shell.monitor_script()
    assert "whatsapp" in script
    assert "550 5.1.1" in script


def test_retry_sends_dead_letters_again(shell: Shell, blast_id: str) -> None:
    """The bounced address is suppressed by then, so its second run ends as suppressed."""
    assert shell.json("retry", blast_id)["reopened"] == 1
    assert "hard_bounce" in shell.said("suppressions")


def test_suppressions_can_be_managed_from_a_shell(shell: Shell, tmp_path: Path) -> None:
    """They can be added, searched, exported, lifted by filter with a count, and imported."""
    assert '"scope": "all"' in shell.said("suppressions", "add", "stop@shop.example", "--reason", "asked by phone")
    assert "asked by phone" in shell.said("suppressions", "list", "--address", "shop.example")
    exported = shell.said("suppressions", "export", "--address", "shop.example")
    assert "stop@shop.example" in exported
    assert "--confirm 1" in shell.said("suppressions", "lift", "--address", "shop.example")
    assert "1 lifted" in shell.said("suppressions", "lift", "--address", "shop.example", "--confirm", "1")
    file = tmp_path / "stop.csv"
    file.write_text(exported, "utf-8")
    assert "1 added" in shell.said("suppressions", "import", str(file))
    assert "1 unchanged" in shell.said("suppressions", "import", str(file))
