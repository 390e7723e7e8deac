"""Limits finer than the channel's own: which of them a job falls under, and how close its starts may follow.

A domain's limit holds back the mail to one provider, a pair's the messages to one recipient. All senders of a
channel share them; a job beyond its limit waits in a list of that limit, so that it holds up no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.addresses import ascii_domain, identity
from shared.jobs import Job
from shared.queue.control import gap_us
from shared.settings import Rate


@dataclass(frozen=True, slots=True)
class JobLimit:
    """A limit that a job falls under: its name (no white space), µs between two starts, and how many at once.

    With a `burst` above 1, that many starts may follow each other freely after a rest. `starts` may come in a period.
    """

    name: str
    gap_us: int
    burst: int = 1
    starts: int = 1


LimitOf = Callable[[Job], JobLimit | None]


def domain_limits(rates: Mapping[str, Rate]) -> LimitOf:
    """Limit jobs by the domain of their address; `*` holds for each domain that is not named."""
    known = {ascii_domain(domain): (gap_us(rate), rate.count) for domain, rate in rates.items()}
    others = known.get("*")

    def limit_of(job: Job) -> JobLimit | None:
        if not known:
            return None
        domain = ascii_domain(job.recipient.address.rpartition("@")[2])
        found = known.get(domain, others)
        return None if found is None else JobLimit(domain, found[0], starts=found[1])

    return limit_of


def pair_limit(rate: Rate | None, burst: int) -> LimitOf:
    """Limit jobs by their recipient: `rate` in the long run, after a burst of so many; no rate, no limit.

    The limit's name becomes a key of Redis, which shows in its slow log and to whoever lists keys: not the number.
    """
    gap, starts = (gap_us(rate), rate.count) if rate else (0, 0)

    def limit_of(job: Job) -> JobLimit | None:
        return JobLimit(_veiled(identity(job.recipient.address)), gap, burst, starts) if gap else None

    return limit_of


def _veiled(address: str) -> str:
    return hashlib.blake2s(address.encode(), digest_size=12).hexdigest()
