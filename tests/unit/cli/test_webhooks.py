"""`kurir webhooks`: what it asks the API for, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from tests.unit.cli.test_api_client import Api, run

PATH = "/api/v1/webhooks"
ONE = f"{PATH}/wh_1"
WEBHOOK: dict[str, Any] = {
    "id": "wh_1", "url": "https://shop.example.com/kurir", "events": ["*"], "channels": [], "reference": "",
    "description": "", "batch": None, "enabled": True, "disabledReason": None, "failingSince": None, "waiting": 7,
    "createdAt": "2026-11-29T04:00:00.000Z", "updatedAt": "2026-11-29T04:00:00.000Z", "lastDeliveredAt": None,
}  # fmt: skip
DELIVERY = {
    "id": "evt_1", "type": "message.sent", "events": 1, "status": "retrying", "attempts": 2, "durationMs": 12,
    "createdAt": "2026-11-29T04:00:00.000Z", "lastAttemptAt": "2026-11-29T04:00:05.000Z", "responseStatus": 500,
    "nextAttemptAt": "2026-11-29T04:05:05.000Z", "error": "the endpoint answered 500",
}  # fmt: skip
SECRET = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="


@pytest.fixture
def api() -> Iterator[Api]:
    """Return a server that knows one webhook."""
    server = Api()
    server.on(PATH, {"success": True, "webhook": WEBHOOK, "secret": SECRET})
    server.on(ONE, {"success": True, "webhook": WEBHOOK})
    yield server
    server.close()


def said(api: Api, *words: str) -> str:
    """Run a command that succeeds and return what it prints."""
    done = run("webhooks", *words, "--url", api.url)
    assert done.exit_code == 0, done.output
    return str(done.output)


def asked(api: Api) -> tuple[str, str, Any]:
    """Return the last call: its method, its path and its body."""
    path, _, body = api.asked[-1]
    return api.methods[-1], path, json.loads(body) if body else None


def test_a_webhook_is_added_for_every_event(api: Api) -> None:
    """Unless --event names some; nothing is sent that was not given."""
    assert said(api, "add", WEBHOOK["url"]).splitlines() == ["wh_1 is added. Its secret, shown only now:", SECRET]
    assert asked(api) == ("POST", PATH, {"url": WEBHOOK["url"], "events": ["*"]})
    said(api, "add", WEBHOOK["url"], "-e", "message.sent", "-e", "message.failed", "-c", "email", "--reference", "r",
         "--description", "d", "--batch", "10", "--within-ms", "0")  # fmt: skip
    assert asked(api)[2] == {
        "url": WEBHOOK["url"], "events": ["message.sent", "message.failed"], "channels": ["email"], "reference": "r",
        "description": "d", "batch": {"max": 10, "withinMs": 0},
    }  # fmt: skip


def test_a_secret_of_ones_own_is_not_an_argument(api: Api, tmp_path: Path) -> None:
    """It comes from a file or stdin: other users of the machine can read a command line."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    said(api, "add", WEBHOOK["url"], "--secret-file", str(tmp_path / "secret"))
    assert asked(api)[2]["secret"] == SECRET
    api.on(f"{ONE}/rotate", {"success": True, "secret": SECRET, "oldSecretEndsAt": "2026-11-30T04:00:00.000Z"})
    words = ["webhooks", "rotate", "wh_1", "--secret-file", "-", "--url", api.url]
    done = CliRunner().invoke(app, words, obj={}, input=SECRET + "\n")
    assert done.exit_code == 0, done.output
    assert asked(api) == ("POST", f"{ONE}/rotate", {"secret": SECRET})
    missing = run("webhooks", "add", WEBHOOK["url"], "--secret-file", str(tmp_path / "none"), "--url", api.url)
    assert missing.exit_code == 2


def test_a_rotation_prints_the_new_secret_and_the_end_of_the_old(api: Api) -> None:
    """Kurir makes one if none is given."""
    api.on(f"{ONE}/rotate", {"success": True, "secret": SECRET, "oldSecretEndsAt": "2026-11-30T04:00:00.000Z"})
    first, second = said(api, "rotate", "wh_1").splitlines()
    assert ("2026-11-30T04:00:00.000Z" in first, second) == (True, SECRET)
    assert asked(api)[2] == {}


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("change", "wh_1", "--target", "https://a.example.com/"), {"url": "https://a.example.com/"}),
        (("change", "wh_1", "-e", "*"), {"events": ["*"]}),
        (("change", "wh_1", "--channel", ""), {"channels": []}),
        (("change", "wh_1", "--reference", "", "--description", ""), {"reference": "", "description": ""}),
        (("change", "wh_1", "--batch", "0"), {"batch": None}),
        (("change", "wh_1", "--batch", "5"), {"batch": {"max": 5}}),
        (("enable", "wh_1"), {"enabled": True}),
        (("disable", "wh_1"), {"enabled": False}),
    ],
)
def test_only_what_is_given_is_changed(words: tuple[str, ...], body: dict[str, Any], api: Api) -> None:
    """An empty filter removes it; a batch of none sends each event alone."""
    assert "wh_1 is " in said(api, *words)
    assert asked(api) == ("PATCH", ONE, body)


@pytest.mark.parametrize(
    ("words", "line"), [(("--within-ms", "5"), "--within-ms needs --batch"), ((), "give what to change")]
)
def test_a_change_of_nothing_is_an_error(words: tuple[str, ...], line: str, api: Api) -> None:
    """A wait needs a batch; the API is not asked."""
    found = run("webhooks", "change", "wh_1", *words, "--url", api.url)
    assert (found.exit_code, api.asked) == (2, [])
    assert line in found.stderr


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "enabled"),
        ({"failingSince": "2026-11-29T05:00:00.000Z"}, "failing since 2026-11-29T05:00:00.000Z"),
        ({"enabled": False, "disabledReason": "410 Gone"}, "disabled: 410 Gone"),
        ({"enabled": False}, "disabled"),
    ],
)
def test_the_list_says_how_each_webhook_is(changes: dict[str, Any], state: str, api: Api) -> None:
    """Whether it fails and since when, why it is disabled, and how many events wait."""
    api.on(PATH, {"success": True, "webhooks": [{**WEBHOOK, **changes}]})
    for words in ((), ("list",)):
        (line,) = [one for one in said(api, *words).splitlines() if "wh_1" in one]
        assert state in line
        assert " 7 " in line


def test_an_empty_list_says_how_to_add_one(api: Api) -> None:
    """A newcomer needs a command, not an empty table."""
    api.on(PATH, {"success": True, "webhooks": []})
    assert said(api) == "no webhooks; add one with kurir webhooks add URL\n"


def test_deliveries_are_listed_by_pages(api: Api) -> None:
    """Every filter is passed on; the next page is a command."""
    api.on(f"{ONE}/deliveries", {"success": True, "deliveries": [DELIVERY], "nextCursor": "c2"})
    shown = said(api, "deliveries", "wh_1", "--status", "retrying", "--from", "2026-11-29T04:00:00Z", "--to",
                 "2026-11-29T05:00:00Z", "--limit", "1", "--cursor", "c1")  # fmt: skip
    assert "500 the endpoint answered 500" in shown
    assert "2026-11-29T04:05:05.000Z" in shown
    assert "next page: kurir webhooks deliveries wh_1 --cursor c2" in shown
    wanted = {"status=retrying", "from=2026-11-29T04:00:00Z", "to=2026-11-29T05:00:00Z", "limit=1", "cursor=c1"}
    query = asked(api)[1].partition("?")[2]
    assert {one.replace("%3A", ":") for one in query.split("&")} == wanted


def test_a_range_is_replayed(api: Api) -> None:
    """Up to now if no end is given."""
    api.on(f"{ONE}/replay", {"success": True, "replayId": "1", "events": 12})
    assert "12 events" in said(api, "replay", "wh_1", "--from", "2026-11-29T04:00:00Z")
    assert asked(api)[2] == {"from": "2026-11-29T04:00:00Z"}
    said(api, "replay", "wh_1", "--from", "2026-11-29T04:00:00Z", "--to", "2026-11-29T05:00:00Z")
    assert asked(api) == ("POST", f"{ONE}/replay", {"from": "2026-11-29T04:00:00Z", "to": "2026-11-29T05:00:00Z"})


def test_a_test_event_and_a_removal(api: Api) -> None:
    """The one says where its outcome is shown, the other what is lost."""
    api.on(f"{ONE}/test", {"success": True, "deliveryId": "evt_9"})
    assert "evt_9 is on its way; see kurir webhooks deliveries wh_1" in said(api, "test", "wh_1")
    api.on(ONE, {"success": True, "message": "the webhook is removed"})
    assert said(api, "remove", "wh_1") == "the webhook is removed\n"
    assert asked(api) == ("DELETE", ONE, None)


def test_json_is_the_answer(api: Api) -> None:
    """For scripts, with every command that prints."""
    assert json.loads(said(api, "add", WEBHOOK["url"], "--json"))["secret"] == SECRET
    assert json.loads(said(api, "enable", "wh_1", "--json"))["webhook"] == WEBHOOK
    assert json.loads(said(api, "show", "wh_1"))["id"] == "wh_1"
