"""The names of the keys: every key of a channel shares one hash tag, so that each script touches one slot."""

from __future__ import annotations

from dataclasses import dataclass

GATEWAY_EVENTS = "gateway:events"
LOGGER_GROUP = "logger"


@dataclass(frozen=True, slots=True)
class ChannelKeys:
    """The keys of one channel; `tag` is also what every script is given as its only key."""

    channel: str

    @property
    def tag(self) -> str:
        """The hash tag, `{email}`; it names no key itself, it routes a script to its slot."""
        return "{" + self.channel + "}"

    def key(self, name: str) -> str:
        """Return the channel's key of that name, such as `{email}:ring`."""
        return f"{self.tag}:{name}"

    def lane(self, lane: str) -> str:
        """Return the stream of the lane `high` or `normal`, or of the jobs come `due`."""
        return f"{self.tag}:jobs:{lane}"

    def bulk(self, blast_id: str) -> str:
        """Return a blast's own stream."""
        return f"{self.tag}:jobs:bulk:{blast_id}"

    def blast(self, blast_id: str) -> str:
        """Return the hash of a blast on this channel."""
        return f"{self.tag}:blast:{blast_id}"

    def file(self, blast_id: str, digest: str) -> str:
        """Return the key of a file that jobs of a blast need."""
        return f"{self.tag}:file:{blast_id}:{digest}"

    def sender(self, sender_id: str) -> str:
        """Return the heartbeat of a sender."""
        return f"{self.tag}:sender:{sender_id}"

    @property
    def events(self) -> str:
        """The stream of the channel's events."""
        return self.key("events")

    @property
    def bell(self) -> str:
        """The doorbell."""
        return self.key("bell")


def blast_key(blast_id: str) -> str:
    """Return the hash of a blast as a whole."""
    return f"blast:{blast_id}"
