"""The readers of providers' webhooks, on real payloads: each file in `payloads/` has those of one provider."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.receipts.providers import CHANNEL_OF, READERS
from services.receipts.reading import Reading
from shared.receipts import Receipt

PAYLOADS = Path(__file__).parent / "payloads"
TAKEN_AFTER_S = 60.0
TAKEN_AT = 1_790_000_000.0


@dataclass(frozen=True)
class Case:
    provider: str
    name: str
    body: Any
    receipts: list[dict[str, Any]]
    ignored: int
    problem: str

    @property
    def taken_at(self) -> float:
        times = [_seconds(one["at"]) for one in self.receipts if one["at"] != "taken"]
        return max(times) + TAKEN_AFTER_S if times else TAKEN_AT

    def expected(self) -> Reading:
        receipts = []
        for one in self.receipts:
            timed = one["at"] != "taken"
            at = _seconds(one["at"]) if timed else self.taken_at
            fields = {**one, "source": self.provider, "at": at, "trusted": True, "timed": timed}
            receipts.append(msgspec.convert(fields, Receipt))
        return Reading(receipts, self.ignored, self.problem)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _cases() -> list[Case]:
    cases = []
    for path in sorted(PAYLOADS.glob("*.json")):
        for one in json.loads(path.read_text("utf-8")):
            assert one["source"]
            event = {"Type": "Notification", "MessageId": "19ba9823", "TopicArn": "arn:aws:sns:us-east-1:1:SES"}
            body = one["body"] if "body" in one else {**event, "Message": json.dumps(one["event"]) + "\n", **one["sns"]}
            cases.append(
                Case(path.stem, one["name"], body, one["receipts"], one.get("ignored", 0), one.get("problem", ""))
            )
    return cases


CASES = _cases()
_JANE, _JOB, _AT = "jane@example.com", "06fv3k9qz1m2n4p7:17:email", 1_789_999_000
_HARD_ABOUT = {
    "ses": {
        "eventType": "Bounce",
        "mail": {"messageId": "7c191be45", "destination": [_JANE]},
        "bounce": {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "bouncedRecipients": [{"emailAddress": _JANE, "status": "5.1.1", "diagnosticCode": "WORDS"}],
        },
    },
    "sendgrid": {"event": "bounce", "type": "bounce", "email": _JANE, "kurir_job": _JOB, "reason": "WORDS"},
    "mailgun": {
        "event-data": {
            "event": "failed",
            "severity": "permanent",
            "reason": "bounce",
            "recipient": _JANE,
            "user-variables": {"kurir_job": _JOB},
            "delivery-status": {"code": 550, "message": "WORDS"},
        }
    },
    "postmark": {
        "RecordType": "Bounce", "Type": "HardBounce", "Email": _JANE, "MessageID": "883953f4", "Details": "WORDS"
    },
    "brevo": {"event": "hard_bounce", "email": _JANE, "X-Mailin-custom": _JOB, "reason": "WORDS", "ts_epoch": _AT},
    "resend": {
        "type": "email.bounced",
        "data": {
            "email_id": "56761188",
            "to": [_JANE],
            "bounce": {"type": "Permanent", "subType": "General", "diagnosticCode": ["WORDS"]},
        },
    },
}  # fmt: skip
BATCHED = [case for case in CASES if isinstance(case.body, list) and case.body]


def read(case: Case, body: Any) -> Reading:
    return READERS[case.provider](json.dumps(body).encode(), case.taken_at)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.provider}: {case.name}" for case in CASES])
def test_payload_is_read(case: Case) -> None:
    """Each event becomes its receipts, is ignored, or is the problem for which the entry is kept."""
    assert read(case, case.body) == case.expected()


def test_every_provider_has_payloads_and_a_channel() -> None:
    """Each provider has at least seven payloads, among them a delivery, and something that cannot be read."""
    counts = Counter(case.provider for case in CASES)
    assert set(counts) == set(READERS) == set(CHANNEL_OF)
    assert min(counts.values()) >= 7
    kinds = {(case.provider, one["kind"]) for case in CASES for one in case.receipts}
    assert {provider for provider, kind in kinds if kind == "delivered"} == set(READERS)
    assert {case.provider for case in CASES if case.problem} == set(READERS)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.provider}: {case.name}" for case in CASES])
def test_unknown_fields_change_nothing(case: Case) -> None:
    """Fields that a provider adds, at any level, do not matter."""
    assert read(case, _with_more_fields(case.body)) == case.expected()


def _with_more_fields(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_more_fields(one) for one in value]
    if isinstance(value, dict) and value:
        return {"added_later": {"statuses": [1], "x": None}} | {
            key: _with_more_fields(one) for key, one in value.items()
        }
    return value


@pytest.mark.parametrize("case", BATCHED, ids=[f"{case.provider}: {case.name}" for case in BATCHED])
def test_order_of_a_batch_does_not_matter(case: Case) -> None:
    """A batch in reverse order has the same receipts."""
    found = read(case, case.body[::-1])
    assert sorted(found.receipts, key=repr) == sorted(case.expected().receipts, key=repr)
    assert found.ignored == case.ignored


@pytest.mark.parametrize("case", CASES, ids=[f"{case.provider}: {case.name}" for case in CASES])
def test_repeated_body_is_read_alike(case: Case) -> None:
    """A body that comes again an hour later has equal receipts, so that their effect can be recognised."""
    again = READERS[case.provider](json.dumps(case.body).encode(), case.taken_at + 3600)
    if not any(one["at"] == "taken" for one in case.receipts):
        assert again == case.expected()


def test_text_from_outside_is_made_valid() -> None:
    """Lone surrogates, control characters, other charsets and long words become readable text of at most 1,000."""
    status = {"id": "wamid.A", "status": "failed", "timestamp": "1750857384"}
    errors = [{"code": 131026, "title": "no \ud83d way\x1b[2J" + "x" * 5000}]
    body = json.dumps({"entry": [{"changes": [{"value": {"statuses": [{**status, "errors": errors}]}}]}]}).encode()
    (receipt,) = READERS["meta"](body, 1750857400.0).receipts
    assert receipt.words.encode().startswith("no � way�[2J".encode())
    assert len(receipt.words) == 1000
    latin = b'[{"event": "bounce", "type": "blocked", "smtp-id": "<a>", "reason": "Bo\xeete pleine"}]'
    (receipt,) = READERS["sendgrid"](latin, 1750857400.0).receipts
    assert receipt.words == "Boîte pleine"


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ("1750857384", 1750857384.0),
        (1750857384.25, 1750857384.25),
        (1750857384000, 1750857384.0),
        (1750857384000000000, 1750857384.0),
        ("2025-06-25T13:16:24.500Z", 1750857384.5),
        ("2025-06-25T20:16:24+07:00", 1750857384.0),
        ("2025-06-25 13:16:24", 1750857384.0),
        ("1750857400", 1750857400.0),
    ],
)
def test_times_in_any_form(written: Any, at: float) -> None:
    """Seconds, milliseconds, nanoseconds and ISO 8601 are read; a time without a zone is in UTC."""
    assert _time_of(written) == at


@pytest.mark.parametrize(
    "written",
    [
        *(0, -1, 1, "", "yesterday", None, True, [], {}, 10**400, 1e308, "nan", "inf", "-1e999", "9" * 5000),
        *(1700000000, 1750857384 + 7200, "2124-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"),
    ],
)
def test_absurd_times_are_replaced(written: Any) -> None:
    """Whatever is no time, or a year old, or still to come, becomes the time at which the body was taken."""
    assert _time_of(written) == TAKEN


TAKEN = 1750857390.0


def _time_of(written: Any) -> float:
    body = json.dumps([{"event": "delivered", "smtp-id": "<a>", "timestamp": written}]).encode()
    (receipt,) = READERS["sendgrid"](body, TAKEN).receipts
    return receipt.at


def test_batch_of_three_megabytes() -> None:
    """All of some 10,000 statuses are read, in their order."""
    statuses = [
        {"id": f"wamid.{n:040}", "status": "delivered", "timestamp": "1750857384", "recipient_id": f"62812{n:08}",
         "biz_opaque_callback_data": f"4f1c9a:{n}:whatsapp", "pricing": {"billable": True, "pricing_model": "PMP"},
         "conversation": {"id": "7270432eae37498234f4444b35ffc5", "origin": {"type": "utility"}}}
        for n in range(9_000)
    ]  # fmt: skip
    body = json.dumps({"object": "x", "entry": [{"changes": [{"value": {"statuses": statuses}}]}]}).encode()
    assert len(body) > 2.9e6
    reading = READERS["meta"](body, TAKEN)
    assert [one.job_id for one in reading.receipts] == [f"4f1c9a:{n}:whatsapp" for n in range(9_000)]
    assert reading.problem == ""


@pytest.mark.parametrize("case", BATCHED, ids=[f"{case.provider}: {case.name}" for case in BATCHED])
def test_batch_repeated_to_three_megabytes(case: Case) -> None:
    """A batch of a thousand times the events has a thousand times the receipts, in their order."""
    times = 3_000_000 // len(json.dumps(case.body)) + 1
    found = read(case, case.body * times)
    assert list(found.receipts) == list(case.expected().receipts) * times
    assert (found.ignored, found.problem) == (case.ignored * times, case.problem)


@pytest.mark.parametrize(
    "form",
    [
        b"event=delivered&recipient=alice%40example.com&Message-Id=%3C1%40example.com%3E&token=t&signature=s",
        b"domain=example.com&my_var_1=Mailgun+Variable",
        b'--f723ccea-a5e9\r\nContent-Disposition: form-data; name="Message-Id"\r\n\r\n<1@example.com>\r\n',
    ],
)
def test_a_form_of_mailgun_is_kept_with_what_it_is(form: bytes) -> None:
    """Legacy webhooks and routes post forms: the person who looks at the entry learns why it was not read."""
    assert READERS["mailgun"](form, TAKEN_AT) == Reading(
        problem="it is a form, from a route or a legacy webhook of Mailgun, whose webhooks send JSON"
    )


@pytest.mark.parametrize("provider", _HARD_ABOUT)
@pytest.mark.parametrize(("quoted", "severity"), [(_JANE, "hard"), ("news@shop.example", "soft")])
def test_a_bounce_that_quotes_another_address_is_soft(provider: str, quoted: str, severity: str) -> None:
    """At every provider: a server that does not know our sender condemns no recipient."""
    body = json.dumps(_HARD_ABOUT[provider]).replace("WORDS", f"smtp; 550 5.1.1 <{quoted}>: User unknown")
    (receipt,) = READERS[provider](body.encode(), TAKEN_AT).receipts
    assert (receipt.kind, receipt.severity) == ("bounced", severity)
