"""The values that a template is rendered with, and their precedence.

A recipient's variables take precedence over the blast's, those over the recipient's name, email and phone, and those
over declared defaults. An optional variable without a value is empty rather than missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shared.blasts import Blast
from shared.channels import CHANNELS
from shared.jobs import Job
from shared.numbers import unpacked, unpacked_value
from shared.rendering.errors import RenderError
from shared.sealing import SEALED
from shared.templates import Template

# names that every template may use without declaring them
BUILT_IN = ("name", "email", "phone", "unsubscribe_url")


class Contact(Protocol):
    """The recipient of a message."""

    @property
    def name(self) -> str:
        """The display name."""
        ...

    @property
    def email(self) -> str:
        """The email address, or ""."""
        ...

    @property
    def phone(self) -> str:
        """The phone number, or ""."""
        ...

    @property
    def variables(self) -> Mapping[str, Any]:
        """The recipient's own variables."""
        ...


def merge_variables(template: Template, global_variables: Mapping[str, Any], recipient: Contact) -> dict[str, Any]:
    """Return the values for one recipient, with the precedence of this module."""
    values = fallbacks(template)
    values["name"], values["email"], values["phone"] = recipient.name, recipient.email, recipient.phone
    values.update(unpacked(global_variables))
    values.update(unpacked(recipient.variables))
    return values


class BlastValues:
    """The values that the jobs of a blast have in common, prepared once."""

    def __init__(self, blast: Blast) -> None:
        self._fallbacks = fallbacks(blast.template)
        self._fallbacks["email"] = self._fallbacks["phone"] = ""
        self._given = unpacked(blast.variables)

    def of(self, job: Job, unsubscribe_url: str = "") -> dict[str, Any]:
        """Return the values for one job, as its sender renders it.

        The other channel's address is empty, unless ingest added it to the recipient's variables because the template
        uses it. Raises RenderError if sensitive values are still sealed.
        """
        values = self._fallbacks.copy()
        recipient = job.recipient
        values["name"] = recipient.name
        values[CHANNELS[job.channel].address_field] = recipient.address
        values["unsubscribe_url"] = unsubscribe_url
        values.update(self._given)
        if recipient.variables:
            values.update(unpacked(recipient.variables))
        if SEALED in values:  # a message without its code must not be sent
            raise RenderError("the sensitive values of this message are still sealed")
        return values


def job_values(blast: Blast, job: Job, unsubscribe_url: str = "") -> dict[str, Any]:
    """Return the values for one job of a blast, as `BlastValues.of` does."""
    return BlastValues(blast).of(job, unsubscribe_url)


def fallbacks(template: Template) -> dict[str, Any]:
    """Return the values to fall back to: declared defaults, and null for optional variables without one."""
    values: dict[str, Any] = {"unsubscribe_url": ""}
    for variable in template.variables:
        if variable.default is not None or not variable.required:
            values[variable.name] = unpacked_value(variable.default)
    return values
