"""What every recipient of one blast is checked by, and what the check found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.ingest.http.errors import MAX_PROBLEMS, ApiError, Problem, invalid
from shared.channels import CHANNELS, WHATSAPP
from shared.jobs import Attachment
from shared.rendering import compile_template
from shared.templates import Template

OWN = frozenset({"name", "email", "phone"})
MAX_ATTACHMENT_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rules:
    """What a blast asks of its recipients.

    `global_variables` are checked ones (`check_global_variables`). `attachments` are the blast's own, None where they
    are not known: they and a recipient's may be 10 MB together.
    """

    template: Template
    channels: tuple[str, ...]
    global_variables: Mapping[str, Any] = field(default_factory=dict)
    region: str = "ID"
    permissive: bool = False
    attachments: Sequence[Attachment] | None = None


def printed_names(rules: Rules) -> list[tuple[int, tuple[str, ...]]]:
    """Return, by a channel's place, which of a recipient's own fields its content prints without a guard.

    Only those that nobody else can give: what is declared has a rule of its own, and the address of a channel is missed
    as such. Raises RenderError.
    """
    compiled = compile_template(rules.template)
    elsewhere = {*(one.name for one in rules.template.variables), *rules.global_variables}
    whatsapp = compiled.whatsapp.printed if compiled.whatsapp is not None else frozenset()
    found = []
    for place, channel in enumerate(rules.channels):
        printed = whatsapp if channel == WHATSAPP.name else compiled.printed
        names = (printed & OWN) - elsewhere - {CHANNELS[channel].address_field}
        found.append((place, tuple(sorted(names))))
    return [pair for pair in found if pair[1]]


class Accepted(msgspec.Struct, frozen=True, array_like=True):
    """A recipient that passed: `addresses` stand in the order of the blast's channels, "" where it has none."""

    index: int
    name: str
    addresses: list[str]
    variables: dict[str, Any] = {}
    reference: str = ""
    attachments: list[Attachment] = []


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
