"""Counters and histograms for code that counts thousands per second, exported as prometheus_client's own would be.

The library's metrics lock each value and search the buckets one by one, which costs a sender several microseconds per
message. These have no locks: one thread both counts and exports.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString

Labels = tuple[str, ...]


class CountTally(Collector):
    """A counter with labels; `name` is without `_total`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._counts: defaultdict[Labels, int] = defaultdict(int)

    def add(self, labels: Labels) -> None:
        """Count one."""
        self._counts[labels] += 1

    def collect(self) -> Iterable[Metric]:
        """Return the family, in the order in which the labels were first counted."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        return [family]


class _Times:
    """The times of one set of labels: how many are in each bucket, the last one without an upper bound."""

    __slots__ = ("counts", "total_s")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total_s = 0.0


class TimeTally(Collector):
    """A histogram of seconds with labels; `bounds` are the upper bounds of its buckets, ascending, without infinity."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = list(bounds)
        self._times: defaultdict[Labels, _Times] = defaultdict(lambda: _Times(len(bounds)))

    def start(self, labels: Labels) -> None:
        """Export a series before its first time is observed."""
        self._times.setdefault(labels, _Times(len(self._bounds)))

    def observe(self, labels: Labels, seconds: float) -> None:
        """Add one time to its bucket: the first one whose bound it does not exceed."""
        times = self._times[labels]
        times.counts[bisect_left(self._bounds, seconds)] += 1
        times.total_s += seconds

    def observe_all(self, labels: Labels, every: Sequence[float]) -> None:
        """Add many times at once."""
        times, ordered, below = self._times[labels], sorted(every), 0
        for bucket, bound in enumerate((*self._bounds, INF)):
            before, below = below, bisect_right(ordered, bound, below)
            times.counts[bucket] += below - before
        times.total_s = sum(every, times.total_s)

    def collect(self) -> Iterable[Metric]:
        """Return the family, in the order in which the labels were first observed."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        names = [floatToGoString(bound) for bound in (*self._bounds, INF)]  # type: ignore[no-untyped-call]  # as above
        for labels, times in self._times.items():
            below, buckets = 0, []
            for name, count in zip(names, times.counts, strict=True):
                below += count
                buckets.append((name, float(below)))
            family.add_metric(labels, buckets, times.total_s)
        return [family]
