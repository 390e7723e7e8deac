"""Query parameters: those that a call does not know are refused, not ignored.

A misspelt filter would otherwise show everything, and a misspelt `dryRun` send everything.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.ingest.call import Operation
from services.ingest.problems import MAX_PROBLEMS, ApiError, Problem
from shared.nearest import Hints

_SHOWN_CHARS = 60


def check_query(operation: Operation, query: Mapping[str, str]) -> None:
    """Raise INVALID_QUERY for parameters that a call does not have."""
    if not query or operation.open_query:
        return
    known = [one.name for one in operation.parameters if one.place == "query"]
    prefixes = tuple(name.removesuffix("<name>") for name in known if name.endswith("<name>"))
    unknown = [name for name in query if name not in known and not (prefixes and name.startswith(prefixes))]
    told, hints = list(dict.fromkeys(unknown))[:MAX_PROBLEMS], Hints()
    problems = [Problem(name[:_SHOWN_CHARS], "INVALID_QUERY", _words(name, known, hints)) for name in told]
    if problems:
        raise ApiError("INVALID_QUERY", problems[0].message, problems)


def _words(name: str, known: list[str], hints: Hints) -> str:
    what = f"there is no query parameter {name[:_SHOWN_CHARS]!r} here"
    if not known:
        return f"{what}: this call takes none"
    return what + (hints.did_you_mean(name, known) or f"; there are {', '.join(known)}")
