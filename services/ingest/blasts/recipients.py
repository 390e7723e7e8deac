"""The rules that a blast's recipients are checked against, and the results of the check."""

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
# the queue's scripts spend microseconds on each file of a job, and block Redis meanwhile
MAX_ATTACHMENTS = 250


@dataclass(frozen=True, slots=True)
class Rules:
    """A blast's requirements of its recipients.

    `global_variables` have been checked (`check_global_variables`). `attachments` are the blast's own, None where they
    are not known: together with a recipient's, they may be at most 250, and 10 MB.
    """

    template: Template
    channels: tuple[str, ...]
    global_variables: Mapping[str, Any] = field(default_factory=dict)
    region: str = "ID"
    permissive: bool = False
    attachments: Sequence[Attachment] | None = None


def printed_names(rules: Rules) -> list[tuple[int, tuple[str, ...]]]:
    """Return, by a channel's place, the recipient's own fields that its content prints without a guard.

    Leaves out fields that are checked elsewhere: declared and global variables, and the channel's own address. Raises
    RenderError.
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
    """An accepted recipient: `addresses` are in the order of the blast's channels, "" where it has none."""

    index: int
    name: str
    addresses: list[str]
    variables: dict[str, Any] = {}
    reference: str = ""
    attachments: list[Attachment] = []


class Checked(msgspec.Struct, frozen=True):
    """The result for one recipient: what may be queued (None for nothing), and its problems."""

    accepted: Accepted | None
    problems: Sequence[Problem] = ()


class FoundProblems:
    """The problems of a request: counted, and the first 100 kept, so that memory stays bounded."""

    def __init__(self) -> None:
        self.first: list[Problem] = []
        self.total = 0

    @property
    def full(self) -> bool:
        """Whether there are more problems than an answer lists, so that further ones need no description."""
        return self.total > MAX_PROBLEMS

    def add(self, problems: Sequence[Problem]) -> None:
        """Add the problems of one recipient."""
        if problems:
            self.total += len(problems)
            self.first.extend(problems[: max(0, MAX_PROBLEMS - len(self.first))])

    def answer(self) -> ApiError:
        """Build the 422 answer that lists them."""
        return invalid(self.first, self.total)
