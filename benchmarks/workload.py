"""The workload of both sides: a body of 1.5 KB of HTML with a short text part, and recipients with one variable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

SENDER = "bench@example.com"
SUBJECT = "A note for {{ name }}"
TEXT = "Dear {{ name }}, your order has been received and is being packed."
HTML_BYTES = 1536
TEMPLATE_ID = "bench"


def html() -> str:
    """Return the HTML body, 1.5 KB before the name is filled in."""
    head = "<html><body><h1>Dear {{ name }}</h1>"
    tail = "<p>Yours, {{ name }}'s shop</p></body></html>"
    line = "<p>Your order has been received and is being packed; we write again once it is on its way.</p>\n"
    room = HTML_BYTES - len(head) - len(tail)
    filling = (line * (room // len(line) + 1))[:room]
    # cut at a whole line and fill up with a comment, since half a tag is not HTML
    whole = filling[: filling.rfind("\n") + 1]
    return head + whole + f"<!--{'x' * (room - len(whole) - 7)}-->" + tail


@dataclass(frozen=True, slots=True)
class Load:
    """The amount and the settings that both sides share.

    A connection is closed after `messages_per_connection`; `append_fsync` is Redis's setting. `dkim` is the kind of key
    that Kurir signs with (`rsa-2048` or `ed25519`), "" for none.
    """

    jobs: int
    concurrency: int = 5
    messages_per_connection: int = 100
    append_fsync: str = "always"
    dkim: str = ""


def write_template(folder: Path) -> None:
    """Write the template into a templates folder."""
    folder.mkdir(parents=True, exist_ok=True)
    template = {
        "id": TEMPLATE_ID,
        "name": "Bench",
        "type": "notification",
        "category": "transactional",
        "channels": ["email"],
        "subject": SUBJECT,
        "html": html(),
        "text": TEXT,
        "variables": [{"name": "name", "type": "string", "required": True}],
    }
    (folder / f"{TEMPLATE_ID}.yaml").write_text(yaml.safe_dump(template), encoding="utf-8")


def write_key(kind: str, path: Path) -> None:
    """Create a DKIM key of a kind and write it to a file that only its owner can read."""
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa-2048" else ed25519.Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def recipients(jobs: int) -> Iterator[dict[str, str]]:
    """Return the recipients in the API's format."""
    return ({"name": f"Recipient {index}", "email": f"r{index}@example.com"} for index in range(jobs))


def blast_body(jobs: int) -> bytes:
    """Return the body of POST /api/messages/blast."""
    return orjson.dumps({"channels": ["email"], "templateId": TEMPLATE_ID, "recipients": list(recipients(jobs))})


def message_body(index: int) -> bytes:
    """Return the body of POST /api/messages."""
    recipient = {"name": f"Recipient {index}", "email": f"r{index}@example.com"}
    return orjson.dumps({"channel": "email", "templateId": TEMPLATE_ID, "recipient": recipient})
