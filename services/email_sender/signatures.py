"""Signatures of digests: the function that makes them with a key, and a process that makes them for a sender.

The process reads its keys and then requests from stdin, and writes the signatures to stdout in the order of the
requests. It ends with its stdin. It imports nothing else of the sender, so it starts soon and takes little memory.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from nacl.bindings import crypto_sign, crypto_sign_BYTES, crypto_sign_seed_keypair

PrivateKey = RSAPrivateKey | Ed25519PrivateKey

# a request: the number of the key, and a SHA-256 digest
REQUEST = struct.Struct("!H32s")
_LENGTH = struct.Struct("!I")
_PADDING, _HASH = PKCS1v15(), Prehashed(hashes.SHA256())
_READ_BYTES = REQUEST.size * 512
# signatures are written together, but none waits longer than this for others
_GATHER_S = 0.001


def signer_of(private: PrivateKey) -> Callable[[bytes], bytes]:
    """Return the function that signs a SHA-256 digest with a key.

    Ed25519: the same bytes as from `private.sign` (RFC 8032), in two thirds of the time.
    """
    if isinstance(private, RSAPrivateKey):
        return lambda digest: private.sign(digest, _PADDING, _HASH)
    _, secret = crypto_sign_seed_keypair(private.private_bytes_raw())
    return lambda digest: crypto_sign(digest, secret)[:crypto_sign_BYTES]


def size_of(private: PrivateKey) -> int:
    """Return how many bytes each signature with a key has."""
    return (private.key_size + 7) // 8 if isinstance(private, RSAPrivateKey) else crypto_sign_BYTES


def pack_keys(keys: Sequence[PrivateKey]) -> bytes:
    """Return keys as the process reads them; requests name them by their place."""
    form = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    packed = [key.private_bytes(*form) for key in keys]
    return b"".join(_LENGTH.pack(len(one)) + one for one in packed) + _LENGTH.pack(0)


def main() -> None:
    """Sign what the parent asks for until it closes stdin; signals are its affair."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keys = list(_read_keys())
    rest = b""
    while read := os.read(sys.stdin.fileno(), _READ_BYTES):
        rest += read
        whole = len(rest) // REQUEST.size * REQUEST.size
        _answer(rest[:whole], keys)
        rest = rest[whole:]


def _read_keys() -> Iterator[Callable[[bytes], bytes]]:
    while length := _LENGTH.unpack(_read_exactly(_LENGTH.size))[0]:
        private = serialization.load_der_private_key(_read_exactly(length), None)
        if not isinstance(private, PrivateKey):
            raise TypeError(f"a key of type {type(private).__name__} cannot sign")
        yield signer_of(private)


def _read_exactly(size: int) -> bytes:
    read = b""
    while len(read) < size:
        piece = os.read(sys.stdin.fileno(), size - len(read))
        if not piece:
            raise SystemExit(0)  # the sender stopped before it was ready
        read += piece
    return read


def _answer(requests: bytes, keys: Sequence[Callable[[bytes], bytes]]) -> None:
    signatures: list[bytes] = []
    began = time.monotonic()
    for number, digest in REQUEST.iter_unpack(requests):
        signatures.append(keys[number](digest))
        if time.monotonic() - began > _GATHER_S:
            _write(b"".join(signatures))
            signatures.clear()
            began = time.monotonic()
    _write(b"".join(signatures))


def _write(answer: bytes) -> None:
    while answer:
        answer = answer[os.write(sys.stdout.fileno(), answer) :]


if __name__ == "__main__":
    main()
