"""Bytes that are not UTF-8, and JSON's lone surrogates, in requests to ingest: a clear answer, never a 500."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from shared.events import ApiRequest, unpack_batch
from tests.integration.ingest.running import Api, RunningIngest, person
from tests.servers import wait_for

_HEAD = b"Host: 127.0.0.1\r\nConnection: close\r\n"
_JSON = b"Content-Type: application/json\r\n"


def _post(path: bytes, body: bytes, headers: bytes = _JSON) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST " + path + b" HTTP/1.1\r\n" + _HEAD + headers + length + b"\r\n" + body


def _get(path: bytes, headers: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + _HEAD + headers + b"\r\n"


_BLAST = (
    b'{"templateId":"otp","channels":["email"],'
    b'"recipients":[{"name":"%b","email":"a@example.com","variables":{"code":"%b"}}]%b}'
)
_ROUTE = b"/api/messages/blast"
REQUESTS = {
    "name in Latin-1": _post(_ROUTE, _BLAST % (b"M\xfcller", b"1", b"")),
    "lone surrogate in a name": _post(_ROUTE, _BLAST % (rb"\ud800", b"1", b"")),
    "lone surrogate in a variable": _post(_ROUTE, _BLAST % (b"A", rb"\udfff", b"")),
    "surrogates the wrong way round": _post(_ROUTE, _BLAST % (b"A", rb"\ude00\ud83d", b"")),
    "surrogate in UTF-8": _post(_ROUTE, _BLAST % (b"\xed\xa0\x80", b"1", b"")),
    "lone surrogate in a reference": _post(_ROUTE, _BLAST % (b"A", b"1", rb',"reference":"\ud800"')),
    "lone surrogate in metadata": _post(_ROUTE, _BLAST % (b"A", b"1", rb',"metadata":{"k\ud800":1}')),
    "idempotency key": _post(_ROUTE, _BLAST % (b"A", b"1", b""), _JSON + b"Idempotency-Key: f\xfcr\r\n"),
    "API key": _get(b"/api/channels", b"Authorization: Bearer f\xfcr\r\n"),
    "user agent": _get(b"/api/channels", b"User-Agent: f\xfcr\r\n"),
    "request id": _get(b"/api/channels", b"X-Request-Id: f\xfcr\r\n"),
    "content type": _post(_ROUTE, b"{}", b"Content-Type: application/j\xfcson\r\n"),
    "charset": _post(_ROUTE, b"{}", b"Content-Type: application/json; charset=\xfc\r\n"),
    "forwarded": _get(b"/api/channels", b"X-Forwarded-For: \xfc\r\n"),
    "host": b"GET /api/channels HTTP/1.1\r\nHost: \xfc\r\nConnection: close\r\n\r\n",
    "path": _get(b"/api/blasts/f\xfcr"),
    "quoted path": _get(b"/api/blasts/f%FCr"),
    "surrogate in a path": _get(b"/api/blasts/%ED%A0%80"),
    "NUL in a path": _get(b"/api/blasts/%00"),
    "query": _get(b"/api/logs/messages?recipient=f\xfcr"),
    "quoted query": _get(b"/api/logs/messages?recipient=f%FCr&%FC=%ED%A0%80"),
    "job id with a number without end": _get(b"/api/messages/a:" + b"9" * 5000 + b":email"),
    "template id": _get(b"/api/templates/f%FCr"),
    "suppression": _post(b"/api/suppressions", rb'{"channel":"email","address":"\ud800@example.com"}'),
    "template with half a character": _post(
        b"/api/templates", rb'{"id":"t","name":"\ud800","channels":["email"],"subject":"s","text":"t","variables":[]}'
    ),
    "CSV head": _post(_ROUTE + b"?templateId=f%FCr&channels=email", b"name,email\r\n", b"Content-Type: text/csv\r\n"),
    "CSV body": _post(
        _ROUTE + b"?templateId=otp&channels=email",
        b"name,email,code\r\nM\xfcller,a@example.com,1\r\n",
        b"Content-Type: text/csv\r\n",
    ),
    "NDJSON": _post(
        _ROUTE,
        b'{"templateId":"otp","channels":["email"]}\n{"name":"\\ud800","email":"a@example.com","variables":{"code":"1"}}\n',
        b"Content-Type: application/x-ndjson\r\n",
    ),
    "multipart": _post(
        _ROUTE,
        b'--b\r\nContent-Disposition: form-data; name="f\xfcr"\r\n\r\n{}\r\n--b--\r\n',
        b"Content-Type: multipart/form-data; boundary=b\r\n",
    ),
}  # fmt: skip


_PARTS = (
    b'--b\r\nContent-Disposition: form-data; name="blast"\r\nContent-Type: application/json\r\n\r\n'
    b'{"templateId":"otp","channels":["email"]}\r\n'
    b'--b\r\nContent-Disposition: form-data; name="recipients"; filename="a.csv"\r\nContent-Type: text/csv\r\n\r\n'
    b"name,email,code\nAna,a@example.com,1\n\r\n--b--\r\n"
)
_FIELDS = {
    "a byte in a type": (b"text/csv", b"text/\xffcsv"),
    "a byte before a type": (b"application/json", b"\xa0application/json"),
    "a byte in a charset": (b"text/csv", b"text/csv; charset=\xe9"),
    "a charset in a strange form": (b"text/csv", b"text/csv; charset*=zip''%ff"),
    "a byte in a file's name": (b"a.csv", b"\xff.csv"),
    "a section's number without end": (b"text/csv", b"text/csv; charset*" + b"9" * 5000 + b"=x"),
    "such a section of the head": (b"application/json", b"application/json; charset*" + b"9" * 5000 + b"=x"),
    "comments in comments": (b"application/json", b"application/json; " + b"(" * 500),
    "a file's name in UTF-16": (b'filename="a.csv"', b"filename*=utf-16''%ff%fe%00%d8"),
    "a byte in a part's name": (b'name="recipients"', b'name="recipi\xffents"'),
    "a name in a strange form": (b'name="blast"', b"name*=utf-7''+2AA-"),
    "a broken disposition": (b'form-data; name="recipients"', b'form-dat name="""recipients'),
    "an encoding": (b"Content-Type: text/csv", b"Content-Encoding: \xff\r\nContent-Type: text/csv"),
    "a transfer encoding": (b"Content-Type: text/csv", b"Content-Transfer-Encoding: \xff\r\nContent-Type: text/csv"),
    "a length": (b"Content-Type: text/csv", b"Content-Length: \xb2\r\nContent-Type: text/csv"),
    "a section of a name without end": (b'name="recipients"', b"name*" + b"9" * 5000 + b"=x"),
    "a header's name": (b"Content-Type: text/csv", b"X-\xff: 1\r\nContent-Type: text/csv"),
}


async def _say(ingest: RunningIngest, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


@pytest.mark.parametrize("what", REQUESTS)
async def test_foreign_bytes_are_answered_and_logged(what: str, ingest: RunningIngest, redis: Redis, api: Api) -> None:
    """In any part of a request, the answer is below 500 and valid Unicode, and the request is logged."""
    status, body = await _say(ingest, REQUESTS[what])
    assert status < 500, body
    assert body.decode()
    if body.startswith(b"{"):
        assert orjson.loads(body)
    assert (await api.blast(person())).status == 202

    async def logged() -> bool:
        rows: Any = await redis.xrange("gateway:events")
        events = [event for _, fields in rows for event in unpack_batch(fields[b"d"]).events]
        return any(isinstance(one, ApiRequest) and one.status == 202 for one in events)

    await wait_for(logged)


@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionHeader")
@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionParam")
@pytest.mark.parametrize("what", _FIELDS)
async def test_foreign_bytes_in_a_parts_header_are_answered(what: str, ingest: RunningIngest, api: Api) -> None:
    """In the header of any part of a multipart body, the answer is below 500 and valid Unicode."""
    old, new = _FIELDS[what]
    assert old in _PARTS
    body = _PARTS.replace(old, new)
    status, answer = await _say(ingest, _post(_ROUTE, body, b"Content-Type: multipart/form-data; boundary=b\r\n"))
    assert status < 500, answer
    assert orjson.loads(answer)
    assert (await api.blast(person())).status == 202
