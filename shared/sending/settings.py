"""The settings of a sender of any channel, from its environment: rates, concurrency, retries, time constants."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared.channels import Channel
from shared.queue.batches import boot_name
from shared.queue.timing import Timing
from shared.retry import GIVE_UP_AFTER_S
from shared.sending.job_limits import LimitOf
from shared.settings import CommonSettings, EnvReader, Rate, read_internal_secret

_STUCK_MARGIN_S = 60.0
HOLD = "hold"
ON_UNCERTAIN = ("resend", HOLD)
"""The operator's choices for a message that may have been delivered."""
REPEAT = "repeat"
"""The policy of a channel whose receivers recognise a message that comes twice: no send is uncertain."""


@dataclass(frozen=True, slots=True)
class SendingSettings:
    """How one sender works its channel; `domain_rates` is by domain, `*` for all others; `limit_of` overrides it.

    `window` is how many jobs may be begun and not yet settled per unit of concurrency; above 1, round trips to the
    queue overlap with sending. `stuck_after_s` must exceed the sum of all time-outs of a send. A message that the
    provider defers is retried for `give_up_after_s`; 0 disables deferrals. `internal_secret` opens the values that
    ingest sealed. `partition` is the part of the channel's queue that it works. `waits_s` are the waits between
    attempts, not scaled, and `jitter` is the share by which each varies; without `waits_s` they double. Without
    `dead_letters` a failed job is not kept. `journal_dir` is the folder of the journals of hand-overs, None for none.
    """

    sender_id: str
    host: str
    concurrency: int
    rate: Rate | None
    on_uncertain: str
    max_attempts: int
    grace_s: float
    timing: Timing
    time_scale: float = 1.0
    domain_rates: Mapping[str, Rate] = field(default_factory=dict)
    window: int = 20
    stuck_after_s: float = 900.0
    limit_of: LimitOf | None = None
    give_up_after_s: float = GIVE_UP_AFTER_S
    internal_secret: str = field(default="", repr=False)
    partition: int = 0
    waits_s: tuple[float, ...] = ()
    jitter: float = 0.0
    dead_letters: bool = True
    journal_dir: Path | None = None

    def patient(self, longest_send_s: float) -> SendingSettings:
        """Return them with a `stuck_after_s` that no send within its time-outs reaches, whatever was configured."""
        return replace(self, stuck_after_s=max(self.stuck_after_s, longest_send_s + _STUCK_MARGIN_S))


@dataclass(frozen=True, slots=True)
class ChannelPolicy:
    """What a channel has in place of the usual defaults.

    A channel with `waits_s` has one attempt more than waits, whatever KURIR_MAX_ATTEMPTS says; one with `repeats` has
    the policy REPEAT, whatever KURIR_ON_UNCERTAIN says. The other fields are those of `SendingSettings`.
    """

    rate: str = "10/1s"
    concurrency: int = 5
    give_up_after_s: float = GIVE_UP_AFTER_S
    waits_s: tuple[float, ...] = ()
    jitter: float = 0.0
    repeats: bool = False
    dead_letters: bool = True


def read_sending_settings(
    env: EnvReader, channel: Channel, common: CommonSettings, policy: ChannelPolicy = ChannelPolicy()
) -> SendingSettings:
    """Read a channel's settings and those that all senders share; `_DOMAIN_RATES` only for a channel of mail."""
    prefix = f"KURIR_{channel.name.upper()}"
    host = socket.gethostname()
    return SendingSettings(
        sender_id=boot_name(channel.name, host),
        host=host,
        concurrency=env.integer(f"{prefix}_CONCURRENCY", policy.concurrency, minimum=1, maximum=500),
        rate=env.rate(f"{prefix}_RATE", policy.rate),
        on_uncertain=REPEAT if policy.repeats else env.choice("KURIR_ON_UNCERTAIN", ON_UNCERTAIN, "resend"),
        max_attempts=_max_attempts(env, policy),
        grace_s=common.grace_s,
        timing=Timing.scaled(common.time_scale),
        time_scale=common.time_scale,
        domain_rates=_domain_rates(env, f"{prefix}_DOMAIN_RATES") if channel.address_field == "email" else {},
        window=env.integer(f"{prefix}_WINDOW", 20, minimum=1, maximum=100),
        stuck_after_s=env.span("KURIR_STUCK_AFTER", 900.0),
        give_up_after_s=env.seconds(f"{prefix}_GIVE_UP_AFTER", policy.give_up_after_s),
        internal_secret=read_internal_secret(env),
        waits_s=policy.waits_s,
        jitter=policy.jitter,
        dead_letters=policy.dead_letters,
        journal_dir=None if policy.repeats else _journal_dir(env, common),
    )


def _journal_dir(env: EnvReader, common: CommonSettings) -> Path | None:
    folder = env.path("KURIR_JOURNAL_DIR", str(common.data_dir / "journals"))
    return None if folder.lower() == "off" else Path(folder)


def _max_attempts(env: EnvReader, policy: ChannelPolicy) -> int:
    return len(policy.waits_s) + 1 if policy.waits_s else env.integer("KURIR_MAX_ATTEMPTS", 3, minimum=1, maximum=20)


def _domain_rates(env: EnvReader, name: str) -> dict[str, Rate]:
    rates: dict[str, Rate] = {}
    for item in env.items(name):
        domain, equals, text = item.partition("=")
        try:
            rate = Rate.parse(text) if equals else None
        except ValueError as error:
            env.problem(f"{name}: {error}")
            continue
        if rate is None or not domain.strip():
            env.problem(f"{name}: {item!r} is not a limit such as gmail.com=20/1s")
            continue
        rates[domain.strip().lower()] = rate
    return rates
