"""A WhatsApp message as a bubble."""

from __future__ import annotations

import orjson
import pytest

from services.sandbox.bubble import Bubble, read_bubble


def test_the_parameters_of_a_template() -> None:
    """Texts are shown as they are, files by their address, anything else as JSON."""
    components = [
        {"type": "header", "parameters": [{"type": "image", "image": {"link": "https://x.example/a.png"}}]},
        {"type": "BODY", "parameters": [{"text": "<b>Siti</b>"}, {"type": "currency", "currency": {"code": "IDR"}}]},
        {"type": "button", "parameters": [{"type": "payload", "payload": "yes"}]},
    ]
    template = {"name": "order", "language": {"code": "id"}, "components": components}
    assert read_bubble(orjson.dumps({"template": template})) == Bubble(
        "order",
        "id",
        ["image: https://x.example/a.png"],
        ["<b>Siti</b>", '{"type":"currency","currency":{"code":"IDR"}}'],
        ["yes"],
    )


@pytest.mark.parametrize(
    "message",
    [
        [],
        {"template": 7},
        {"template": {"name": {}, "language": [], "components": {"a": 1}}},
        {"template": {"components": [None, 1, {"type": []}, {"type": "body", "parameters": "x"}]}},
        {"template": {"components": [{"type": "body", "parameters": [None, 1, [], {"image": 3}] * 1000}]}},
    ],
)
def test_a_hostile_body_is_shown_all_the_same(message: object) -> None:
    """Whatever the types, there is a bubble of bounded length."""
    bubble = read_bubble(orjson.dumps(message))
    assert bubble is not None
    assert len(bubble.body) <= 100


def test_a_body_that_was_cut_off() -> None:
    """Half of a body is no bubble; its source is still shown."""
    assert read_bubble(b'{"template": {"name": "x') is None
