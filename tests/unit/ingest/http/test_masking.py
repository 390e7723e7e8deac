"""What the API log keeps of a request: no secrets, no values of sensitive variables, nothing it cannot parse."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.http.masking import NOT_KEPT, _JsonWriter, masked_body, masked_path, masked_query


@pytest.mark.parametrize(
    "body",
    [
        b'{"password": "hush", "a": 1}',
        b'{"metadata":{"api_key":"hush"}}',
        b'{"Authorization": "Bearer hush"}',
        b'{"note": "bearer   hush"}',
        b'{"attachments":[{"content":"aHVzaA==hush"}]}',
        b'{"token" : "hu\\"sh hush',
        b'{"pass\\u0077ord": "hush"}',
        b'{"secret": ["hush", {"a": "hush"}], "b": 1}',
        b'{"secret": {"deep": [["hush"]]}}',
        b'\xef\xbb\xbf{"token": "hush"}',
        b'{"a": 1, token: "hush"}',
        b"{'a': 'hush'}",
        b"hush",
        b'{"a" "hush"}',
        b'{"a": 1]["hush"',
        b'{"password": {"hush": 1}}',
    ],
)
def test_secrets_do_not_reach_the_log(body: bytes) -> None:
    """Secrets are hidden when nested, escaped or truncated, and in a body that is not quite JSON."""
    assert "hush" not in masked_body(body, guarded=False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"templateId":"t","globalVariables":{"code":"hush"},"recipients":[]}',
        b'{"templateId":"t","recipients":[{"name":"S","variables":{"code":"hush","name":"hush"}}]}',
        b'{"templateId":"t","channels":["email"]}\n{"email":"s@example.com","variables":{"code":"hush"}}\n',
        b'{"templateId":"t","vars":{"code":"hush"}}',
        b'{"templateId":"t","recipients":[{"variables":[{"name":"hush","value":"hush"}]}]}',
        b'{"templateId":"t","code":"hush"}',
        b'{"variables":{"email":"hush"',
        b'{"metadata":{"x":"hush"}}',
        b'{"recipients":[{"variables":{"code":{"hush":1}}}]}',
        b'{"globalVariables":{"code":[{"a":1},{"hush":{"b":"x"}}]}}',
    ],
)
def test_a_guarded_body_keeps_only_its_known_fields(body: bytes) -> None:
    """A misspelt field cannot carry a code into the log; the fields that say who asked for which template stay."""
    shown = masked_body(body, guarded=True)
    assert "hush" not in shown
    if b"templateId" in body:
        assert '"templateId":"t"' in shown


_names = st.sampled_from(["name", "email", "url", "password", "content", "a b", "e\u0301", 'x"y', "bearer abc", ": ,"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _names | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=8,
)


@given(
    _json,
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\n:\r ")]),
    st.booleans(),
    st.sampled_from(["", " \n", "x", "{", "[1]"]),
)
def test_a_body_without_secrets_is_scanned_as_a_whole(
    value: object, separators: tuple[str, str], ascii_only: bool, after: str
) -> None:
    """The scan of the whole gives the same text as the scan token by token."""
    text = json.dumps([value], separators=separators, ensure_ascii=ascii_only) + after
    assert masked_body(text.encode("utf-8", "replace"), guarded=False) == _JsonWriter("open").write(
        text.encode("utf-8", "replace").decode()
    )


def test_a_body_is_kept_as_sent_except_for_its_secrets() -> None:
    """Numbers, literals, lines of JSON and unusual text stay unchanged; a truncated body ends with a mark."""
    body = '{"a":-1.50e3,"b":[true,null,"é\\n"],"pin":482913}\n{"c":{}}'
    assert masked_body(body.encode(), guarded=False) == '{"a":-1.50e3,"b":[true,null,"é\\n"],"pin":"***"}\n{"c":{}}'
    assert masked_body(b'{"a":1,"b":"abc', guarded=False) == '{"a":1,"b":"abc'
    assert masked_body(b"name,code\nSiti,482913\n", guarded=True) == NOT_KEPT


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("a=1&api_key=hush&b=2", "a=1&api_key=***&b=2"),
        ("%74oken=hush", "%74oken=***"),
        ("token=a%26hush", "token=***"),
        ("a=1?token=hush", "a=1?token=***"),
        ("x=%7B%22password%22%3A%22hush%22%7D", 'x={"password":"***"}'),
        ("q=Bearer%20hush", "q=Bearer ***"),
        ("recipient=siti%2Bnews%40example.com", "recipient=siti%2Bnews%40example.com"),
        ("flag", "flag"),
        ("hushhushhushhushhushhush", "***"),
    ],
)
def test_a_query_keeps_everything_but_secrets(query: str, kept: str) -> None:
    """Parameters are decoded as the server decodes them: percent-encoded names, JSON values."""
    assert masked_query(query) == kept


def test_a_guarded_query_keeps_only_its_known_parameters() -> None:
    """The query of a CSV blast, which holds its variables, is masked as well."""
    query = "templateId=otp&channels=email&globalVariables.code=482913&globalVariables=%7B%22code%22%3A1%7D"
    assert (
        masked_query(query, guarded=True)
        == "templateId=otp&channels=email&globalVariables.code=***&globalVariables=***"
    )


def test_an_unknown_path_keeps_no_token() -> None:
    """The token of a link is masked in the many spellings that mail scanners request."""
    token = "c2lnbmVkIGFuZCBzZWNyZXQ" * 3
    for path in (f"/u/{token}/", f"//u/{token}", f"/U/{token}.", f"/api/u/{token}"):
        assert token not in masked_path(path)
    assert masked_path("/api/messages/blasst") == "/api/messages/blasst"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://shop.example.com/hooks/hush", "https://shop.example.com/***"),
        ("https://shop.example.com:8443?key=hush", "https://shop.example.com:8443/***"),
        ("https://shop.example.com", "https://shop.example.com/***"),
        ("http://[2001:db8::1]:8080/hush", "http://[2001:db8::1]:8080/***"),
        ("https://user:hush@shop.example.com/", "***"),
        ("https:\\/\\/shop.example.com\\/hush", "https://shop.example.com/***"),
        ("hush", "***"),
        ("https://hush hush/", "***"),
    ],
)
def test_the_url_of_a_webhook_is_kept_as_far_as_its_host(url: str, kept: str) -> None:
    """Its path or its query may be all that authenticates a request; elsewhere `url` is a variable like any other."""
    assert masked_body(f'{{"url":"{url}","events":["*"]}}'.encode(), guarded=False) == (
        f'{{"url":"{kept}","events":["*"]}}'
    )


def test_a_url_below_the_top_is_kept_whole() -> None:
    """Template variables keep their values, and a guarded body hides what it does not know."""
    body = b'{"globalVariables":{"url":"https://a.example.com/x"}}'
    assert masked_body(body, guarded=False) == body.decode()
    assert masked_body(b'{"url":"https://a.example.com/x"}', guarded=True) == '{"url":"***"}'
