"""Limits finer than the channel's: the limit that applies to a job, and how closely its starts may follow.

A domain's limit slows mail to one domain, a pair's limit messages to one recipient. All senders of a channel share
them. A job beyond its limit waits in that limit's list, so that it does not delay other jobs.
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
    """The limit of a job: its name (without white space) and the µs between two starts.

    With a `burst` above 1, that many starts may follow each other without a gap after a rest. `starts` is how many
    starts the rate allows per period.
    """

    name: str
    gap_us: int
    burst: int = 1
    starts: int = 1


LimitOf = Callable[[Job], JobLimit | None]


def domain_limits(rates: Mapping[str, Rate]) -> LimitOf:
    """Limit jobs by the domain of their address; `*` applies to each domain that is not named."""
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
    """Limit jobs by their recipient: `rate` in the long run after a burst of `burst` starts; no limit without a rate.

    The limit's name is a hash of the address: it is part of a Redis key, which the slow log and key listings show.
    """
    gap, starts = (gap_us(rate), rate.count) if rate else (0, 0)

    def limit_of(job: Job) -> JobLimit | None:
        return JobLimit(_veiled(identity(job.recipient.address)), gap, burst, starts) if gap else None

    return limit_of


def _veiled(address: str) -> str:
    return hashlib.blake2s(address.encode(), digest_size=12).hexdigest()
