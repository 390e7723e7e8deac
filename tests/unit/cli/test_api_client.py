"""How commands call the API and how they end: exit codes, lines on stderr, the key."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from services.cli.api_client import ApiClient, RefusedError, UnreachableError
from services.cli.main import app
from tests.servers import free_port, wait_for


class Api:
    """An HTTP server with a set answer for each path, which records its requests."""

    def __init__(self) -> None:
        answers: dict[str, tuple[int, bytes]] = {}
        asked: list[tuple[str, dict[str, str], bytes]] = []
        methods: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                chunks = []
                if "Content-Length" in self.headers:
                    chunks.append(self.rfile.read(int(self.headers["Content-Length"])))
                elif self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        chunks.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                self._answer(b"".join(chunks))

            do_PATCH = do_DELETE = do_POST  # noqa: N815 -- the server calls them by these names

            def _answer(self, body: bytes) -> None:
                methods.append(self.command)
                asked.append((self.path, dict(self.headers), body))
                status, raw = answers[self.path.partition("?")[0]]
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_args: object) -> None:
                return

        self.answers, self.asked, self.methods = answers, asked, methods
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def on(self, path: str, answer: Any, status: int = 200) -> None:
        self.answers[path] = (status, json.dumps({"success": status < 400, **answer}).encode())


def run(*words: str, **env: str) -> Any:
    return CliRunner().invoke(app, list(words), obj=env)


def test_json_prints_the_answer_unchanged(api: Api) -> None:
    """Scripts read it from stdout; the exit code is 0."""
    answer = {"success": True, "channels": []}
    api.on("/api/v1/channels", answer)
    found = run("channels", "--url", api.url, "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout) == answer


def test_a_refusal_names_every_problem_and_ends_with_1(api: Api) -> None:
    """The lines have the message, its code, and each field with its problem."""
    problem = {"field": "globalVariables.amount", "code": "INVALID_VARIABLE", "message": "should be a number"}
    api.on("/api/v1/blasts/b1/cancel", {"success": False, "code": "X", "message": "no", "errors": [problem]}, 422)
    found = run("cancel", "b1", "--url", api.url)
    assert found.exit_code == 1
    assert "kurir cancel: no (X)" in found.stderr
    assert "globalVariables.amount: should be a number" in found.stderr


def test_a_single_problem_is_one_line(api: Api) -> None:
    """Its message is the answer's own, which would otherwise be there twice; the command is named as it was typed."""
    problem = {"field": "address", "code": "INVALID_EMAIL", "message": "There must be something after the @-sign."}
    answer = {"success": False, "code": problem["code"], "message": problem["message"], "errors": [problem]}
    api.on("/api/v1/suppressions", answer, 422)
    found = run("suppressions", "add", "jane@", "--url", api.url)
    line = "kurir suppressions add: address: There must be something after the @-sign. (INVALID_EMAIL)\n"
    assert (found.exit_code, found.stderr) == (1, line)


@pytest.mark.parametrize("words", [("doctor",), ("receipts",)])
def test_a_queue_that_is_away_is_reported_with_what_to_do(words: tuple[str, ...], tmp_path: Path) -> None:
    """The second line says how to name another Redis; a port from which no other can follow is refused at once."""
    away = f"redis://127.0.0.1:{free_port()}"
    found = run(*words, "--redis-url", away, "--data-dir", str(tmp_path))
    first, second = found.stderr.splitlines()
    assert (found.exit_code, first.startswith(f"kurir {words[0]}: ")) == (3, True)
    assert second == f"kurir {words[0]}: check that `kurir up` is running, or set --redis-url or KURIR_REDIS_URL"
    refused = run(*words, "--port", "99999")
    assert (refused.exit_code, "65444" in refused.stderr) == (2, True)


@pytest.mark.parametrize("to", ["nope", "mysql://host/logs", "postgresql://host"])
def test_copy_logs_names_its_own_option(to: str) -> None:
    """The logger's program has the URL from a setting, of which the person has not heard."""
    found = run("copy-logs", "--to", to)
    assert (found.exit_code, found.stderr.startswith("kurir copy-logs: --to: ")) == (2, True), found.stderr


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("cancel", "../channels/email"), "/api/v1/blasts/..%2Fchannels%2Femail/cancel"),
        (("status", "b1/failures"), "/api/v1/blasts/b1%2Ffailures"),
        (("failures", "b1?limit#x"), "/api/v1/blasts/b1%3Flimit%23x/failures"),
        (("message", "100%"), "/api/v1/messages/100%25"),
        (("templates", "--delete", "a b/c"), "/api/v1/templates/a%20b%2Fc"),
        (("suppressions", "show", "%2e%2e/x"), "/api/v1/suppressions/%252e%252e%2Fx"),
        (("webhooks", "remove", "é/.."), "/api/v1/webhooks/%C3%A9%2F.."),
    ],
)
def test_an_id_names_nothing_else(api: Api, words: tuple[str, ...], asked: str) -> None:
    """Whatever an id holds, the call is about that id and never about another resource."""
    api.on(asked, {"success": False, "code": "NOT_FOUND", "message": "there is no such thing"}, 404)
    found = run(*words, "--url", api.url)
    assert [path for path, _, _ in api.asked] == [asked]
    assert (found.exit_code, "there is no such thing (NOT_FOUND)" in found.stderr) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("cancel", ".."),
        ("retry", ""),
        ("message", "."),
        ("failures", ".."),
        ("templates", "..", "--delete"),
        ("webhooks", "remove", ""),
        ("suppressions", "show", ".."),
    ],
)
def test_what_cannot_be_an_id_asks_nothing(api: Api, words: tuple[str, ...]) -> None:
    """A path without the id would name the whole collection."""
    found = run(*words, "--url", api.url)
    assert (found.exit_code, api.asked) == (2, [])
    assert "is not an id" in found.stderr


def test_no_answer_ends_with_3() -> None:
    """Exit code 3 for an unreachable API differs from that of a refusal."""
    found = run("status", "--url", f"http://127.0.0.1:{free_port()}")
    assert found.exit_code == 3
    assert "cannot reach" in found.stderr


def test_the_key_comes_from_a_file_and_goes_into_the_header(api: Api, tmp_path: Path) -> None:
    """A secret never appears on a command line."""
    (tmp_path / "key").write_text("secret-key-of-mine\n")
    api.on("/api/v1/channels", {"channels": []})
    assert run("channels", "--url", api.url, KURIR_API_KEY_FILE=str(tmp_path / "key")).exit_code == 0
    assert api.asked[0][1]["Authorization"] == "Bearer secret-key-of-mine"


def test_send_streams_the_file_after_its_blast(api: Api, tmp_path: Path) -> None:
    """One multipart call carries the blast as JSON, the file unchanged, and an idempotency key."""
    path = tmp_path / "people.csv"
    path.write_text("name,email\nSiti,siti@example.com\n")
    api.on("/api/v1/messages/blast", {"blastId": "b1", "totalMessages": 1, "totalRecipients": 1}, 202)
    found = run("send", "-t", "welcome", "--csv", str(path), "--var", "plan=gold", "--url", api.url)
    assert found.exit_code == 0, found.output
    _, headers, body = api.asked[0]
    assert len(headers["Idempotency-Key"]) == 32
    assert b'"globalVariables":{"plan":"gold"}' in body
    assert path.read_bytes() in body
    assert body.count(b"Content-Type: text/csv\r\n") == body.count(b'name="recipients"; filename="recipients.csv"') == 1


@pytest.mark.parametrize("command", [("send", "-t", "welcome", "--csv"), ("suppressions", "import")])
def test_recipients_may_come_from_a_pipe(command: tuple[str, ...], api: Api, tmp_path: Path) -> None:
    """As `zcat people.csv.gz | kurir send … --csv /dev/stdin`, which was refused as no regular file."""
    path, content = tmp_path / "people", b"name,email\nSiti,siti@example.com\n"
    os.mkfifo(path)
    writing = threading.Thread(target=path.write_bytes, args=(content,))
    writing.start()
    api.on("/api/v1/messages/blast", {"blastId": "b1", "totalMessages": 1, "totalRecipients": 1}, 202)
    imported = {"total": 1, "added": 1, "changed": 0, "unchanged": 0, "ignoredColumns": [], "rejected": 0}
    api.on("/api/v1/suppressions/import", imported)
    found = run(*command, str(path), "--url", api.url)
    writing.join()
    assert found.exit_code == 0, found.output
    assert content in api.asked[0][2]


def test_a_query_prints_its_rows_and_whether_there_are_more(api: Api, tmp_path: Path) -> None:
    """Null prints as empty, markup as plain text, and stdout has only the rows."""
    api.on("/internal/query", {"success": True, "rows": [{"a": 1, "b": None}, {"a": "[red]", "b": "x,y"}], "cut": True})
    words = ("query", "SELECT 1", "--limit", "2", "--url", api.url, "--data-dir", str(tmp_path))
    found = run(*words, "--csv")
    assert (found.exit_code, found.stdout) == (0, 'a,b\n1,\n[red],"x,y"\n')
    assert "more than 2 rows" in found.stderr
    assert "[red]" in run(*words).stdout
    assert json.loads(api.asked[0][2]) == {"sql": "SELECT 1", "limit": 2}
    api.on("/internal/query", {"success": True, "rows": [], "cut": False})
    assert run(*words).stdout == "no rows\n"
    assert run(*words, "--csv").stdout == ""


@pytest.mark.parametrize(
    "words", [("send", "-t", "x", "--csv", "/no/such/file"), ("limit", "pigeon", "1/1s"), ("templates", "--delete")]
)
def test_wrong_usage_ends_with_2(words: tuple[str, ...]) -> None:
    """The command ends before it calls anything."""
    assert run(*words).exit_code == 2


async def test_a_patient_client_waits_for_a_service_that_restarts(api: Api) -> None:
    """It repeats a call after 503 until it succeeds; other refusals are final."""
    api.answers["/x"] = (503, b'{"success": false, "code": "QUEUE_UNAVAILABLE", "message": "away"}')
    api.answers["/y"] = (404, b'{"success": false, "code": "NOT_FOUND", "message": "nothing here"}')
    async with aiohttp.ClientSession() as http:
        client = ApiClient(http, api.url, patience_s=60)
        calling = asyncio.create_task(client.get("/x"))
        await wait_for(lambda: len(api.asked) > 1, what="a second try")
        api.answers["/x"] = (200, b'{"success": true, "found": 1}')
        assert await calling == {"success": True, "found": 1}
        api.asked.clear()
        with pytest.raises(RefusedError, match="nothing here"):
            await client.get("/y")
        assert len(api.asked) == 1


async def test_a_get_outlasts_a_moment_without_redis(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GET is repeated after 503 for a while, a change is not, and the last refusal is told."""
    api.answers["/x"] = (503, b'{"success": false, "code": "QUEUE_UNAVAILABLE", "message": "away"}')
    async with aiohttp.ClientSession() as http:
        client = ApiClient(http, api.url)
        reading = asyncio.create_task(client.get("/x"))
        await wait_for(lambda: len(api.asked) > 1, what="a second try")
        api.answers["/x"] = (200, b'{"success": true, "found": 1}')
        assert await reading == {"success": True, "found": 1}
        api.answers["/x"] = (503, b'{"success": false, "code": "QUEUE_UNAVAILABLE", "message": "away"}')
        api.asked.clear()
        with pytest.raises(RefusedError, match="away"):
            await client.post("/x")
        assert len(api.asked) == 1
        monkeypatch.setattr("services.cli.api_client._WHILE_UNAVAILABLE_S", 0.0)
        with pytest.raises(RefusedError, match="away"):
            await client.get("/x")


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    "raw", [b"[]", b'"ok"', b"5", b"null", b"", b"<html>", b"\xff", b"{}", b'{"ok": true}', b'{"success": 1}']
)
async def test_an_answer_of_another_server_is_named_as_such(status: int, raw: bytes, api: Api) -> None:
    """A port of another service may answer with any JSON: commands ended with a TypeError or an AttributeError."""
    api.answers["/x"] = (status, raw)
    async with aiohttp.ClientSession() as http:
        client, words = ApiClient(http, api.url), f"is not from the API .HTTP {status}"
        with pytest.raises(UnreachableError, match=words):
            await client.get("/x")
        if status == 404:
            with pytest.raises(UnreachableError, match=words):
                [one async for one in client.lines("/x", {})]


@pytest.mark.parametrize("errors", ["null", '"x"', '["x", null, 5]', '{"a": "b"}', "[[]]"])
def test_a_refusal_with_errors_of_another_form_is_reported(errors: str, api: Api) -> None:
    """Such as that of a gateway: the command ended with an AttributeError."""
    api.answers["/api/v1/channels"] = (
        404,
        b'{"success": false, "message": "no route", "errors": %s}' % errors.encode(),
    )
    done = run("channels", "--url", api.url)
    assert (done.exit_code, done.stderr) == (1, "kurir channels: no route\n")


@pytest.mark.parametrize(("path", "words"), [("/", "is a folder, not a file"), ("/dev/null", "is not a regular file")])
def test_a_path_of_another_kind_is_named_as_what_it_is(path: str, words: str) -> None:
    """A folder that exists was said not to exist."""
    done = CliRunner().invoke(app, ["suppressions", "import", path])
    assert done.exit_code == 2
    assert words in done.stderr
