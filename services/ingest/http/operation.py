"""Calls and operations: one request on its way through the API, and the definition of one kind of request.

The table of operations is the only description of the API: routes, scopes and `openapi.json` are all derived from it.
Query parameters that an operation does not name are refused, not ignored: a misspelt filter would otherwise show
everything, and a misspelt `dryRun` send everything. One that is given twice is refused as well, since only one of its
values would be used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from services.ingest.api_keys import ApiKey, Scope
from services.ingest.http.errors import MAX_PROBLEMS, ApiError, Problem
from services.ingest.http.gateway import Gateway
from shared.nearest import Hints
from shared.sealing import sensitive_names
from shared.templates import Template

LOGGED_BODY_BYTES = 4096
SESSION_COOKIE = "kurir_session"
JSON = "application/json"
_SHOWN_CHARS = 60


@dataclass(slots=True)
class Call:
    """One request: its caller, the caller's address and the request's id. `head` holds the first 4 KB of the body.

    `guarded`: the body may hold values of sensitive variables, so the log hides all but the fields known to be plain.
    """

    request: web.Request
    gateway: Gateway
    client: str
    request_id: str
    key: ApiKey | None = None
    head: bytearray = field(default_factory=bytearray)
    guarded: bool = False
    _noting: bool = True

    @property
    def cookie(self) -> str:
        """The token of the console's session, "" without one."""
        return self.request.cookies.get(SESSION_COOKIE, "")

    @property
    def masked(self) -> bool:
        """Whether the caller may not see who the recipients are."""
        return self.key is not None and not self.key.sees_recipients

    @property
    def key_name(self) -> str:
        """The name of the caller's API key, "" where none is configured."""
        return self.key.name if self.key else ""

    def note_body(self, chunk: bytes) -> None:
        """Keep the beginning of the body for the API log."""
        missing = LOGGED_BODY_BYTES - len(self.head)
        if missing > 0 and self._noting:
            self.head += chunk[:missing]

    def note_no_more(self) -> None:
        """Keep nothing of the rest of the body: rows of a table whose columns are not known yet."""
        self._noting = False

    def vouch_for(self, template: Template) -> None:
        """Let the log show the variables of a body whose template is known and has no sensitive variables."""
        self.guarded = bool(sensitive_names(template))


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query or header parameter as the document describes it; `schema` is its JSON schema."""

    name: str
    description: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body: for each content type its struct, or a ready JSON schema."""

    contents: dict[str, type[msgspec.Struct] | dict[str, Any]]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the API. `path` is under `/api/v1` and `/api`, unless `rooted`; `answer` is the body of a 2xx.

    `scope` None means that no API key is needed. `errors` are the codes that this call can return besides those of
    every call. A call that needs the `queue` is refused immediately while Redis is away; one that is not `limited` is
    not charged to its caller. `guarded`: its body carries values for a template, some of which may be sensitive.
    `hook`: providers call it. It never answers 5xx, and only its refusals of known callers are logged.
    `nameless`: its answer has no recipients, only what operators wrote, so nothing of it is masked.
    One that is not `logged` is counted only. `wide` is a placeholder of the path that also matches "" and slashes.
    Query parameters that it does not name are refused, unless it has an `open_query`; `metadata.<name>` stands for
    every parameter with that prefix.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    scope: Scope | None = "read"
    answer: type[msgspec.Struct] | None = None
    statuses: tuple[int, ...] = (200,)
    body: Body | None = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[str, ...] = ()
    content_types: tuple[str, ...] = (JSON,)
    rooted: bool = False
    limited: bool = True
    queue: bool = True
    guarded: bool = False
    open_query: bool = False
    hook: bool = False
    logged: bool = True
    nameless: bool = False
    wide: str = ""


def check_query(operation: Operation, query: Mapping[str, str]) -> None:
    """Raise INVALID_QUERY for parameters that the operation, whose query is not open, does not have, or has twice."""
    if not query:
        return
    known = [one.name for one in operation.parameters if one.place == "query"]
    prefixes = tuple(name.removesuffix("<name>") for name in known if name.endswith("<name>"))
    times = Counter(name for name, _ in query.items())  # has an item for each value, unlike keys()
    unknown = {name for name in times if name not in known and not (prefixes and name.startswith(prefixes))}
    wrong, hints = [name for name, count in times.items() if count > 1 or name in unknown], Hints()
    problems = [
        Problem(
            name[:_SHOWN_CHARS], "INVALID_QUERY", _words(name, known, hints) if name in unknown else _repeated(name)
        )
        for name in wrong[:MAX_PROBLEMS]
    ]
    if problems:
        raise ApiError("INVALID_QUERY", problems[0].message, problems)


def _repeated(name: str) -> str:
    what = f"the query parameter {name[:_SHOWN_CHARS]!r} is given more than once"
    return f"{what}: give it once, and where it may have several values, separate them by commas"


def _words(name: str, known: list[str], hints: Hints) -> str:
    what = f"there is no query parameter {name[:_SHOWN_CHARS]!r}"
    if not known:
        return f"{what}: this call takes none"
    return what + (hints.did_you_mean(name, known) or f"; use {', '.join(known)}")
