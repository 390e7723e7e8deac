"""What differs between the providers of WhatsApp's API: where a message is posted, how we log in, and our settings.

Qiscus passes on what Meta's Cloud API takes and answers. So the channel, the body, the codes and the reading of
answers are the same for every driver, and a driver only describes itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class SettingNames:
    """The names of a driver's settings, for problems that a person has to solve.

    `place` are those that name the sending number and `place_words` what they are, `secret` the one that proves who we
    are, `credentials` those that are refused together with it. `mentioned` are words of the provider's answers and the
    setting that they concern. `location` are the settings that make up the URL that messages are posted to; that of the
    base URL is the first.
    """

    url: str
    place: tuple[str, ...]
    place_words: str
    secret: str
    credentials: tuple[str, ...]
    mentioned: tuple[tuple[str, re.Pattern[str]], ...]
    location: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Set the location: it is part of every answer."""
        object.__setattr__(self, "location", (self.url, *self.place))


class Driver(Protocol):
    """One provider of WhatsApp's API."""

    @property
    def name(self) -> str:
        """Its name, for people."""
        ...

    @property
    def url(self) -> str:
        """The base URL of its API."""
        ...

    @property
    def messages_url(self) -> str:
        """The URL that messages are posted to."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of every request, which log in."""
        ...

    @property
    def secret(self) -> str:
        """The secret among the headers, which nothing may show."""
        ...

    @property
    def names(self) -> SettingNames:
        """The names of its settings."""
        ...

    @property
    def fields(self) -> Mapping[str, str]:
        """The fields that every body has in addition to the message."""
        ...

    @property
    def takes_namespace(self) -> bool:
        """Whether it knows a template by its namespace as well as its name."""
        ...

    @property
    def number_url(self) -> str:
        """The URL that describes the sending number, "" if it has none."""
        ...

    def read_number(self, body: Mapping[str, Any]) -> dict[str, object]:
        """Return what a response of `number_url` says about the number."""
        ...

    def with_secret(self, secret: str) -> Driver:
        """Return the same driver with another secret."""
        ...
