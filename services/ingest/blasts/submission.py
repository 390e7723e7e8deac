"""Submission: one request for a blast, from its body to its answer, processed once however often it is repeated.

This module ties both passes, the idempotency record and the answer together. A request with an Idempotency-Key that is
repeated after a crash continues the blast of the first attempt: the same snapshot, the same job ids.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from services.ingest.blasts.enqueueing import Enqueueing, job_of, patiently
from services.ingest.blasts.first_pass import FirstPass, Totals
from services.ingest.blasts.request_body import BlastBody
from services.ingest.blasts.spool import disk_trouble
from services.ingest.blasts.terms import Caller, Terms, check_terms, terms_of
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import Call
from services.ingest.http.responses import BlastAnswer
from services.ingest.storage.idempotency import Claim, record_key
from shared.blasts import Blast, parts_of
from shared.errors import KurirError, QueueUnavailableError
from shared.jobs import Lane
from shared.numbers import plain_json
from shared.sealing import sensitive_names

_LONGEST_KEY = 255

_encoder = msgspec.json.Encoder()
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH_MS = 1_577_836_800_000
_TIME_DIGITS = 8
_RANDOM_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a submission; `replayed`: it is that of an earlier request with the same key."""

    body: bytes
    status: int = 202
    replayed: bool = False


class Submission:
    """Accepts one blast; raises ApiError, QueueFullError and QueueUnavailableError."""

    def __init__(self, call: Call, incoming: BlastBody) -> None:
        self._call = call
        self._gateway = call.gateway
        self._incoming = incoming
        self._record = "" if incoming.head.dry_run else _record(call)
        self._folder = Path(self._gateway.spool_folder)

    async def run(self) -> Receipt:
        """Check, claim, enqueue, answer."""
        prior, done = await self._earlier()
        if done:
            await self._incoming.drain()
            async with self._claimed() as claim:
                # the record expired between the two reads: this body's recipients were never checked
                if claim is None or claim.state != "done":
                    raise ApiError("IDEMPOTENCY_IN_PROGRESS", headers={"Retry-After": "1"})
                return Receipt(claim.response, replayed=True)
        terms = self._terms_of(prior) if prior else await self._terms()
        settings = self._gateway.settings
        region, partitions = settings.default_region, settings.common.partitions
        with disk_trouble(), FirstPass(terms, region, self._folder, self._gateway.seal, partitions) as first:
            totals = await first.run(self._incoming)
            return await self._second_pass(terms, first, totals, prior)

    async def _earlier(self) -> tuple[Blast | None, bool]:
        """Return the blast that an earlier request with this key began, and whether that request was answered.

        Raises ApiError while that request still runs.
        """
        if not self._record:
            return None, False
        seen = await self._gateway.records.idempotency.peek(self._record)
        if seen.done or not seen.blast_id:
            return None, seen.done
        if seen.lease_left_s > 0:
            # refused before the body is read: it may be long, and reading it would not help
            wait = {"Retry-After": str(math.ceil(seen.lease_left_s)), "Connection": "close"}
            raise ApiError("IDEMPOTENCY_IN_PROGRESS", headers=wait)
        return await self._gateway.queue.blasts.load(seen.blast_id), False

    def _terms_of(self, prior: Blast) -> Terms:
        return terms_of(self._gateway.seal.opened_blast(prior), self._incoming.head)

    async def _terms(self) -> Terms:
        caller = Caller(
            self._gateway.settings, self._gateway.templates, self._call.key, self._gateway.clock.now_ms()
        )  # fmt: skip
        terms = await check_terms(self._incoming.head, caller)
        if isinstance(terms, list):
            raise invalid(terms)
        self._call.vouch_for(terms.template)
        return terms

    async def _second_pass(self, terms: Terms, first: FirstPass, totals: Totals, prior: Blast | None) -> Receipt:
        async with self._claimed() as claim:
            if claim is not None and claim.state == "done":
                return Receipt(claim.response, replayed=True)
            if prior is None:
                first.verdict(totals)
            self._gateway.metrics.recipients(totals.recipients, totals.rejected)
            lane = self._lane(terms, totals)
            if terms.head.dry_run:
                return Receipt(_encoder.encode(_answer(first, totals)), 200)
            blast = prior or self._blast(terms, totals, lane, claim)
            if prior is None:
                await self._check_room(totals)
            if prior is not None or not await self._accept(blast, first):
                fresh = prior is None and await self._create(blast)
                await self._enqueue(blast, first, fresh=fresh)
                await self._check_whole(blast, claim)
            body = _encoder.encode(_answer(first, totals, blast, self._job_ids(blast, first)))
            if claim is not None:
                await self._gateway.records.idempotency.complete(claim, body)
            return Receipt(body)

    @asynccontextmanager
    async def _claimed(self) -> AsyncIterator[Claim | None]:
        """Hold the idempotency record while the block runs; any exception releases it."""
        if not self._record:
            yield None
            return
        store = self._gateway.records.idempotency
        claim = await store.claim(self._record, self._incoming.digest.text(), new_blast_id(self._now_ms()))
        if claim.state == "reused":
            raise ApiError("IDEMPOTENCY_KEY_REUSED")
        if claim.state == "running":
            raise ApiError("IDEMPOTENCY_IN_PROGRESS", headers={"Retry-After": "2"})
        if claim.state == "done":
            yield claim
            return
        try:
            async with store.held(claim):
                yield claim
        except BaseException as raised:
            await asyncio.shield(self._release(claim, raised))
            raise

    async def _release(self, claim: Claim, raised: BaseException) -> None:
        """Forget a refused request, so that a corrected one may use its key; release one that was begun."""
        store = self._gateway.records.idempotency
        refused = isinstance(raised, ApiError) and raised.status < 500 and raised.code != "BLAST_ENDED"
        with suppress(KurirError):
            if claim.state == "new" and refused:
                await store.forget(claim)
            else:
                await store.let_go(claim)

    def _lane(self, terms: Terms, totals: Totals) -> Lane:
        settings = self._gateway.settings
        most = max(totals.by_channel.values())
        if most > settings.max_backlog:
            what = (
                f"{most} messages exceed a channel's backlog limit of {settings.max_backlog}; send the blast in parts"
            )
            raise invalid([Problem("recipients", "TOO_MANY_RECIPIENTS", what)])
        lane = terms.lane(totals.recipients, settings.bulk_from)
        if isinstance(lane, Problem):
            raise invalid([lane])
        return lane

    def _blast(self, terms: Terms, totals: Totals, lane: Lane, claim: Claim | None) -> Blast:
        now_ms, head = self._now_ms(), terms.head
        blast_id = claim.blast_id if claim is not None else new_blast_id(now_ms)
        spread = totals.by_turn.items() if self._gateway.settings.common.partitions > 1 else ()
        return Blast(
            blast_id=blast_id,
            template=terms.template,
            channels=list(terms.channels),
            lane=lane,
            created_at_ms=now_ms,
            totals={channel: total for channel, total in totals.by_channel.items() if total},
            total_recipients=totals.recipients,
            variables=self._gateway.seal.closed(terms.variables, sensitive_names(terms.template)),
            from_address=terms.from_address,
            reply_to=terms.reply_to,
            scheduled_at_ms=terms.scheduled_at_ms,
            expires_at_ms=terms.expires_at_ms,
            attachments=terms.attachments,
            reference=head.reference,
            metadata=plain_json(head.metadata),
            api_key=self._call.key_name,
            parts={channel: parts_of(blast_id, turns) for channel, turns in spread if sum(turns)},
        )

    async def _check_room(self, totals: Totals) -> None:
        for channel, total in totals.by_channel.items():
            if total:
                await self._gateway.queue.room.take(channel, total)

    async def _accept(self, blast: Blast, first: FirstPass) -> bool:
        """Accept a single message in one step; return False if it has to be created and enqueued as any other.

        After a failure its outcome is unknown, so it is repeated, which adds nothing twice: a client without an
        idempotency key that gets an error sends the message again.
        """
        if not self._incoming.path:
            return False
        acceptance = self._gateway.queue.acceptance
        ((accepted,),) = first.spool.blocks()
        (channel,), (address,) = blast.channels, accepted.addresses
        job = job_of(blast, accepted, channel, address, self._now_ms())
        if not acceptance.takes(blast, job):
            return False
        try:
            return await acceptance.accept(blast, job)
        except QueueUnavailableError:
            return await patiently(self._gateway.clock, partial(acceptance.accept, blast, job))

    async def _create(self, blast: Blast) -> bool:
        """Create the snapshot; return False if an earlier attempt at this request created it."""
        await self._gateway.records.open_blasts.open(blast.blast_id, blast.created_at_ms)
        return await self._gateway.queue.blasts.create(blast)

    async def _enqueue(self, blast: Blast, first: FirstPass, *, fresh: bool) -> None:
        enqueueing = Enqueueing(self._gateway.queue, self._gateway.clock, blast)
        await enqueueing.run(first.spool.blocks, first.dropped, fresh=fresh)
        self._gateway.records.open_blasts.close(blast.blast_id)

    async def _check_whole(self, blast: Blast, claim: Claim | None) -> None:
        """Raise 409 where a blast that was taken over has already ended as incomplete."""
        if claim is None or claim.state != "taken_over":
            return
        progress = await self._gateway.queue.blasts.progress(blast.blast_id, blast)
        if progress is not None and any(one.incomplete for one in progress.channels.values()):
            queued = sum(one.enqueued for one in progress.channels.values())
            ended = f"blast {blast.blast_id} has already ended as incomplete, with {queued} messages queued"
            raise ApiError("BLAST_ENDED", f"{ended}; send the rest as a new blast")

    def _job_ids(self, blast: Blast, first: FirstPass) -> list[str] | None:
        if not self._incoming.whole:
            return None
        found: list[str] = []
        place = 0
        for block in first.spool.blocks():
            for accepted in block:
                for channel, address in zip(blast.channels, accepted.addresses, strict=True):
                    if address and place not in first.dropped:
                        found.append(f"{blast.blast_id}:{accepted.index}:{channel}")
                    place += 1
        return found

    def _now_ms(self) -> int:
        return self._gateway.clock.now_ms()


def _answer(
    first: FirstPass, totals: Totals, blast: Blast | None = None, job_ids: list[str] | None = None
) -> BlastAnswer:
    return BlastAnswer(
        blast_id=msgspec.UNSET if blast is None else blast.blast_id,
        total_messages=totals.messages,
        total_recipients=totals.recipients,
        job_ids=msgspec.UNSET if job_ids is None else job_ids,
        duplicates=totals.duplicates,
        rejected_recipients=totals.rejected or msgspec.UNSET,
        errors=first.listed or msgspec.UNSET,
        warnings=first.warnings or msgspec.UNSET,
        dry_run=True if blast is None else msgspec.UNSET,
    )


def _record(call: Call) -> str:
    """Return the key of the request's idempotency record, "" where it has none; raises ApiError."""
    given = call.request.headers.get("Idempotency-Key")
    if given is None:
        return ""
    key = given.strip()
    if not key or len(key) > _LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise ApiError("INVALID_IDEMPOTENCY_KEY")
    return record_key(call.key_name, key)


def new_blast_id(now_ms: int) -> str:
    """Return a new id of 16 letters and digits: 40 bits of time since 2020 in ms, then 40 random bits."""
    return _base32(now_ms - _EPOCH_MS, _TIME_DIGITS) + _base32(secrets.randbits(5 * _RANDOM_DIGITS), _RANDOM_DIGITS)


def _base32(number: int, digits: int) -> str:
    return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(digits)))
