"""DKIM's private keys: read from the settings, checked at start-up, and chosen by the From domain.

`KURIR_DKIM_KEYS` lists keys as `domain:selector:file`; `KURIR_DKIM_DOMAIN`, `_SELECTOR` and `_PRIVATE_KEY` give one.
If a domain has several keys, all of them sign: RFC 8463 recommends an RSA signature beside one of Ed25519.
"""

from __future__ import annotations

import base64
import binascii
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from services.email_sender.signatures import PrivateKey, signer_of, size_of
from shared.addresses import AddressError
from shared.hosts import is_host_name
from shared.mailboxes import smtp_domain
from shared.settings import EnvReader

# RFC 8301, 3.2: verifiers accept RSA keys of 1,024 to 4,096 bits
LEAST_RSA_BITS, MOST_RSA_BITS = 1024, 4096
_ED25519_BYTES = 32
# a container runtime mounts a container's secrets here; the container's user seldom owns them
_MOUNTED = Path("/run/secrets")


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A key that signs mail of a domain; its public key is in the DNS at `dns_name`.

    `tags` is the beginning of its headers; `is_rsa` is False for an Ed25519 key. `sign` signs a SHA-256 digest, which
    takes RSA half a millisecond; each signature has `signature_bytes`.
    """

    domain: str
    selector: str
    private: PrivateKey = field(repr=False)
    tags: bytes = field(init=False, repr=False)
    is_rsa: bool = field(init=False, repr=False)
    sign: Callable[[bytes], bytes] = field(init=False, repr=False, compare=False)
    signature_bytes: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # decided once: each message asks, and a check against an abstract class takes a microsecond
        object.__setattr__(self, "is_rsa", isinstance(self.private, RSAPrivateKey))
        object.__setattr__(self, "sign", signer_of(self.private))
        object.__setattr__(self, "signature_bytes", size_of(self.private))
        tags = f"v=1; a={self.algorithm}; c=relaxed/relaxed; d={self.domain}; s={self.selector};"
        object.__setattr__(self, "tags", tags.encode("ascii"))

    @property
    def algorithm(self) -> str:
        """The signature's `a=` (RFC 6376, 3.3; RFC 8463, 3)."""
        return "rsa-sha256" if self.is_rsa else "ed25519-sha256"

    @property
    def dns_name(self) -> str:
        """Where verifiers look for the public key."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def dns_record(self) -> str:
        """The TXT record to publish there (RFC 6376, 3.6.1; RFC 8463, 4)."""
        public = self.private.public_key()
        if isinstance(public, Ed25519PublicKey):
            return f"v=DKIM1; k=ed25519; p={base64.b64encode(public.public_bytes_raw()).decode()}"
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"


class KeyRing:
    """The keys of all domains."""

    def __init__(self, keys: Iterable[DkimKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_domain: dict[str, tuple[DkimKey, ...]] = {}
        for key in self.keys:
            self._by_domain[key.domain] = (*self._by_domain.get(key.domain, ()), key)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def for_domain(self, domain: str) -> tuple[DkimKey, ...]:
        """Return the keys that sign for a From domain: its own, else those of its nearest parent domain.

        DMARC's relaxed alignment accepts these (RFC 7489, 3.1.1). Without such a key, mail is not signed: a signature
        of an unaligned domain proves nothing about the sender.
        """
        if not self._by_domain:
            return ()
        if found := self._by_domain.get(domain):
            return found
        domain = domain.lower()
        while domain:
            if found := self._by_domain.get(domain):
                return found
            domain = domain.partition(".")[2]
        return ()


def read_keys(reader: EnvReader) -> KeyRing:
    """Read all keys; reports every problem of every key to the reader."""
    keys = [*_single(reader), *_listed(reader)]
    seen: set[tuple[str, str]] = set()
    for key in keys:
        if (key.domain, key.selector) in seen:
            reader.problem(f"DKIM: {key.dns_name} has two private keys; give each its own selector")
        seen.add((key.domain, key.selector))
    return KeyRing(keys)


def _single(reader: EnvReader) -> list[DkimKey]:
    names = ("KURIR_DKIM_DOMAIN", "KURIR_DKIM_SELECTOR", "KURIR_DKIM_PRIVATE_KEY")
    domain, selector = (reader.text(name, "") for name in names[:2])
    file = reader.file_of(names[2])
    source = Path(file) if file else reader.text(names[2], "")
    if not (domain or selector or source):
        return []
    if not (domain and selector and source):
        reader.problem(f"DKIM needs all of {', '.join(names)}")
        return []
    return _made(reader, names[2], (domain, selector), source)


def _listed(reader: EnvReader) -> list[DkimKey]:
    name = "KURIR_DKIM_KEYS"
    found: list[DkimKey] = []
    for number, text in enumerate(reader.items(name), start=1):
        domain, _, rest = text.partition(":")
        selector, _, path = rest.partition(":")
        if not (domain and selector and path):
            reader.problem(
                f"{name}, key {number}: write it as domain:selector:file, such as example.com:s1:/keys/s1.pem"
            )
            continue
        found += _made(reader, f"{name}, key {number}", (domain.strip(), selector.strip()), Path(path.strip()))
    return found


def _made(reader: EnvReader, place: str, names: tuple[str, str], source: str | Path) -> list[DkimKey]:
    """Return the key, or report everything that is wrong with it."""
    problems = []
    try:
        domain = smtp_domain(names[0])
    except AddressError:
        problems.append(f"{names[0]!r} is not a domain")
    if not is_host_name(names[1]):
        problems.append(f"{names[1]!r} is not a selector: letters, digits, hyphens and dots")
    try:
        key = parse_key(_read(source) if isinstance(source, Path) else source)
    except ValueError as error:
        problems.append(f"{source}: {error}" if isinstance(source, Path) else str(error))
    for problem in problems:
        reader.problem(f"{place}: {problem}")
    return [] if problems else [DkimKey(domain, names[1].lower(), key)]


def _read(path: Path) -> str:
    """Return the text of a key file; raises ValueError if it cannot be read, or if every user can read it."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError("contains no private key: it is not text") from None
    if is_open_to_all(path):
        raise ValueError(f"every user of this machine can read it; run chmod o-r {path}")
    return text


def is_open_to_all(path: Path) -> bool:
    """Return whether every user of the machine can read a file, by its mode and those of its parent folders."""
    path = path.resolve()
    if path.is_relative_to(_MOUNTED) or not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def parse_key(text: str) -> PrivateKey:
    """Parse a private key: PEM of RSA or Ed25519, or the 32 bytes of an Ed25519 key in base64.

    Raises ValueError with the reason; the message never repeats the key.
    """
    text = text.strip()
    if not text:
        raise ValueError("contains no private key: it is empty")
    key = _parse_pem(text) if text.startswith("-----BEGIN") else _parse_raw(text)
    if isinstance(key, RSAPrivateKey):
        if key.key_size < LEAST_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits is too short: receivers ignore it; use 2048 bits")
        if key.key_size > MOST_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits is too long: receivers may ignore it; use 2048 bits")
    return key


def _parse_pem(text: str) -> PrivateKey:
    header = text.partition("\n")[0]
    if "PUBLIC KEY" in header or "CERTIFICATE" in header:
        raise ValueError("this is a public key; give the private key")
    try:
        key = serialization.load_pem_private_key(text.encode("ascii", "replace"), None)
    except TypeError:
        raise ValueError("the key is encrypted; write it without a passphrase (openssl pkey -in … -out …)") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("this is not a valid private key in PEM") from None
    if isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        return key
    raise ValueError("DKIM supports only RSA and Ed25519 keys, and this is neither")


def _parse_raw(text: str) -> PrivateKey:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _ED25519_BYTES:
        raise ValueError("this is not a private key: give PEM, or the 32 bytes of an Ed25519 key in base64")
    return Ed25519PrivateKey.from_private_bytes(raw)
