"""Dispatching: fetch the jobs that can be begun soon, and begin them as slots, limits and the provider allow."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from shared.clock import Clock
from shared.errors import QueueUnavailableError, StopChannelError
from shared.logs import get_logger
from shared.queue.consumer import BeginRequest, Consumer, Taking
from shared.queue.consumers import Begun, Consumers
from shared.queue.fetched import Fetched
from shared.queue.leases import STARTING, Grant, GrantKind, Lease, given_back
from shared.sending.gates import Gates
from shared.sending.holdings import SLOW_SEND_S, BegunJob, Holdings
from shared.sending.outcomes import not_begun_move, unsendable_move, untouched
from shared.sending.provider import Capacity
from shared.sending.requests import Requests
from shared.sending.settings import HOLD, SendingSettings
from shared.sending.settler import Settler
from shared.sending.shares import Settlers

BUFFER_AHEAD_S = 0.2
AHEAD_S = 0.05
MOST_BUFFERED = 500
IDLE_POLL_S = 1.0
BUSY_POLL_S = 0.005
AWAY_POLL_S = 0.25
BLOCKED_POLL_S = 0.1
SOON_S = 0.01  # of the time that a start may be late, what it may wait for a connection
LIMITED_POLL_S = 0.5  # the rate may change while jobs wait for it


class Dispatcher:
    """Moves jobs from the queue to the workers."""

    def __init__(
        self,
        consumer: Consumer | Consumers,
        holdings: Holdings,
        settler: Settler | Settlers,
        settings: SendingSettings,
        gates: Gates,
    ) -> None:
        self._consumer = consumer
        self._holdings = holdings
        self._settler = settler
        self._settings = settings
        self.gates = gates
        self._pace = holdings.pace
        self._asking = Requests(settings, self._pace)
        self._has_work = True
        self._poll_at = 0.0
        self._after_suspect = False
        self._alone_begun = False
        self._limited_until = 0.0
        self._capacity_at = 0.0
        self._connections = 0
        self._limited = False
        self._spaced = "channel" if settings.rate else ""
        self._several = consumer if isinstance(consumer, Consumers) else None
        self._taker = consumer if isinstance(consumer, Consumer) and not self._asking.may_be_limited else None
        # a job that is uncertain under `hold` is not sent, so none is begun early
        self._far_ahead = settings.on_uncertain != HOLD

    async def run(self, clock: Clock, stopping: Callable[[], bool]) -> None:
        """Dispatch until `stopping`, then give back the buffered jobs."""
        while not stopping():
            try:
                worked = await self._round(clock)
                self.gates.redis_away = ""
            except QueueUnavailableError as error:
                if not self.gates.redis_away:
                    get_logger().warning("redis_unavailable", reason=str(error))
                self.gates.redis_away = error.why
                await self._recover(clock)
                continue
            if not worked:
                await self._wait(clock)
        while self._taker is not None and self._taker.unanswered is not None:
            try:
                await self._learn_of_taken(clock)
            except QueueUnavailableError:
                await clock.sleep(AWAY_POLL_S)
        self.give_back_buffer()

    def wake(self) -> None:
        """Note that there may be work: fetch in the next round."""
        self._has_work = True
        self._holdings.wake.set()

    def give_back_buffer(self) -> None:
        """Give back every job that is buffered and not begun."""
        for lease in self._holdings.take_all():
            self._settler.add(given_back(lease))

    async def _wait(self, clock: Clock) -> None:
        wake = self._holdings.wake
        try:
            async with asyncio.timeout(max(self._wait_s(clock.monotonic()), 0.001)):
                await wake.wait()
        except TimeoutError:
            return
        wake.clear()

    def _wait_s(self, now: float) -> float:
        """How long to wait unless woken. With a full buffer, the time at which the next job is due does not matter."""
        if self.gates.blocked_s:
            return self.gates.blocked_s
        wait_s = IDLE_POLL_S
        if self._wanted() > 0:
            wait_s = min(wait_s, self._poll_at - now)
        for at in (self._limited_until, self._capacity_at):
            if self._holdings.waiting and at > now:
                wait_s = min(wait_s, at - now)
        return wait_s

    async def _recover(self, clock: Clock) -> None:
        """Load the jobs of a fetch whose reply was lost: the queue lists them in our buffer, `Holdings` does not."""
        await clock.sleep(AWAY_POLL_S)
        try:
            for lease in await self._consumer.load(self._holdings.unknown(await self._consumer.list_held("buf"))):
                self._holdings.buffer(lease)
        except QueueUnavailableError:
            return

    async def _round(self, clock: Clock) -> bool:
        gates = self.gates
        if self._holdings.any_aside:
            self._take_late_answers(clock)
        await self._learn_of_taken(clock)
        now = clock.monotonic()
        if not gates.lease_fresh() or now < gates.backoff_until:
            gates.blocked_s = BLOCKED_POLL_S
            return False
        if not gates.provider_available():
            self._wait_for_provider()
            return False
        gates.blocked_s = 0.0
        self._pace.observe(self._holdings.finished, now)
        fetched = await self._fetch(clock)
        begun = await self._begin(clock)
        return fetched or begun

    def _wait_for_provider(self) -> None:
        if not self.gates.probing:
            get_logger().warning("provider_unavailable", channel=self._consumer.partition.name)
        self.gates.probing = True
        self.gates.blocked_s = AWAY_POLL_S
        self.give_back_buffer()

    def _window(self) -> int:
        """How many jobs may be in flight: none without an open connection, one while probing a provider.

        When sends are fast, this may exceed the number of connections, to hide the round trips to the queue. When
        they are slow it does not, since every job in flight becomes uncertain if this process dies. With a journal of
        the hand-overs only a lost machine makes them so; the jobs of the next AHEAD_S are then begun with one call.
        """
        concurrency = min(self._connections, self._settings.concurrency)
        if self.gates.probing:
            return min(concurrency, 1)
        # twice: one half is sent while the other is being begun
        further = 2 * self._pace.sends_per_round_trip(concurrency)
        if not self._spaced and self._pace.send_s <= SLOW_SEND_S:
            # two more for each connection: the next job is announced while the last but one is being settled
            least = 2 * concurrency if self.gates.announces else 0
            further = max(further, least, int(self._pace.per_s * AHEAD_S) if self._is_far_ahead() else 0)
        return min(concurrency * self._settings.window, concurrency + further)

    def _is_far_ahead(self) -> bool:
        journal = self._holdings.journal
        return self._far_ahead and journal is not None and journal.complete

    def _free(self) -> int:
        return self._window() - self._holdings.in_flight_count

    def _begins(self) -> int:
        """How many jobs to begin now: none while the workers have enough to send, so that one call begins many."""
        window = self._window()
        free = window - self._holdings.in_flight_count
        self._holdings.low_water = window // 4
        if self._holdings.ready.qsize() > self._holdings.low_water and free < window // 2:
            return 0
        return free

    async def _startable(self, clock: Clock) -> float:
        """How many jobs to begin now, given the open connections; ask the provider to open as many as are needed.

        While a limit spaces starts, a job that waited for a connection for long would start too late.
        """
        holdings = self._holdings
        waiting = len(holdings.buffered) + len(holdings.suspects)
        try:
            capacity = self.gates.provider_capacity(min(holdings.in_flight_count + waiting, self._settings.concurrency))
        except StopChannelError as error:
            await self.gates.stop_channel(error)
            self.give_back_buffer()
            self._has_work = True  # the next fetch reports that the channel is paused
            capacity = Capacity(0, AWAY_POLL_S, 0)
        self._connections = int(min(capacity.connections, self._settings.concurrency))
        self._capacity_at = clock.monotonic() + min(capacity.in_s, LIMITED_POLL_S)
        return self._begins_spaced(capacity) if self._spaced else self._begins()

    def _begins_spaced(self, capacity: Capacity) -> float:
        """How many jobs to begin now under a limit: one for each free connection, and what these will send very soon.

        With one job for each connection, every send would be followed by a round trip to the queue. While no start is
        free, other senders may need the next ones. Without a complete journal a begun job may become uncertain. Limits
        of the jobs grant starts in another order than the jobs wait in, so these would wait for a later start.
        """
        begins, ready, starts = self._begins(), self._holdings.ready.qsize(), capacity.starts
        lasting = int(min(capacity.lasting, self._connections))
        ahead = self._is_far_ahead() and not self._limited and self._spaced == "channel" and self._pace.send_s <= SOON_S
        soon = self._pace.sends_within(SOON_S, lasting) if ahead else 0
        if soon <= starts:
            return min(begins, starts - ready)
        self._holdings.low_water = soon // 2
        return min(begins, starts + soon - ready) if ready <= soon // 2 else 0

    def _wanted(self) -> int:
        """How many jobs to fetch: the buffer holds only jobs that can be begun soon."""
        ahead = max(1, math.ceil(self._pace.per_s * BUFFER_AHEAD_S))
        target = ahead if self._limited else min(max(self._free(), 0) + ahead, MOST_BUFFERED)
        if self.gates.probing:
            target = 1
        want = target - len(self._holdings.buffered)
        return want if want >= target // 4 else 0

    async def _fetch(self, clock: Clock) -> bool:
        want = self._wanted()
        if want <= 0 or not (self._has_work or clock.monotonic() >= self._poll_at):
            return False
        self._has_work = False  # before the fetch, so that a wake-up during it is kept
        taking = await self._taking(want, clock)
        if self._taker is not None and taking is not None:
            want, fetched = taking.want, await self._taker.take(taking)
            self._pace.begun(clock.monotonic() - taking.asked_at)
        else:
            fetched = await self._consumer.fetch(want)
        await self._keep(fetched, taking, clock)
        self.gates.paused = fetched.paused
        if fetched.log_behind and not self.gates.log_behind:
            get_logger().warning("log_behind", channel=self._consumer.partition.name)
        self.gates.log_behind = fetched.log_behind
        due_in_s = IDLE_POLL_S if fetched.due_in_s is None else max(fetched.due_in_s, BUSY_POLL_S)
        self._poll_at = clock.monotonic() + min(due_in_s, IDLE_POLL_S)
        self._has_work |= len(fetched.leases) >= want
        if fetched.paused:
            self.give_back_buffer()
        return bool(fetched.leases)

    async def _taking(self, want: int, clock: Clock) -> Taking | None:
        """Return how many jobs to fetch and begin in one step; None if they are to be begun apart.

        One step saves a round trip and a write to the append-only file, which a single message would wait for. With
        more to do it would save little, and there jobs begin in the order of the buffer.
        """
        now = clock.monotonic()
        if self._taker is None or not self._holdings.is_idle or self.gates.probing or self._limited_until > now:
            return None
        if not self._connections:  # of a provider that cannot be used nothing is asked before a job waits for it
            return None
        most = min(await self._startable(clock), want)
        if most < 1:
            return None
        return Taking(int(most), 0, self._asking.late_ms, clock.monotonic(), clock.now_ms())

    async def _learn_of_taken(self, clock: Clock) -> None:
        """Ask for a lost answer: its jobs may be in flight, so each is sent, or settled, before the sender ends."""
        if self._taker is not None and (lost := self._taker.unanswered) is not None:
            await self._keep(await self._taker.taken(), lost, clock)

    async def _keep(self, fetched: Fetched, taking: Taking | None, clock: Clock) -> None:
        """Keep the jobs of a fetch, or handle the answers about those that were begun in the same step."""
        if taking is not None and fetched.grants:
            pairs = zip(fetched.leases, fetched.grants, strict=True)
            new = [(BeginRequest(lease), grant) for lease, grant in pairs if self._holdings.add_taken(lease)]
            self._note_grants([grant for _, grant in new])
            answers = Begun([one for one, _ in new], [one for _, one in new], taking.asked_at, taking.late_ms)
            self._take_answers(answers, clock)
            await asyncio.sleep(0)  # the workers hand over what was begun before anything else is done
            await self._startable(clock)  # for these jobs, as many connections are opened as they need
        else:
            for lease in fetched.leases:
                self._holdings.add_fetched(lease)
            self.gates.prepare(fetched.leases)
        for entry in fetched.undecodable:
            get_logger().error("undecodable_job", entry_id=entry.entry_id, stream=entry.stream)
            await self._consumer.discard(entry, clock.now_ms())

    def _note_grants(self, grants: Sequence[Grant]) -> set[GrantKind]:
        """Note what the answers say about limits and suspects; return their kinds."""
        kinds = {grant.kind for grant in grants}
        self._limited = "limited" in kinds
        self._spaced = "channel" if self._limited else next((grant.spaced for grant in grants if grant.spaced), "")
        self._alone_begun = "alone" in kinds
        return kinds

    async def _begin(self, clock: Clock) -> bool:
        holdings = self._holdings
        if not holdings.waiting or holdings.any_alone() or self._limited_until > clock.monotonic():
            return False
        free = await self._startable(clock)
        leases = self._next(int(free)) if free > 0 else []
        if not leases:
            return False
        sent_at = clock.monotonic()
        requests = self._requests(leases, clock)
        late_ms = self._asking.late_ms
        grants = await self._consumer.begin(requests, clock.now_ms(), holdings.in_flight_count, late_ms)
        if "away" not in self._note_grants(grants):
            self._pace.begun(clock.monotonic() - sent_at)
        return self._take_answers(Begun(requests, grants, sent_at, late_ms), clock)

    def _take_late_answers(self, clock: Clock) -> None:
        """Take the answers of partitions that were away; from then on their jobs may be begun again."""
        for answers in self._several.late_answers() if self._several else ():
            self._take_answers(answers, clock, late=True)
            self._holdings.bring_back(answers.requests[0].lease)

    def _take_answers(self, answers: Begun, clock: Clock, *, late: bool = False) -> bool:
        """Hand begun jobs to the workers, and settle, keep or drop the others; return whether anything changed."""
        begun: list[Lease] = []
        moved = False
        now = clock.monotonic()
        for request, grant in zip(answers.requests, answers.grants, strict=True):
            if grant.kind not in STARTING:
                moved |= self._settle_refusal(request.lease, grant, clock)
            elif late and self._conflicts(grant):
                self._settler.add(untouched(request.lease, clock.now_ms(), "another had to be sent alone"))
            else:
                self._add_begun(request, grant, answers, now)
                begun.append(request.lease)
        self.gates.prepare(begun)
        return moved or bool(begun)

    def _conflicts(self, grant: Grant) -> bool:
        """Return whether a job that is granted late would not be sent alone, or beside one that must be."""
        return self._holdings.any_alone() or (grant.kind == "alone" and self._holdings.in_flight_count > 0)

    def _next(self, most: int) -> list[Lease]:
        """Take the jobs to begin next.

        While a suspect waits, nothing else is begun until the jobs in flight have landed; then the suspect is begun
        alone. Jobs of `high` are begun between two suspects, so they wait for at most one.
        """
        holdings = self._holdings
        if not holdings.suspects:
            return holdings.take(most)
        if holdings.in_flight_count:
            return []
        high = holdings.take_high(most) if self._after_suspect else []
        self._after_suspect = not high
        return high or holdings.take_suspect()

    def _requests(self, leases: list[Lease], clock: Clock) -> list[BeginRequest]:
        """Make the requests; a job whose request cannot be made ends as `failed` without affecting the others."""
        requests = []
        for lease in leases:
            try:
                requests.append(self._asking.make(lease))
            except Exception as error:
                get_logger().error("begin_error", job_id=lease.job_id, exc_info=error)
                self._settler.add(unsendable_move(lease, error, clock.now_ms()))
        return requests

    def _add_begun(self, request: BeginRequest, grant: Grant, answers: Begun, now: float) -> None:
        """Hand a begun job to the workers."""
        # Counted from the answer, a start may be later than the limiter allowed, never earlier.
        starts_at = now + (grant.after_us - grant.waited_us) / 1e6
        begun = BegunJob(request.lease, starts_at, asked_at=answers.asked_at, alone=grant.kind == "alone")
        if grant.spaced:
            # what `begin` allowed for when it charged the limit that spaces the start
            late_ms = request.late_ms if grant.spaced == "own" else answers.late_ms
            begun.granted_for = begun.asked_at + grant.after_us / 1e6
            begun.latest_start = begun.granted_for + (self._settings.timing.late_start_ms + late_ms) / 1000
        self._holdings.add_begun(begun)

    def _settle_refusal(self, lease: Lease, grant: Grant, clock: Clock) -> bool:
        """Settle, keep or drop a job that may not be begun. Return whether anything changed."""
        if grant.kind == "away":
            self._holdings.set_aside(lease)
            return False
        if grant.kind in {"limited", "wait", "crowded", "ask"}:
            if grant.kind == "limited":
                self._limited_until = clock.monotonic() + min(grant.after_us / 1e6, LIMITED_POLL_S)
            if grant.kind == "wait" and not self._alone_begun:
                self._holdings.add_suspect(lease)  # no job of this call is sent alone, so this one must be
            else:
                self._holdings.put_back(lease)
            return False
        move = not_begun_move(lease, grant, clock.now_ms())
        if move is None:
            self._holdings.remove([lease])
        else:
            self._settler.add(move)
        return True
