"""Tallies are exported byte for byte as prometheus_client's own counters and histograms."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from shared.tallies import CountTally, TimeTally

BOUNDS = (0.001, 0.25, 1.0, 60.0, 300.0)
LABELS = st.tuples(st.sampled_from(["email", 'a "quoted"\\\n', "é"]), st.sampled_from(["sent", ""]))
SECONDS = st.floats(min_value=0, max_value=1e9) | st.sampled_from(BOUNDS)


def exported(fill: Callable[[CollectorRegistry], None]) -> bytes:
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it
    registry = CollectorRegistry()
    fill(registry)
    return generate_latest(registry)


@given(st.lists(LABELS))
def test_counts_are_exported_as_by_the_librarys_counter(counted: list[tuple[str, str]]) -> None:
    """Any labels, counted in any order, give the same text; so do none."""

    def library(registry: CollectorRegistry) -> None:
        counter = Counter("things", "Some things.", ("channel", "outcome"), registry=registry)
        for labels in counted:
            counter.labels(*labels).inc()

    def tally(registry: CollectorRegistry) -> None:
        own = CountTally("things", "Some things.", ("channel", "outcome"))
        registry.register(own)
        for labels in counted:
            own.add(labels)

    assert exported(tally) == exported(library)


@given(st.lists(LABELS, max_size=3), st.lists(st.tuples(LABELS, SECONDS)))
def test_times_are_exported_as_by_the_librarys_histogram(
    started: list[tuple[str, str]], observed: list[tuple[tuple[str, str], float]]
) -> None:
    """Any times, those on the bounds of buckets included, give the same text; so do series without times, and none."""

    def library(registry: CollectorRegistry) -> None:
        histogram = Histogram("waits", "Some waits.", ("channel", "outcome"), buckets=BOUNDS, registry=registry)
        for labels in started:
            histogram.labels(*labels)
        for labels, seconds in observed:
            histogram.labels(*labels).observe(seconds)

    def tally(registry: CollectorRegistry) -> None:
        own = TimeTally("waits", "Some waits.", ("channel", "outcome"), BOUNDS)
        registry.register(own)
        for labels in started:
            own.start(labels)
        for labels, seconds in observed:
            own.observe(labels, seconds)

    assert exported(tally) == exported(library)


@given(st.lists(st.integers(0, 400).map(float) | st.sampled_from(BOUNDS[1:])), st.lists(st.integers(0, 9).map(float)))
def test_times_that_are_observed_together_count_as_one_by_one(first: list[float], then: list[float]) -> None:
    """Two calls with any times, or without, give the same text as a call for each time."""

    def together(registry: CollectorRegistry) -> None:
        own = TimeTally("waits", "Some waits.", ("channel",), BOUNDS)
        registry.register(own)
        for times in (first, then):
            own.observe_all(("email",), times)

    def one_by_one(registry: CollectorRegistry) -> None:
        own = TimeTally("waits", "Some waits.", ("channel",), BOUNDS)
        registry.register(own)
        own.start(("email",))
        for seconds in (*first, *then):
            own.observe(("email",), seconds)

    assert exported(together) == exported(one_by_one)
