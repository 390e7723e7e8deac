"""The CLI's client of the API: each call returns a JSON answer or raises an error that says what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import aiohttp
import orjson
import typer

from services.cli.data_secrets import internal_secret
from services.cli.terminal import MOST_PROBLEMS, command_of, complain
from shared.errors import KurirError, SettingsError
from shared.lifecycle import EXIT_FAILED, EXIT_SETTINGS
from shared.masking import mask
from shared.settings import EnvReader
from shared.urls import without_password

EXIT_UNREACHABLE = 3
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=120.0)
# the statuses of a service that is restarting, and of a repeated call whose first attempt still runs
_WORTH_REPEATING = frozenset({409, 429, 502, 503})
_PAUSE_S = 0.1
# a Redis that stands still for a moment should fail no command that reads
_WHILE_UNAVAILABLE_S = 5.0

ResultT = TypeVar("ResultT")
Answer = dict[str, Any]

Url = Annotated[str, typer.Option("--url", envvar="KURIR_URL", help="The API's URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]
DataDir = Annotated[
    Path, typer.Option(envvar="KURIR_DATA_DIR", help="The data folder of `kurir up`, which holds its secrets.")
]
# the highest port that follows from it is 91 above
Port = Annotated[int, typer.Option(min=1, max=65_444, help="The API's port; all others follow from it.")]
LoggerUrl = Annotated[str, typer.Option("--url", envvar="KURIR_LOGGER_URL", help="The logger's URL.")]
DEFAULT_URL = "http://127.0.0.1:3000"
DEFAULT_LOGGER_URL = "http://127.0.0.1:3030"


class RefusedError(KurirError):
    """The API refused a call; `lines` say why, for a person."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer.get("message") or f"the API answered {status}"))
        self.status = status
        self.code = str(answer.get("code", ""))
        self.answer = dict(answer)

    @property
    def lines(self) -> list[str]:
        """The message with the code, then the field and the message of each problem; one line for a single problem."""
        code = f" ({self.code})" if self.code else ""
        listed = self.answer.get("errors")
        errors = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        problems = [f"{one.get('field') or '-'}: {one.get('message', '')}" for one in errors]
        if len(problems) == 1 and problems[0].endswith(f": {self}"):
            return [problems[0].removeprefix("-: ") + code]
        return [f"{self}{code}", *problems[:MOST_PROBLEMS]]


class UnreachableError(KurirError):
    """Nothing answers at the URL, or the answer is not the API's."""


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Calls the API at one URL, with the API key from the environment if there is one.

    With `patience_s`, calls are repeated for that long while a service restarts; they must be safe to repeat, and their
    bodies held in memory. A GET that is answered with 503 is repeated for 5 s in any case.
    """

    http: aiohttp.ClientSession
    url: str
    patience_s: float = 0.0

    async def call(self, method: str, path: str, **request: Any) -> Answer:
        """Make one call and return its JSON object; raises RefusedError or UnreachableError."""
        began = time.monotonic()
        while True:
            try:
                return await self._call(method, path, **request)
            except (RefusedError, UnreachableError) as error:
                if time.monotonic() >= began + self._repeats_for_s(method, error):
                    raise
            await asyncio.sleep(_PAUSE_S)

    def _repeats_for_s(self, method: str, error: RefusedError | UnreachableError) -> float:
        if isinstance(error, RefusedError) and error.status == 503 and method == "GET":
            return max(self.patience_s, _WHILE_UNAVAILABLE_S)
        refused = isinstance(error, RefusedError) and error.status not in _WORTH_REPEATING
        return 0.0 if refused else self.patience_s

    async def _call(self, method: str, path: str, **request: Any) -> Answer:
        try:
            async with self.http.request(method, self.url + path, **request) as response:
                raw = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.url, error) from error
        return self._read(status, raw)

    def _read(self, status: int, raw: bytes) -> Answer:
        """Return the JSON object of an answer; raises RefusedError, and UnreachableError if it is another server's.

        Each answer of the API and of the logger says `success`; with any other object, commands would fail over the
        first field that it lacks.
        """
        try:
            answer: Any = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise self._foreign(status) from error
        if not isinstance(answer, dict) or not isinstance(answer.get("success"), bool):
            raise self._foreign(status)
        if status >= 400:
            raise RefusedError(status, answer)
        return answer

    def _foreign(self, status: int) -> UnreachableError:
        """Return the error for the answer of another server than Kurir's."""
        return UnreachableError(f"the answer from {without_password(self.url)} is not from the API (HTTP {status})")

    async def get(self, path: str, query: Mapping[str, object] | None = None) -> Answer:
        """GET a path; values of the query that are None or empty are left out."""
        return await self.call("GET", path, params=given(query or {}))

    async def post(self, path: str, body: Mapping[str, object] | None = None) -> Answer:
        """POST a JSON body, or none."""
        if body is None:
            return await self.call("POST", path)
        return await self.call("POST", path, data=orjson.dumps(body), headers={"Content-Type": "application/json"})

    async def lines(self, path: str, query: Mapping[str, object]) -> AsyncIterator[bytes]:
        """Stream the answer to a GET in chunks; raises the errors of `call`."""
        try:
            async with self.http.get(self.url + path, params=given(query)) as response:
                if response.status >= 400:
                    self._read(response.status, await response.read())
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.url, error) from error


def _unreachable(url: str, error: Exception) -> UnreachableError:
    """Return the error for a URL without an answer; an invalid URL is not quoted, since it may hold a password."""
    if isinstance(error, aiohttp.InvalidURL):
        return UnreachableError("the URL must be http(s)://host[:port]")
    return UnreachableError(f"cannot reach {without_password(url)} ({type(error).__name__}: {mask(str(error))})")


def within(path: str, *segments: str) -> str:
    """Return the path of a resource below another; each segment is escaped, so that an id can name nothing else.

    Raises BadParameter, which ends the command with code 2, for what cannot be a segment: "", "." and "..", which are
    removed from a path even if they are escaped (RFC 3986, 5.2.4 and 6.2.2).
    """
    for segment in segments:
        if segment in ("", ".", ".."):
            raise typer.BadParameter(f'"{segment}" is not an id')
    return "/".join([path, *(quote(segment, safe=":") for segment in segments)])


def given(values: Mapping[str, object]) -> dict[str, str]:
    """Return the values that were given, as query parameters."""
    return {name: str(value) for name, value in values.items() if value not in (None, "", [], ())}


def api_key(env: Mapping[str, str]) -> str:
    """Return the API key of KURIR_API_KEY or KURIR_API_KEY_FILE, "" if neither is set; raises SettingsError."""
    reader = EnvReader(env)
    key = reader.text("KURIR_API_KEY", "")
    reader.finish()
    return key


def call_api(context: typer.Context, url: str, action: Callable[[ApiClient], Awaitable[ResultT]]) -> ResultT:
    """Run an action against the API and return its result.

    On failure, ends the command with a line on stderr and exit code 1 if the API refused the call, 2 if a setting is
    wrong, 3 if nothing answers.
    """
    return _call(context, url, lambda: api_key(context.obj), action)


def call_logger(
    context: typer.Context, url: str, data_dir: Path, action: Callable[[ApiClient], Awaitable[ResultT]]
) -> ResultT:
    """Run an action against the logger, with the secret of the environment or the data folder; fails as `call_api`."""
    return _call(context, url, lambda: internal_secret(context.obj, data_dir), action)


def _call(
    context: typer.Context,
    url: str,
    read_key: Callable[[], str],
    action: Callable[[ApiClient], Awaitable[ResultT]],
) -> ResultT:
    name = command_of(context)
    try:
        return asyncio.run(_with_client(url.rstrip("/"), read_key(), action))
    except SettingsError as error:
        complain(name, error.problems)
        raise typer.Exit(EXIT_SETTINGS) from None
    except RefusedError as error:
        complain(name, error.lines)
        raise typer.Exit(EXIT_FAILED) from None
    except UnreachableError as error:
        complain(name, [str(error), "check that `kurir up` is running, or set --url or KURIR_URL"])
        raise typer.Exit(EXIT_UNREACHABLE) from None


async def _with_client(url: str, key: str, action: Callable[[ApiClient], Awaitable[ResultT]]) -> ResultT:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as http:
        return await action(ApiClient(http, url))
