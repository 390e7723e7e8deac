"""The body of a request to Qiscus and to Meta."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from services.whatsapp_sender.driver import Driver
from services.whatsapp_sender.meta import Meta
from services.whatsapp_sender.payload import MOST_BYTES, Payload, Payloads
from services.whatsapp_sender.qiscus import Qiscus
from shared.blasts import Blast
from shared.errors import PermanentError
from shared.jobs import Job, Recipient
from shared.templates import Template, Variable, WhatsAppContent

CONTENT = WhatsAppContent(
    "order_update",
    "id",
    "b393932b_0056",
    header_variables=["image:picture"],
    body_variables=["name", "amount"],
    button_variables=["tracking"],
)
TEMPLATE = Template("t", "T", ["whatsapp"], variables=[Variable("amount")], whatsapp=CONTENT)
VARIABLES: dict[str, Any] = {"picture": "https://example.com/p.jpg", "amount": 120000, "tracking": "X/1"}


QISCUS = Qiscus("https://qiscus.example", "app", "1", "secret")
META = Meta("https://meta.example/v23.0", "1", "token")


def rendered(template: Template = TEMPLATE, driver: Driver = QISCUS, **variables: Any) -> dict[str, Any]:
    blast = Blast("b", template, ["whatsapp"], "normal", 0, {"whatsapp": 1}, 1)
    job = Job("b", 0, "whatsapp", "normal", Recipient("6281234567890", "Siti", variables), 0)
    message = Payload(blast, driver).fill(job)
    assert (message.job_id, message.to, message.subject) == ("b:0:whatsapp", "6281234567890", "")
    body: dict[str, Any] = orjson.loads(message.body)
    return body


def test_a_template_with_all_kinds_of_parameters() -> None:
    """The header medium, body texts in order and a URL button are in the form that Qiscus documents."""
    assert rendered(**VARIABLES) == {
        "to": "6281234567890",
        "type": "template",
        "biz_opaque_callback_data": "b:0:whatsapp",
        "template": {
            "namespace": "b393932b_0056",
            "name": "order_update",
            "language": {"policy": "deterministic", "code": "id"},
            "components": [
                {
                    "type": "header",
                    "parameters": [{"type": "image", "image": {"link": "https://example.com/p.jpg"}}],
                },
                {
                    "type": "body",
                    "parameters": [{"type": "text", "text": "Siti"}, {"type": "text", "text": "120000"}],
                },
                {
                    "type": "button",
                    "sub_type": "url",
                    "index": "0",
                    "parameters": [{"type": "text", "text": "X/1"}],
                },
            ],
        },
    }


def test_meta_gets_the_same_message_and_two_fields_more() -> None:
    """The product and the kind of recipient are named; the namespace belongs to an API that Meta has withdrawn."""
    wanted = rendered(**VARIABLES) | {"messaging_product": "whatsapp", "recipient_type": "individual"}
    del wanted["template"]["namespace"]
    assert rendered(driver=META, **VARIABLES) == wanted


def test_a_template_without_parameters() -> None:
    """Components and namespace are omitted if the template has none."""
    template = msgspec.structs.replace(TEMPLATE, whatsapp=WhatsAppContent("hello", "en_US"))
    language = {"policy": "deterministic", "code": "en_US"}
    assert rendered(template)["template"] == {"name": "hello", "language": language}


def test_a_missing_variable_is_named_and_permanent() -> None:
    """A retry cannot help, and the log names the variable."""
    with pytest.raises(PermanentError, match="'tracking'") as caught:
        rendered(**{name: value for name, value in VARIABLES.items() if name != "tracking"})
    assert caught.value.code == "render"


def test_a_template_that_is_not_for_whatsapp() -> None:
    """Plain text is never sent in place of an approved template."""
    with pytest.raises(PermanentError, match="no WhatsApp content"):
        rendered(msgspec.structs.replace(TEMPLATE, whatsapp=None))


def test_what_a_blast_has_in_common_is_prepared_once() -> None:
    """Blasts in turn keep their payloads, up to a bound."""
    blasts = [Blast(name, TEMPLATE, ["whatsapp"], "normal", 0, {"whatsapp": 1}, 1) for name in ("a", "b")]
    payloads = Payloads(QISCUS)
    first = [payloads.get(blast) for blast in blasts]
    assert [payloads.get(blast) for blast in blasts] == first
    assert first[0] is not first[1]
    for number in range(MOST_BYTES // first[0].size + 1):
        payloads.get(msgspec.structs.replace(blasts[0], blast_id=f"other-{number}"))
    assert payloads.get(blasts[0]) is not first[0]
