"""POSTs to one URL over the connector's connections, for messages that are many and alike.

aiohttp's client spends most of its time on what is the same for each message: it builds the URL, the headers and the
request, and wraps the answer. Here the head is written once, and a message adds its length and its body; connections,
TLS, the parser of unusual answers and the bounds on them are aiohttp's and the connector's, as for every other request.
No redirect is followed, and no cookie kept.

A caller that has a further message continues with it over the same connection, from within the loop that reads answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import aiohttp
from yarl import URL

from shared.http_sending.answers import Posted
from shared.http_sending.connector import StartingConnector
from shared.sending.provider import Start


class AnswerLostError(aiohttp.ClientError):
    """A message was handed over, and no answer came; the cause is aiohttp's error."""


class Body(NamedTuple):
    """The body of a message, and the start to await before it is posted."""

    raw: bytes
    start: Start


GoOn = Callable[[Posted], Body | None]
"""Takes an answer; returns the body to post next, if there is one."""


class Poster:
    """Posts bodies to one URL; `answer_s` bounds the wait for an answer after a body was written."""

    def __init__(self, connector: StartingConnector, url: URL, headers: Mapping[str, str], answer_s: float) -> None:
        self._connector = connector
        self._answer_s = answer_s
        loop = asyncio.get_running_loop()
        self._request = aiohttp.ClientRequest("POST", url, headers=headers, loop=loop)
        self._head = _head(self._request)

    async def post(self, body: Body, go_on: GoOn) -> None:
        """Post a body, and after each answer the one that `go_on` returns for it, until it returns None.

        Raises AnswerLostError after the hand-over of the latest body, else aiohttp's errors, and what the starts raise.
        `go_on` must not raise those.
        """
        following: Body | None = body
        while following is not None:
            following = await self._post_over_one(following, go_on)

    async def _post_over_one(self, body: Body, go_on: GoOn) -> Body | None:
        """Post over one connection for as long as it can be used; return the body that is left, None if none is."""
        protocol = await self._connector.lend(self._request, body.start)
        usable = False
        try:
            if protocol.should_close:
                raise aiohttp.ClientConnectionError("the server sent something before the request")
            while True:
                request = b"%b%d\r\n\r\n%b" % (self._head, len(body.raw), body.raw)
                try:
                    posted = await protocol.ask(request, self._answer_s)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    raise AnswerLostError from error
                usable = True
                following = go_on(posted)
                if following is None or protocol.should_close:
                    return following
                body = following
                await body.start()
                if not protocol.is_still_open():
                    return body
                usable = False
        finally:
            self._connector.give_back(self._request, protocol, usable=usable)


def _head(request: aiohttp.ClientRequest) -> bytes:
    """Return a request's head up to the length of its body."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items() if name != "Content-Length")
    if len(headers.splitlines()) != len(request.headers) - ("Content-Length" in request.headers):
        raise ValueError("a header contains a line break")
    return f"POST {request.url.raw_path_qs} HTTP/1.1\r\n{headers}Content-Length: ".encode()
