"""DKIM keys for tests, in every form that operators use."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import dkim
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from services.email_sender.dkim_keys import DkimKey
from services.email_sender.signatures import PrivateKey


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: PrivateKey, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> str:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


def look_up(keys: Iterable[DkimKey]) -> Callable[..., bytes | None]:
    """Return the TXT record published for these keys, in place of the DNS."""
    records = {f"{key.dns_name}.".encode(): key.dns_record.encode() for key in keys}

    def answer(name: bytes, **_options: object) -> bytes | None:
        return records.get(name)

    return answer


def verdicts(raw: bytes, keys: Iterable[DkimKey]) -> list[bool]:
    """Return dkimpy's verdict on each signature of a message, the topmost first."""
    message = dkim.DKIM(raw)
    count = sum(name.lower() == b"dkim-signature" for name, _ in message.headers)
    return [message.verify(place, dnsfunc=look_up(keys)) for place in range(count)]
