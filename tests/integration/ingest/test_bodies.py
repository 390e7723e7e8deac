"""Bodies from real clients: byte order marks, codings, character sets, and requests that are not HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from tests.integration.ingest.conftest import StartIngest
from tests.integration.ingest.provocations import BLAST, CSV, JSON, NDJSON, template
from tests.integration.ingest.running import Api, Reply, RunningIngest, person

BOM = b"\xef\xbb\xbf"
MESSAGE = {"templateId": "otp", "channel": "email", "recipient": person()}
HEAD = {"templateId": "otp", "channels": ["email"]}
_CALLS: list[tuple[str, str, Any, int]] = [
    ("POST", "/api/messages", MESSAGE, 202),
    ("POST", BLAST, {**HEAD, "recipients": [person()]}, 202),
    ("POST", "/api/messages/preview", MESSAGE, 200),
    ("POST", "/api/templates", template(), 201),
    ("PUT", "/api/templates/note", {name: value for name, value in template().items() if name != "id"}, 201),
    ("POST", "/api/suppressions", {"channel": "email", "address": "siti@example.com"}, 201),
    ("PATCH", "/api/channels/email", {"rate": "7/1s"}, 200),
    ("POST", "/api/channels/email/pause", {"reason": "x"}, 200),
]


def _bytes(body: Any) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize(("method", "path", "body", "status"), _CALLS)
async def test_a_byte_order_mark_before_json_is_ignored(
    method: str, path: str, body: Any, status: int, api: Api
) -> None:
    """Every call that reads JSON ignores it, since Windows tools write one."""
    reply = await api.call(method, path, data=BOM + _bytes(body), headers=JSON)
    assert reply.status == status, reply.text


async def test_a_body_of_only_a_byte_order_mark_is_empty(api: Api) -> None:
    """It counts as no body, where the body is optional."""
    assert (await api.call("POST", "/api/channels/email/pause", data=BOM, headers=JSON)).status == 200


async def test_a_byte_order_mark_before_ndjson_and_a_part_is_ignored(api: Api) -> None:
    """It is ignored even if it arrives byte by byte."""
    lines = BOM + _bytes(HEAD) + b"\n" + _bytes(person()) + b"\n"

    async def dripping() -> Any:
        for byte in lines:
            yield bytes([byte])
            await asyncio.sleep(0)

    for data in (lines, dripping()):
        assert (await api.call("POST", BLAST, data=data, headers=NDJSON)).status == 202
    assert (await _multipart(api, BOM + _bytes(HEAD))).status == 202


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
async def test_utf_16_and_utf_32_are_named(encoding: str, api: Api) -> None:
    """With or without a mark, the message says to send UTF-8."""
    for path, body, headers, code in (
        ("/api/messages", MESSAGE, JSON, "MALFORMED_JSON"),
        (BLAST, HEAD, NDJSON, "MALFORMED_NDJSON"),
    ):
        reply = await api.call("POST", path, data=json.dumps(body).encode(encoding), headers=headers)
        assert (reply.status, reply.body["code"]) == (400, code)
        assert "send it as UTF-8" in reply.body["message"]


async def test_bytes_that_are_not_utf_8_are_located(api: Api) -> None:
    """The message gives the position of the byte, and does not mention Python's codec."""
    raw = _bytes(MESSAGE).replace(b"Person", b"Pers\xe9n")
    reply = await api.call("POST", "/api/messages", data=raw, headers=JSON)
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED_JSON")
    assert "(0xe9) is not UTF-8" in reply.body["message"]
    assert "codec" not in reply.text


@pytest.mark.parametrize("charset", ["latin1", "iso-8859-1", "windows-1252", "utf-16", "x"])
async def test_another_character_set_is_refused(charset: str, api: Api) -> None:
    """Every form of a body but CSV answers 415: read as UTF-8, its letters would be wrong."""
    for path, kind in (("/api/messages", JSON), (BLAST, JSON), (BLAST, NDJSON)):
        headers = {"Content-Type": f"{kind['Content-Type']}; charset={charset}"}
        reply = await api.call("POST", path, data=_bytes(MESSAGE), headers=headers)
        assert (reply.status, reply.body["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert charset in reply.body["message"]
    assert (await _multipart(api, _bytes(HEAD), f"application/json; charset={charset}")).status == 415


@pytest.mark.parametrize("parameter", ["charset*" + "9" * 5000 + "=x", "(" * 500, "charset*0*=" + "9" * 5000])
@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "text/csv", "multipart/form-data", "a/b"])
@pytest.mark.parametrize("path", ["/api/messages", BLAST, "/api/suppressions/import?channel=email", "/api/webhooks"])
async def test_a_type_that_cannot_be_read_is_refused(path: str, kind: str, parameter: str, api: Api) -> None:
    """A Content-Type with a number of thousands of digits, or with comments within comments, is refused."""
    reply = await api.call("POST", path, data=b"{}", headers={"Content-Type": f"{kind}; {parameter}"})
    assert reply.status in {400, 415, 422}
    assert reply.body["message"]


async def test_another_character_set_in_the_form_of_rfc_2231_is_refused(api: Api) -> None:
    """A parameter's extended form counts as the plain one."""
    headers = {"Content-Type": "application/json; charset*=us-ascii''latin1"}
    assert (await api.call("POST", "/api/messages", data=_bytes(MESSAGE), headers=headers)).status == 415
    assert (await _multipart(api, _bytes(HEAD), headers["Content-Type"])).status == 415


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", '"utf-8"', "us-ascii"])
async def test_several_names_of_utf_8_are_accepted(charset: str, api: Api) -> None:
    """The names that clients use are all accepted."""
    headers = {"Content-Type": f"application/json; charset={charset}"}
    assert (await api.call("POST", "/api/messages", data=_bytes(MESSAGE), headers=headers)).status == 202


def _raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(_bytes(MESSAGE))),
        ("GZip", gzip.compress(_bytes(MESSAGE))),
        ("x-gzip", gzip.compress(_bytes(MESSAGE))),
        ("gzip", gzip.compress(_bytes(MESSAGE)[:9]) + gzip.compress(_bytes(MESSAGE)[9:])),
        ("gzip", gzip.compress(_bytes(MESSAGE)) + bytes(100)),
        ("deflate", zlib.compress(_bytes(MESSAGE))),
        ("deflate", _raw_deflate(_bytes(MESSAGE))),
        ("identity", _bytes(MESSAGE)),
    ],
)
async def test_a_compressed_body_is_read(coding: str, data: bytes, api: Api) -> None:
    """gzip, with one or several members, and deflate, with or without a zlib header, are read."""
    reply = await api.call("POST", "/api/messages", data=data, headers=JSON | {"Content-Encoding": coding})
    assert reply.status == 202, reply.text


async def test_an_upload_may_be_compressed(api: Api) -> None:
    """NDJSON and CSV are inflated as they arrive."""
    lines = [HEAD, *map(person, range(3000))]
    data = gzip.compress(b"\n".join(map(_bytes, lines)))
    reply = await api.call("POST", BLAST, data=data, headers=NDJSON | {"Content-Encoding": "gzip"})
    assert (reply.status, reply.body["totalMessages"]) == (202, 3000)


@pytest.mark.parametrize("coding", ["br", "zstd", "snappy", "compress", "gzip, gzip", "utf-8", "aws-chunked"])
async def test_an_unknown_coding_is_refused_in_the_apis_format(coding: str, api: Api) -> None:
    """Every call answers 415 and lists the supported codings; nothing is read as if it were not compressed."""
    for path, kind in (("/api/messages", JSON), (BLAST, NDJSON), (BLAST, CSV), ("/api/channels/email/pause", JSON)):
        headers = kind | {"Content-Encoding": coding}
        reply = await api.call("POST", path, data=_bytes(MESSAGE), headers=headers)
        assert (reply.status, reply.body["code"]) == (415, "UNSUPPORTED_ENCODING")
        assert reply.headers["Accept-Encoding"] == "gzip, deflate, identity"
    multipart = {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": coding}
    assert (await api.call("POST", BLAST, data=b"--x--", headers=multipart)).body["code"] == "UNSUPPORTED_ENCODING"


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", _bytes(MESSAGE)),
        ("gzip", gzip.compress(_bytes(MESSAGE))[:-1]),
        ("gzip", gzip.compress(_bytes(MESSAGE))[:-20]),
        ("gzip", gzip.compress(_bytes(MESSAGE)) + b"more"),
        ("gzip", zlib.compress(_bytes(MESSAGE))),
        ("deflate", gzip.compress(_bytes(MESSAGE))),
        ("deflate", zlib.compress(_bytes(MESSAGE))[:-1]),
        ("deflate", zlib.compress(_bytes(MESSAGE)) + b"more"),
    ],
)
async def test_a_broken_coding_is_refused(coding: str, data: bytes, api: Api) -> None:
    """The answer is 400; a truncated body never counts as a shorter one."""
    reply = await api.call("POST", "/api/messages", data=data, headers=JSON | {"Content-Encoding": coding})
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED_REQUEST")
    assert coding in reply.body["message"]


async def test_a_blast_that_was_cut_off_is_not_a_smaller_one(api: Api) -> None:
    """A gzip file that is cut at a line end is still incomplete: nothing is queued."""
    engine = zlib.compressobj(wbits=31)
    lines = b"\n".join(map(_bytes, [HEAD, person(1), person(2)])) + b"\n"
    cut = engine.compress(lines) + engine.flush(zlib.Z_SYNC_FLUSH)
    reply = await api.call("POST", BLAST, data=cut, headers=NDJSON | {"Content-Encoding": "gzip"})
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED_REQUEST")
    assert (await api.get("/api/messages/stats")).body["stats"]["waiting"] == 0


async def test_a_body_that_inflates_beyond_its_limit_is_refused(api: Api) -> None:
    """The inflated size counts, not the size that was sent."""
    bomb = gzip.compress(b" " * 40_000_000)
    assert len(bomb) < 50_000
    reply = await api.call("POST", "/api/messages", data=bomb, headers=JSON | {"Content-Encoding": "gzip"})
    assert (reply.status, reply.body["code"]) == (413, "BODY_TOO_LARGE")


async def _multipart(api: Api, head: bytes, kind: str = "application/json") -> Reply:
    parts = (
        b'--x\r\nContent-Disposition: form-data; name="blast"\r\nContent-Type: %b\r\n\r\n%b\r\n'
        b'--x\r\nContent-Disposition: form-data; name="recipients"; filename="a.csv"\r\n\r\n'
        b"email,code\na@example.com,1\n\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return await api.call("POST", BLAST, data=parts % (kind.encode(), head), headers=headers)


_HOST = b"Host: 127.0.0.1\r\n"
_NO_HTTP = {
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
    "a header's name with a space": b"GET /health HTTP/1.1\r\n" + _HOST + b"A b: x\r\n\r\n",
    "a control character": b"GET /health HTTP/1.1\r\n" + _HOST + b"Authorization: Bearer sec\x01ret\r\n\r\n",
    "an invalid method": b"GE(T /health HTTP/1.1\r\n" + _HOST + b"\r\n",
    "an unknown version": b"GET /health HTTP/9.9\r\n" + _HOST + b"\r\n",
    "a long line": b"GET /" + b"secret" * 2000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n",
    "a long header": b"GET /health HTTP/1.1\r\n" + _HOST + b"X: " + b"secret" * 2000 + b"\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a1030364") + b"x" * 40 + b"\r\n\r\n",
    "a length that is not a number": b"POST /api/messages HTTP/1.1\r\n" + _HOST + b"Content-Length: secret\r\n\r\n",
    "two lengths": b"POST /api/messages HTTP/1.1\r\n" + _HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "an unknown transfer coding": b"POST /api/messages HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: x\r\n\r\n",
    "broken chunks": b"POST /api/messages HTTP/1.1\r\n"
    + _HOST
    + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n{}\r\n0\r\n\r\n",
    "an expectation": b"POST /api/messages HTTP/1.1\r\n" + _HOST + b"Expect: miracles\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", _NO_HTTP)
async def test_bytes_that_are_not_http_get_an_error_in_the_apis_format(name: str, ingest: RunningIngest) -> None:
    """The answer is 400 with a code, a request id, the usual headers and no quotes; the connection is closed."""
    (head, body) = await _exchange(ingest.port, _NO_HTTP[name])
    answer = json.loads(body)
    assert (answer["success"], answer["code"], answer["errors"]) == (False, "MALFORMED_REQUEST", [])
    assert "secret" not in answer["message"]
    assert answer["message"]
    assert head.partition("\r\n")[0] in {"HTTP/1.1 400 Bad Request", "HTTP/1.0 400 Bad Request"}
    for header in ("Content-Type: application/json", "X-Content-Type-Options: nosniff", "X-Request-Id: "):
        assert header in head


async def test_chunks_that_break_later_end_the_call(start_ingest: StartIngest) -> None:
    """The parser stops, so the body never completes: the call times out with an answer in the API's form."""
    head = b"POST /api/messages HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\nExpect: 100-continue\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", start_ingest("small").port)
    try:
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"1\r\n{\r\nzz\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        assert b'"code":"REQUEST_TIMEOUT"' in await reader.readuntil(b"[]}")
    finally:
        writer.close()


async def test_a_client_that_waits_for_100_continue_gets_it(ingest: RunningIngest) -> None:
    """The client gets 100 Continue, and its body is read."""
    data = _bytes(MESSAGE)
    head = b"POST /api/messages HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\nExpect: 100-continue\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
    try:
        writer.write(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(data)
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    finally:
        writer.close()


async def _exchange(port: int, request: bytes) -> tuple[str, str]:
    """Send a request and return head and body of all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, body


async def test_the_reported_body_with_a_byte_order_mark_is_accepted(api: Api) -> None:
    """A body from a public bug report, with a byte order mark before a message, is accepted."""
    raw = BOM + b'{"templateId":"otp","channel":"email","recipient":{"name":"Siti","email":"siti.api@example.com",'
    reply = await api.call("POST", "/api/messages", data=raw + b'"variables":{"code":"1"}}}', headers=JSON)
    assert reply.status == 202


NO_BODY = [
    ("POST", "/api/channels/email/resume"),
    ("POST", "/api/blasts/none/resume"),
    ("POST", "/api/blasts/none/cancel"),
    ("POST", "/api/messages/none/cancel"),
    ("DELETE", "/api/templates/none"),
    ("DELETE", "/api/suppressions/none"),
    ("GET", "/api/blasts"),
    ("GET", "/api/logs/messages"),
]


@pytest.mark.parametrize(("method", "path"), NO_BODY)
async def test_a_call_that_takes_no_body_refuses_one(method: str, path: str, api: Api) -> None:
    """A body that would be ignored is refused; no body, an empty one and an empty object are accepted."""
    reason = await api.call(method, path, data=b'{"reason": "typo", "dryRun": true}')
    assert reason.status == 422, reason.text
    assert [(one["field"], one["code"]) for one in reason.body["errors"]] == [
        ("reason", "UNKNOWN_FIELD"),
        ("dryRun", "UNKNOWN_FIELD"),
    ]
    for other in (b"reason=typo", b"[]", b'"all"'):
        refused = await api.call(
            method, path, data=other, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert (refused.status, refused.body["code"]) == (400, "MALFORMED_JSON"), refused.text
    plain = await api.call(method, path)
    for nothing in (b"", b"{}", b"\xef\xbb\xbf{ }\n"):
        taken = await api.call(method, path, data=nothing)
        assert taken.status == plain.status, taken.text
