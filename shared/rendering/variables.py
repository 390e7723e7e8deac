"""The values that a template is rendered with: who gives them, and who wins.

A recipient's variables come before the blast's, those before the recipient's own name, email and phone, and a
declared default is the last resort. An optional variable that nobody gives is empty rather than missing.
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

# what every template may use without declaring it
BUILT_IN = ("name", "email", "phone", "unsubscribe_url")


class Contact(Protocol):
    """Whom a message is for."""

    @property
    def name(self) -> str:
        """The display name."""
        ...

    @property
    def email(self) -> str:
        """The email address, empty if there is none."""
        ...

    @property
    def phone(self) -> str:
        """The phone number, empty if there is none."""
        ...

    @property
    def variables(self) -> Mapping[str, Any]:
        """The recipient's own variables."""
        ...


def merge_variables(template: Template, global_variables: Mapping[str, Any], recipient: Contact) -> dict[str, Any]:
    """Return the values for one recipient: its own, then the global ones, then name, email, phone, then defaults."""
    values = fallbacks(template)
    values["name"], values["email"], values["phone"] = recipient.name, recipient.email, recipient.phone
    values.update(unpacked(global_variables))
    values.update(unpacked(recipient.variables))
    return values


def job_values(blast: Blast, job: Job, unsubscribe_url: str = "") -> dict[str, Any]:
    """Return the values for one job, as its sender renders it.

    The address that belongs to another channel is empty, unless ingest put it among the recipient's variables
    because the template uses it. Raises RenderError where sensitive values were not opened.
    """
    values = fallbacks(blast.template)
    values["name"] = job.recipient.name
    values["email"] = values["phone"] = ""
    values[CHANNELS[job.channel].address_field] = job.recipient.address
    values["unsubscribe_url"] = unsubscribe_url
    values.update(unpacked(blast.variables))
    values.update(unpacked(job.recipient.variables))
    if SEALED in values:  # rather no message than one without its code
        raise RenderError("its sensitive values are still sealed")
    return values


def fallbacks(template: Template) -> dict[str, Any]:
    """Return what serves where nobody gives a value: declared defaults, and nothing for optional variables."""
    values: dict[str, Any] = {"unsubscribe_url": ""}
    for variable in template.variables:
        if variable.default is not None or not variable.required:
            values[variable.name] = unpacked_value(variable.default)
    return values
