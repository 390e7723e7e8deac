"""DKIM: off unless configured; what is signed is verified by the public key, and by no changed message."""

from __future__ import annotations

import base64
import re

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from services.email_sender.message import Mail
from services.email_sender.settings import DkimSettings
from services.email_sender.signing import Encoder
from shared.errors import SettingsError
from shared.templates import Template
from tests.integration.email_sender.mails import Content, fill, make_mail

MARKETING = Template(id="t", name="T", channels=["email"], category="marketing", subject="é", html="<p>.é\n.</p>")


def rsa_key(form: serialization.PrivateFormat) -> tuple[str, bytes]:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode(), b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def ed25519_key() -> tuple[str, bytes]:
    key = ed25519.Ed25519PrivateKey.generate()
    raw = base64.b64encode(key.private_bytes_raw()).decode()
    return raw, b"v=DKIM1; k=ed25519; p=" + base64.b64encode(key.public_key().public_bytes_raw())


KEYS = {
    "rsa, pkcs8": lambda: rsa_key(serialization.PrivateFormat.PKCS8),
    "rsa, traditional": lambda: rsa_key(serialization.PrivateFormat.TraditionalOpenSSL),
    "ed25519": ed25519_key,
}


async def signed(mail: Mail, private: str) -> bytes:
    encoder = Encoder(DkimSettings("example.com", "kurir", private))
    try:
        return await encoder.encode(mail, eight_bit=True)
    finally:
        encoder.close()


@pytest.mark.parametrize("kind", KEYS)
async def test_signed_message_is_verified_and_a_changed_one_is_not(kind: str) -> None:
    """By the key under the selector's name, headers of unsubscription included; one changed byte breaks it."""
    private, record = KEYS[kind]()
    names: list[bytes] = []

    def look_up(name: bytes, timeout: int = 5) -> bytes:
        del timeout
        names.append(name)
        return record

    raw = await signed(make_mail(template=MARKETING), private)
    assert dkim.verify(raw, dnsfunc=look_up)
    assert names == [b"kurir._domainkey.example.com."]
    covered = re.sub(rb"\s", b"", raw.partition(b"bh=")[0]).lower()
    for header in (b"list-unsubscribe", b"list-unsubscribe-post", b"from", b"message-id"):
        assert header in covered
    for old, new in ((b"Ana", b"Ama"), (b"One-Click", b"Two-Click"), (b"shop@", b"shap@")):
        assert old in raw
        assert not dkim.verify(raw.replace(old, new), dnsfunc=look_up)


async def test_signed_message_is_ascii_though_the_server_takes_more() -> None:
    """A relay that must convert 8-bit text would break the signature."""
    private, _ = ed25519_key()
    assert (await signed(fill(Content(text="café\n")), private)).isascii()


async def test_nothing_is_signed_unless_configured() -> None:
    """Without a key the bytes are the message's own."""
    mail = make_mail()
    encoder = Encoder(None)
    assert await encoder.encode(mail, eight_bit=True) == mail.encode(eight_bit=True)
    encoder.close()


@pytest.mark.parametrize("key", ["nonsense", "AAAA", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_key_that_is_none_is_a_problem_of_the_settings(key: str) -> None:
    """Said at start-up, not at the first message."""
    with pytest.raises(SettingsError, match="KURIR_DKIM_PRIVATE_KEY"):
        Encoder(DkimSettings("example.com", "kurir", key))
