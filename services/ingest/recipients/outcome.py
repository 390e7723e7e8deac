"""What checking found: a recipient's outcome, and all problems of a request, of which the first 100 are told."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.ingest.problems import MAX_PROBLEMS, ApiError, Problem, invalid
from services.ingest.recipients.accepted import Accepted


class Checked(msgspec.Struct, frozen=True):
    """One recipient's outcome: what may be queued (None: nothing), and what is wrong with it."""

    accepted: Accepted | None
    problems: Sequence[Problem] = ()


class FoundProblems:
    """The problems of a request: the first 100 are kept, so that memory stays flat."""

    def __init__(self) -> None:
        self.first: list[Problem] = []
        self.total = 0

    @property
    def full(self) -> bool:
        """Whether there were more problems than an answer lists, so that further ones need not be looked for."""
        return self.total > MAX_PROBLEMS

    def add(self, problems: Sequence[Problem]) -> None:
        """Take the problems of one recipient."""
        if problems:
            self.total += len(problems)
            self.first.extend(problems[: max(0, MAX_PROBLEMS - len(self.first))])

    def answer(self) -> ApiError:
        """Make the 422 answer that lists them."""
        return invalid(self.first, self.total)
