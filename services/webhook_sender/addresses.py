"""Keeps connections away from special addresses: checks every answer of the resolver, and every address before connect.

A check before the request would be too early: a name may have another address a moment later. So the addresses are
checked here, where the connection is made: the resolver refuses a name of which one address is special, and no socket
is made for an address that is. aiohttp asks no resolver for a host that is an address, so the second check is the only
one for those, and the last one for all.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from shared.special_addresses import Allowed, refusal, refusals

LookUp = Callable[[str], Awaitable[Sequence[str]]]


class RefusedAddressError(OSError):
    """A connection to a special address was refused before it was made; an OSError, as aiohttp expects here."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EACCES, words)
        self.words = words


class Guard(AbstractResolver):
    """Resolves names for one connector and makes its sockets, for the addresses that it may reach."""

    def __init__(self, allowed: Allowed, look_up: LookUp) -> None:
        self._allowed = allowed
        self._look_up = look_up
        self._by_name: frozenset[str] = frozenset()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return a name's addresses; raises RefusedAddressError if one of them is special, and OSError."""
        addresses = await self._look_up(host)
        if self._allowed.covers_host(host):
            # the operator opened the name, wherever it resolves to
            self._by_name = frozenset(addresses)
        elif words := refusals(addresses, self._allowed):
            raise RefusedAddressError(f"{host} resolves to a special address: {words}")
        return [ResolveResult(hostname=host, host=one, port=port, family=family, proto=0, flags=0) for one in addresses]

    async def close(self) -> None:
        """Nothing to close."""

    def make_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Return a socket for the address that is about to be connected to; raises RefusedAddressError."""
        family, kind, protocol, _, place = info
        address = str(place[0])
        words = None if address in self._by_name else refusal(address, self._allowed)
        if words:
            raise RefusedAddressError(words)
        return socket.socket(family, kind, protocol)


class LookUps:
    """Looks names up in the system's resolver, in a thread for each name at a time.

    The loop's pool has few threads: a name server that does not answer would hold up the look-ups for all other
    endpoints. Nothing can end a look-up, so it outlasts the attempt that began it; the next attempt at the same name
    waits for it too, rather than beginning another. The threads are daemons, so that the process does not wait for them
    at its end.
    """

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[list[str] | OSError]] = {}

    async def __call__(self, host: str) -> list[str]:
        """Return a name's addresses; raises OSError."""
        running = self._running.get(host)
        outcome = await asyncio.shield(self._begin(host) if running is None else running)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def _begin(self, host: str) -> asyncio.Future[list[str] | OSError]:
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[list[str] | OSError] = loop.create_future()
        self._running[host] = begun

        def settle(outcome: list[str] | OSError) -> None:
            self._running.pop(host, None)
            if not begun.done():
                begun.set_result(outcome)

        def run() -> None:
            outcome = _addresses_of(host)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, outcome)

        try:
            threading.Thread(target=run, name="webhook look-up", daemon=True).start()
        except RuntimeError:  # as many threads as this machine or container allows
            settle(socket.gaierror(socket.EAI_AGAIN, "no thread is left to look it up"))
        return begun


def _addresses_of(host: str) -> list[str] | OSError:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        return error
    except UnicodeError:  # a label that no name can have
        return socket.gaierror(socket.EAI_NONAME, "not a host name")
    return list(dict.fromkeys(_written(place) for _, _, _, _, place in infos))


def _written(place: tuple[object, ...]) -> str:
    """Return an address as text, with the network interface of one that has a scope."""
    scope = place[3] if len(place) == 4 else 0
    return f"{place[0]}%{scope}" if scope and "%" not in str(place[0]) else str(place[0])
