"""Why a channel's messages wait: one reason, the one to act on first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.queue.control import ChannelStats, SenderState, channel_waits_for

_SENDER = SenderState("s1", "host", 10, available=True, reason="", rate="off")
_STATS = ChannelStats(
    waiting=5, waiting_by_lane={}, active=1, delayed=0, scheduled=0, completed=0, failed=0, paused=0, pause_reason="",
    oldest_age_s={}, counters={}, events_lag=0, rate_gap_us=None, senders=[_SENDER],
)  # fmt: skip
_AWAY = replace(_SENDER, available=False, reason="451 try later")
_BEHIND = replace(_SENDER, reason="log behind")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"waiting": 0}, ""),
        ({"unserved": 5}, "no_senders"),
        ({"unserved": 4}, ""),
        ({"waiting": 0, "delayed": 2, "unserved": 2}, "no_senders"),
        ({"pause_reason": "lunch", "senders": []}, "paused: lunch"),
        ({"senders": []}, "no_senders"),
        ({"senders": [_AWAY]}, "provider_unavailable"),
        ({"senders": [_AWAY, _SENDER]}, ""),
        ({"senders": [_BEHIND]}, "log_behind"),
        ({"waiting": 0, "scheduled": 9}, "scheduled"),
        ({"waiting": 0, "delayed": 2, "scheduled": 9}, "retrying"),
        ({"paused": 5}, "blasts_paused"),
        ({"paused": 4}, ""),
        ({"rate_gap_us": 1000}, "rate_limited"),
        ({"senders": [replace(_SENDER, rate="10/1s")]}, "rate_limited"),
    ],
)
def test_a_channel_names_what_holds_its_messages(changes: dict[str, object], reason: str) -> None:
    """A pause comes before missing senders, these before their provider, and a limit last."""
    assert channel_waits_for(replace(_STATS, **changes)) == reason  # type: ignore[arg-type]  # fields by name
