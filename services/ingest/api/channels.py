"""Channels: their limits, pauses and providers."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from services.ingest.http.bodies import BODY_ERRORS, read_optional, read_struct
from services.ingest.http.channel_views import ChannelView, channel_view
from services.ingest.http.errors import ApiError, Problem, invalid
from services.ingest.http.operation import JSON, Body, Call, Operation
from services.ingest.http.requests import ChannelPatch, PauseRequest
from services.ingest.http.responses import Answer, ChangeAnswer, json_response
from shared.channels import CHANNELS, EMAIL, WHATSAPP
from shared.settings import Rate


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
    return channel_view(call.gateway, name, await call.gateway.queue.control.channel_stats(name))


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
