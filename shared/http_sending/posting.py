"""POSTs to one URL over the connector's connections, for messages that are many and alike.

aiohttp's client spends most of its time on what is the same for each message: it builds the URL, the headers and the
request, and wraps the answer. Here the head is written once, and a message adds its length and its body; connections,
TLS, the parser of answers and the bounds on them are aiohttp's and the connector's, as for every other request. No
redirect is followed, and no cookie kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from shared.http_sending.connector import StartingConnector
from shared.sending.provider import Start, at_once


class AnswerLostError(aiohttp.ClientError):
    """A message was handed over, and no answer came; the cause is aiohttp's error."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A complete answer; its body may be cut off after 64 KB."""

    status: int
    headers: Mapping[str, str]
    raw: bytes


class Poster:
    """Posts bodies to one URL; `answer_s` bounds the wait for an answer after a body was written."""

    def __init__(self, connector: StartingConnector, url: URL, headers: Mapping[str, str], answer_s: float) -> None:
        self._connector = connector
        self._answer_s = answer_s
        loop = asyncio.get_running_loop()
        self._request = aiohttp.ClientRequest("POST", url, headers=headers, loop=loop)
        self._head = _head(self._request)

    async def post(self, body: bytes, start: Start = at_once) -> Posted:
        """Post a body once `start` allows it; raises AnswerLostError after the hand-over, else aiohttp's errors."""
        protocol = await self._connector.lend(self._request, start)
        usable = False
        try:
            protocol.post(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), self._answer_s)
            message, raw = await protocol.answer()
            usable = True
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AnswerLostError from error
        finally:
            self._connector.give_back(self._request, protocol, usable=usable)
        return Posted(message.code, message.headers, raw)


def _head(request: aiohttp.ClientRequest) -> bytes:
    """Return a request's head up to the length of its body."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items() if name != "Content-Length")
    if len(headers.splitlines()) != len(request.headers) - ("Content-Length" in request.headers):
        raise ValueError("a header contains a line break")
    return f"POST {request.url.raw_path_qs} HTTP/1.1\r\n{headers}Content-Length: ".encode()
