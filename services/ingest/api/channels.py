"""Channels: their limits, pauses and providers."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from services.ingest.http.bodies import BODY_ERRORS, read_optional, read_struct
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import JSON, Body, Call, Operation
from services.ingest.http.requests import ChannelPatch, PauseRequest
from services.ingest.http.responses import Answer, ChangeAnswer, Stats, json_response
from shared.channels import CHANNELS, EMAIL, WHATSAPP
from shared.queue.control import ChannelStats, RateSource
from shared.settings import Rate


class SenderView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A live sender: `reason` is why it is unavailable, `rate` its own setting."""

    id: str
    host: str
    concurrency: int
    rate: str | None
    available: bool
    reason: str = ""


class ChannelView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """A channel: `paused` is the reason, null if it is not paused.

    `rate` is the limit in force ("off" for none), `rateSource` its origin: `api` for one set at run time, `setting` for
    the senders' own. Both are null while no sender runs that could report it.
    """

    name: str
    configured: bool
    paused: str | None
    rate: str | None
    rate_source: RateSource | None
    senders: list[SenderView]
    stats: Stats
    oldest_age_seconds: dict[str, float]


class ChannelsAnswer(Answer, kw_only=True, frozen=True):
    """All channels."""

    channels: list[ChannelView]


class ChannelAnswer(Answer, kw_only=True, frozen=True):
    """One channel."""

    channel: ChannelView


class ProviderAnswer(Answer, kw_only=True, frozen=True):
    """Whether a channel's provider can be reached and accepts our credentials; `provider` is the sender's report."""

    channel: str
    configured: bool
    paused: str | None
    reachable: bool
    authenticated: bool
    provider: dict[str, Any]


def stats_of(counted: ChannelStats) -> Stats:
    """Return a channel's counts as the API shows them."""
    return Stats(
        waiting=counted.waiting,
        active=counted.active,
        delayed=counted.delayed,
        scheduled=counted.scheduled,
        completed=counted.completed,
        failed=counted.failed,
        paused=counted.paused,
    )


def known_channel(call: Call) -> str:
    """Return the channel of the path; raises 404."""
    name = call.request.match_info["channel"]
    if name not in CHANNELS:
        raise ApiError("CHANNEL_NOT_FOUND", f"there is no channel {name[:60]!r}: use {' or '.join(CHANNELS)}")
    return name


async def _list_channels(call: Call) -> web.Response:
    return json_response(ChannelsAnswer(channels=[await _view(call, name) for name in CHANNELS]))


async def _patch_channel(call: Call) -> web.Response:
    name = known_channel(call)
    patch = await read_struct(call, ChannelPatch)
    control = call.gateway.queue.control
    if patch.rate is None:
        await control.clear_rate(name)
    else:
        await control.set_rate(name, _rate(patch.rate))
    return json_response(ChannelAnswer(channel=await _view(call, name)))


def _rate(text: str) -> Rate | None:
    try:
        return Rate.parse(text)
    except ValueError as error:
        raise invalid([Problem("rate", "INVALID_VALUE", str(error))]) from error


async def _pause_channel(call: Call) -> web.Response:
    name = known_channel(call)
    request = await read_optional(call, PauseRequest)
    await call.gateway.queue.control.pause_channel(name, request.reason)
    return json_response(ChangeAnswer(message=f"{name} is paused"))


async def _resume_channel(call: Call) -> web.Response:
    name = known_channel(call)
    await call.gateway.queue.control.resume_channel(name)
    return json_response(ChangeAnswer(message=f"{name} is resumed"))


async def _view(call: Call, name: str) -> ChannelView:
    counted = await call.gateway.queue.control.channel_stats(name)
    rate, source = counted.rate or (None, None)
    return ChannelView(
        name=name,
        configured=name in call.gateway.settings.configured_channels,
        paused=counted.pause_reason or None,
        rate=rate,
        rate_source=source,
        senders=[
            SenderView(
                id=one.sender_id,
                host=one.host,
                concurrency=one.concurrency,
                rate=one.rate or None,
                available=one.available,
                reason=one.reason,
            )
            for one in counted.senders
        ],
        stats=stats_of(counted),
        oldest_age_seconds=counted.oldest_age_s,
    )


async def _provider_status(call: Call, channel: str) -> web.Response:
    counted = await call.gateway.queue.control.channel_stats(channel)
    _, said = await call.gateway.senders[channel].call("GET", "/status")
    return json_response(
        ProviderAnswer(
            channel=channel,
            configured=channel in call.gateway.settings.configured_channels,
            paused=counted.pause_reason or None,
            reachable=bool(said.get("reachable")),
            authenticated=bool(said.get("authenticated")),
            provider=said,
        )
    )


async def _smtp_status(call: Call) -> web.Response:
    return await _provider_status(call, EMAIL.name)


async def _whatsapp_status(call: Call) -> web.Response:
    return await _provider_status(call, WHATSAPP.name)


_PAUSE = Body({JSON: PauseRequest}, required=False)
_UNKNOWN = ("CHANNEL_NOT_FOUND",)

OPERATIONS = [
    Operation("GET", "/channels", "listChannels", "List all channels with their limits, senders and counts",
              _list_channels, answer=ChannelsAnswer),
    Operation("PATCH", "/channels/{channel}", "changeChannel", "Change a channel's rate limit for all its senders",
              _patch_channel, "admin", ChannelAnswer, body=Body({JSON: ChannelPatch}),
              errors=(*_UNKNOWN, *BODY_ERRORS, "INVALID_VALUE")),
    Operation("POST", "/channels/{channel}/pause", "pauseChannel", "Pause a channel; messages being sent are finished",
              _pause_channel, "admin", ChangeAnswer, body=_PAUSE,
              errors=(*_UNKNOWN, *BODY_ERRORS, "INVALID_TYPE", "UNKNOWN_FIELD", "TOO_LONG")),
    Operation("POST", "/channels/{channel}/resume", "resumeChannel", "Resume a channel",
              _resume_channel, "admin", ChangeAnswer, errors=_UNKNOWN),
    Operation("GET", "/smtp/status", "smtpStatus", "Check whether the SMTP server accepts our credentials",
              _smtp_status, answer=ProviderAnswer, errors=("SENDER_UNAVAILABLE",)),
    Operation("GET", "/whatsapp/status", "whatsappStatus", "Check whether the provider accepts our credentials",
              _whatsapp_status, answer=ProviderAnswer, errors=("SENDER_UNAVAILABLE",)),
]  # fmt: skip
