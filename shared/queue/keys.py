"""The names of the keys: every key of a partition shares one hash tag, so that each script touches one slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

GATEWAY_EVENTS = "gateway:events"
LOGGER_GROUP = "logger"
RECEIPTS = "receipts"
RECEIPTS_GROUP = "receipts"
# its hash tag puts it into the slot of `receipts`, so that one script moves an entry
RECEIPTS_SET_ASIDE = "{receipts}:set_aside"
# the endpoints of webhooks by number (`shared.queue.webhooks`)
WEBHOOKS = "webhooks"
_PLACE = re.compile(r"{(\w+)(?:\.(\d+)[a-z]?)?}")
# A letter for each partition after the first, chosen so that the slots of one to four partitions for each master are
# spread evenly over the masters of a new cluster, which have equal ranges of slots. To change one would lose its keys.
_LETTERS = {
    "email": "tgxqxgnupmdfjipetonlqvmyutdspwfupqqkmjyaqsxiducjofxknjbquclujku",
    "whatsapp": "tayitpxxhwgokrrvvpdilhamupxtmhtviimbjvtymksashwhnabzruudtjvyprr",
}


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one partition of a channel's queue; the tag of the first one is the channel's name."""

    channel: str
    index: int = 0

    @property
    def name(self) -> str:
        """What people read: `email` for the first partition of a channel, `email.1` for the second, `webhook.3`."""
        return f"{self.channel}.{self.index}" if self.index else self.channel

    @property
    def tag(self) -> str:
        """The hash tag: `{email}`, then `{email.1t}` … with a letter that decides on the slot; it is not a key."""
        return f"{{{self.name}{_LETTERS.get(self.channel, '')[self.index - 1 : self.index] if self.index else ''}}}"

    def key(self, name: str) -> str:
        """Return the partition's key of that name, such as `{email}:ring`."""
        return f"{self.tag}:{name}"

    def lane(self, lane: str) -> str:
        """Return the stream of the lane `high` or `normal`, of the `due` jobs, or of those `released` by limits."""
        return f"{self.tag}:jobs:{lane}"

    def limit_list(self, limit: str) -> str:
        """Return the list of the jobs that wait for a limit, by place."""
        return f"{self.tag}:limits:jobs:{limit}"

    def bulk(self, blast_id: str) -> str:
        """Return a blast's own stream."""
        return f"{self.tag}:jobs:bulk:{blast_id}"

    def blast(self, blast_id: str) -> str:
        """Return the hash of a blast in this partition."""
        return f"{self.tag}:blast:{blast_id}"

    def file(self, blast_id: str, digest: str) -> str:
        """Return the key of a file that jobs of a blast need."""
        return f"{self.tag}:file:{blast_id}:{digest}"

    def sender(self, sender_id: str) -> str:
        """Return the heartbeat of a sender."""
        return f"{self.tag}:sender:{sender_id}"

    @property
    def events(self) -> str:
        """The stream of the partition's events."""
        return self.key("events")

    @property
    def bell(self) -> str:
        """The stream of wake-ups (`WakeUps`); once made it is never deleted."""
        return self.key("bell")

    @property
    def routing(self) -> tuple[str, str]:
        """The keys that a script is called with: one that exists, and one that never does (`lua/lib.lua` says why)."""
        return self.bell, self.key("none")


class LimitKeys(PartitionKeys):
    """The keys of a channel's limits where several partitions share them: in a slot of their own."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """What people read, and the hash tag: `email.limits`."""
        return f"{self.channel}.limits"


@lru_cache(1024)
def place_of(key: str) -> tuple[str, int]:
    """Return the channel and the index of the partition that has a key, ("", 0) for a key of no partition."""
    found = _PLACE.match(key)
    return (found[1], int(found[2] or 0)) if found else ("", 0)


def blast_key(blast_id: str) -> str:
    """Return the hash of a blast over all channels."""
    return f"blast:{blast_id}"
