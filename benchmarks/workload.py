"""The workload of both sides: recipients with one variable, who get a mail or a WhatsApp template.

A mail has a body of 1.5 KB of HTML, or more, and a short text part.
"""

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
SINGLES_A_SECOND = 500
# a million numbers of an Indonesian mobile network
FIRST_PHONE = 6281210000000


def html(size: int = HTML_BYTES) -> str:
    """Return the HTML body, 1.5 KB or another size before the name is filled in."""
    head = "<html><body><h1>Dear {{ name }}</h1>"
    tail = "<p>Yours, {{ name }}'s shop</p></body></html>"
    line = "<p>Your order has been received and is being packed; we write again once it is on its way.</p>\n"
    room = size - len(head) - len(tail)
    filling = (line * (room // len(line) + 1))[:room]
    # cut at a whole line and fill up with a comment, since half a tag is not HTML
    whole = filling[: filling.rfind("\n") + 1]
    return head + whole + f"<!--{'x' * (room - len(whole) - 7)}-->" + tail


@dataclass(frozen=True, slots=True)
class Load:
    """The amount and the settings that both sides share.

    A connection is closed after `messages_per_connection`; `append_fsync` is Redis's setting. `dkim` is the kind of key
    that Kurir signs with (`rsa-2048` or `ed25519`), "" for none. `html_bytes` is the size of a mail's HTML.
    """

    jobs: int
    concurrency: int = 5
    messages_per_connection: int = 100
    append_fsync: str = "always"
    dkim: str = ""
    channel: str = "email"
    html_bytes: int = HTML_BYTES


def write_template(folder: Path, load: Load) -> None:
    """Write the template of the load's channel into a templates folder."""
    folder.mkdir(parents=True, exist_ok=True)
    template = {
        "id": TEMPLATE_ID,
        "name": "Bench",
        "type": "notification",
        "category": "transactional",
        "channels": [load.channel],
        "variables": [{"name": "name", "type": "string", "required": True}],
        **_content(load),
    }
    (folder / f"{TEMPLATE_ID}.yaml").write_text(yaml.safe_dump(template), encoding="utf-8")


def _content(load: Load) -> dict[str, object]:
    if load.channel == "whatsapp":
        return {"whatsapp": {"templateName": TEMPLATE_ID, "language": "en", "bodyVariables": ["name"]}}
    return {"subject": SUBJECT, "html": html(load.html_bytes), "text": TEXT}


def write_key(kind: str, path: Path) -> None:
    """Create a DKIM key of a kind and write it to a file that only its owner can read."""
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa-2048" else ed25519.Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def recipients(jobs: int, channel: str = "email") -> Iterator[dict[str, str]]:
    """Return the recipients in the API's format."""
    return (recipient(index, channel) for index in range(jobs))


def recipient(index: int, channel: str = "email") -> dict[str, str]:
    """Return one recipient in the API's format."""
    address = {"phone": f"+{FIRST_PHONE + index}"} if channel == "whatsapp" else {"email": f"r{index}@example.com"}
    return {"name": f"Recipient {index}", **address}


def blast_body(jobs: int, channel: str = "email") -> bytes:
    """Return the body of POST /api/messages/blast."""
    everyone = list(recipients(jobs, channel))
    return orjson.dumps({"channels": [channel], "templateId": TEMPLATE_ID, "recipients": everyone})


def message_body(index: int) -> bytes:
    """Return the body of POST /api/messages."""
    return orjson.dumps({"channel": "email", "templateId": TEMPLATE_ID, "recipient": recipient(index)})
