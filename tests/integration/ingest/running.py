"""Runs a whole ingest in a thread of the test, with a logger and senders whose answers the test sets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from services.ingest.main import serve
from shared.lifecycle import Stop
from shared.web import serving
from tests.servers import INTERNAL_SECRET, free_port

TEMPLATES = Path(__file__).parents[3] / "templates"
SECRET = "a secret that signs links in tests"
_START_TIMEOUT_S = 60.0
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Peers:
    """The answers of the logger and the senders: by method and path, a status and a JSON body.

    Any other call gets 404 with the code `unknown`.
    """

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    unknown: str = "NOT_FOUND"
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)

    def reset(self) -> None:
        """Forget all answers."""
        self.answers.clear()
        self.asked.clear()
        self.unknown = "NOT_FOUND"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((f"{request.method} {request.path}", request.query_string, await request.read()))
        unknown = (404, {"success": False, "code": self.unknown, "message": "", "errors": []})
        status, body = self.answers.get(f"{request.method} {request.path}", unknown)
        return web.json_response(body, status=status)


class RunningIngest:
    """One running ingest process; `env` extends or overrides the settings."""

    def __init__(self, redis_url: str, data: Path, env: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.peers = Peers()
        self._peer_port = free_port()
        peer = f"http://127.0.0.1:{self._peer_port}"
        self.env = {
            "KURIR_PORT": str(self.port),
            "KURIR_REDIS_URL": redis_url,
            "KURIR_DATA_DIR": str(data),
            "KURIR_LOG_CONSOLE": "off",
            "KURIR_SMTP_URL": "smtp://127.0.0.1:25",
            "KURIR_EMAIL_FROM": "Kurir <kurir@example.com>",
            "KURIR_QISCUS_APP_CODE": "app",
            "KURIR_SECRET": SECRET,
            "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
            "KURIR_LOGGER_URL": peer,
            "KURIR_EMAIL_SENDER_URL": peer,
            "KURIR_WHATSAPP_SENDER_URL": peer,
            "KURIR_TEMPLATES_DIR": str(TEMPLATES),
            "KURIR_RATE_LIMIT": "off",
            **(env or {}),
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Stop | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            assert self._thread.is_alive(), f"ingest ended: {self._failure!r}"
            assert time.monotonic() < deadline, "ingest did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "ingest did not stop"
        assert self._failure is None, f"ingest failed: {self._failure!r}"

    async def thread_time(self) -> float:
        """Return the processor time in seconds that its thread has used."""
        return await self.call_in_loop(time.thread_time)

    async def call_in_loop(self, action: Callable[[], ResultT]) -> ResultT:
        """Call `action` in its thread and return its result."""
        assert self._loop is not None
        found: concurrent.futures.Future[ResultT] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(lambda: found.set_result(action()))
        return await asyncio.wrap_future(found)

    async def longest_hold(self, until: asyncio.Future[Any]) -> float:
        """Return the longest processor time in seconds that its loop spent without a turn for other tasks so far."""
        assert self._loop is not None
        done = threading.Event()
        until.add_done_callback(lambda _: done.set())

        async def watch() -> float:
            longest, before = 0.0, time.thread_time()
            while not done.is_set():
                await asyncio.sleep(0)
                now = time.thread_time()
                longest, before = max(longest, now - before), now
            return longest

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(watch(), self._loop))

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), Stop()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.peers.answer)
        async with serving(app, "127.0.0.1", self._peer_port):
            await serve(self._stop, self.env)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/openapi.json", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def running(redis_url: str, data: Path, env: Mapping[str, str] | None = None) -> Iterator[RunningIngest]:
    """Run one until the block ends."""
    ingest = RunningIngest(redis_url, data, env)
    ingest.start()
    try:
        yield ingest
    finally:
        ingest.stop()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; its body is decoded where it is JSON."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def codes(self) -> set[str]:
        """Every code in the answer."""
        return {self.body["code"], *(problem["code"] for problem in self.body["errors"])}

    def problem(self, field_path: str) -> str:
        """Return the code of the problem with this field."""
        return str(next(one["code"] for one in self.body["errors"] if one["field"] == field_path))


class Api:
    """A client of one ingest."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url

    async def call(self, method: str, path: str, **request: Any) -> Reply:
        if "json" in request:
            request["data"] = json.dumps(request.pop("json")).encode()
            request["headers"] = {"Content-Type": "application/json", **request.get("headers", {})}
        if isinstance(request.get("data"), bytes):
            request["data"] = io.BytesIO(request["data"])
        async with self._http.request(method, self.url + path, **request) as answer:
            return Reply(answer.status, answer.headers, (await answer.read()).decode())

    async def get(self, path: str, **request: Any) -> Reply:
        return await self.call("GET", path, **request)

    async def post(self, path: str, body: Any = None, **request: Any) -> Reply:
        return await self.call("POST", path, **({} if body is None else {"json": body}), **request)

    async def blast(self, *recipients: Any, **head: Any) -> Reply:
        """POST a blast, by default of otp through email. `key` is its Idempotency-Key."""
        key = head.pop("key", "")
        body = {"templateId": "otp", "channels": ["email"], **head, "recipients": list(recipients)}
        return await self.post("/api/messages/blast", body, headers={"Idempotency-Key": key} if key else {})


def person(number: int = 0, **more: Any) -> dict[str, Any]:
    """Return a recipient that template otp accepts on both channels."""
    return {
        "name": f"Person {number}",
        "email": f"person{number}@example.com",
        "phone": f"+62812{10000000 + number}",
        "variables": {"code": str(1000 + number)},
        **more,
    }


async def open_api(stack: AsyncExitStack, url: str) -> Api:
    """Open a client that the stack closes."""
    return Api(await stack.enter_async_context(aiohttp.ClientSession()), url)
