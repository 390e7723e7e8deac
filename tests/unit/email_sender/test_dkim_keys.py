"""DKIM keys in the settings: every problem of every key is reported together at start-up."""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from services.email_sender.dkim_keys import DkimKey, KeyRing, read_keys
from shared.errors import SettingsError
from shared.settings import EnvReader
from tests.unit.email_sender.keys import ed25519_key, pem, rsa_key

RSA = rsa_key()
EC = ec.generate_private_key(ec.SECP256R1())
GOOD = {
    "pkcs8": pem(RSA),
    "traditional": pem(RSA, PrivateFormat.TraditionalOpenSSL),
    "ed25519 in pem": pem(ed25519_key()),
    "ed25519 in base64": base64.b64encode(ed25519_key().private_bytes_raw()).decode(),
    "line breaks of another system": pem(RSA).replace("\n", "\r\n"),
    "1024 bits": pem(rsa_key(1024)),
}
BAD = {
    "": "it is empty",
    "nonsense": "not a private key: give PEM, or",
    "AAAA": "not a private key: give PEM, or",
    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----": "not a valid private key in PEM",
    pem(RSA)[:-200]: "not a valid private key in PEM",
    pem(RSA, password=b"secret"): "encrypted",
    pem(RSA, PrivateFormat.TraditionalOpenSSL, b"secret"): "encrypted",
    RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(): "public key",
    EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(): "only RSA and Ed25519 keys",
}


def keys_of(env: dict[str, str]) -> KeyRing:
    reader = EnvReader(env)
    ring = read_keys(reader)
    reader.finish()
    return ring


def key_file(folder: Path, text: str, name: str = "key.pem", mode: int = 0o600) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("kind", GOOD)
def test_key_in_any_usual_form_is_read(kind: str, tmp_path: Path) -> None:
    """A key can be in the environment, in a file that it names, or in the list of files."""
    path = key_file(tmp_path, GOOD[kind])
    one = {"KURIR_DKIM_DOMAIN": "Example.com", "KURIR_DKIM_SELECTOR": "s1"}
    for env in (
        {**one, "KURIR_DKIM_PRIVATE_KEY": GOOD[kind]},
        {**one, "KURIR_DKIM_PRIVATE_KEY_FILE": str(path)},
        {"KURIR_DKIM_KEYS": f"example.com:s1:{path}"},
    ):
        (key,) = keys_of(env).keys
        assert key.dns_name == "s1._domainkey.example.com"
        assert key.is_rsa == ("ed25519" not in kind)


@pytest.mark.parametrize("text", BAD, ids=BAD.values())
def test_invalid_key_is_a_settings_problem(text: str, tmp_path: Path) -> None:
    """The problem has the reason and the file, but no part of the key."""
    path = key_file(tmp_path, text)
    with pytest.raises(SettingsError, match=BAD[text]) as wrong:
        keys_of({"KURIR_DKIM_KEYS": f"example.com:s1:{path}"})
    assert str(path) in str(wrong.value)
    assert text[60:100] not in str(wrong.value) or not text[60:100]


@pytest.mark.parametrize(("bits", "reason"), [(512, "too short"), (768, "too short"), (5120, "too long")])
def test_rsa_key_that_receivers_refuse_is_a_problem(bits: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By RFC 8301, verifiers accept 1,024 to 4,096 bits."""
    key = _Sized(bits)
    monkeypatch.setattr("services.email_sender.dkim_keys.RSAPrivateKey", _Sized)
    monkeypatch.setattr("services.email_sender.dkim_keys._parse_pem", lambda _text: key)
    env = {"KURIR_DKIM_DOMAIN": "example.com", "KURIR_DKIM_SELECTOR": "s1", "KURIR_DKIM_PRIVATE_KEY": "-----BEGIN"}
    with pytest.raises(SettingsError, match=reason):
        keys_of(env)


class _Sized:
    """A stand-in for a key that cryptography no longer makes, or makes slowly."""

    def __init__(self, bits: int) -> None:
        self.key_size = bits


def test_every_problem_of_every_key_is_reported_at_once(tmp_path: Path) -> None:
    """A missing file, a file that all users can read, a wrong key, a wrong domain, a repeated selector."""
    good = key_file(tmp_path, pem(RSA))
    wrong_key = key_file(tmp_path, "nonsense", "wrong.pem")
    keys = [
        f"a.example:s1:{tmp_path}/missing.pem",
        f"b.example:s1:{wrong_key}",
        f"no domain:s1:{good}",
        f"c.example:s_1 x:{good}",
        f"d.example:s1:{good}",
        f"d.example:s1:{good}",
        "e.example:s1",
    ]
    with pytest.raises(SettingsError) as wrong:
        keys_of({"KURIR_DKIM_KEYS": ",".join(keys), "KURIR_DKIM_DOMAIN": "example.com"})
    said = "\n".join(wrong.value.problems)
    for part in ("missing.pem: cannot be read", "wrong.pem: this is not a private key", "'no domain' is not a domain",
                 "'s_1 x' is not a selector", "s1._domainkey.d.example has two private keys",
                 "key 7: write it as domain:selector:file", "DKIM needs all of"):  # fmt: skip
        assert part in said


def test_key_that_every_user_can_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's mode decides, unless a parent folder is closed; files mounted into a container may be open."""
    with TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        path = key_file(folder, pem(RSA), mode=0o644)
        env = {"KURIR_DKIM_KEYS": f"example.com:s1:{path}"}
        folder.chmod(0o755)
        with pytest.raises(SettingsError, match="every user of this machine can read it"):
            keys_of(env)
        folder.chmod(0o700)
        assert keys_of(env)
        folder.chmod(0o755)
        path.chmod(0o440)
        assert keys_of(env)
        path.chmod(0o644)
        monkeypatch.setattr("services.email_sender.dkim_keys._MOUNTED", folder)
        assert keys_of(env)


def test_record_to_publish_is_that_of_the_key() -> None:
    """The TXT record can be put into the DNS unchanged; RFC 8463's public key has 32 bytes."""
    (key,) = keys_of({
        "KURIR_DKIM_DOMAIN": "example.com",
        "KURIR_DKIM_SELECTOR": "s1",
        "KURIR_DKIM_PRIVATE_KEY": GOOD["ed25519 in pem"],
    }).keys  # fmt: skip
    assert key.dns_record.startswith("v=DKIM1; k=ed25519; p=")
    assert len(base64.b64decode(key.dns_record.partition("p=")[2])) == 32


@settings(max_examples=300, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), digest=st.binary(min_size=32, max_size=32))
def test_ed25519_signature_is_the_one_that_openssl_makes(seed: bytes, digest: bytes) -> None:
    """libsodium signs, and dkimpy verifies with it too; OpenSSL shares no code with either."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    signature = DkimKey("example.com", "s1", private).sign(digest)
    private.public_key().verify(signature, digest)
    assert signature == private.sign(digest)


def test_key_of_rfc_8463_has_the_record_published_there() -> None:
    """The example of appendix A: its private key, and the record that verifies its signatures."""
    (key,) = keys_of({
        "KURIR_DKIM_DOMAIN": "football.example.com",
        "KURIR_DKIM_SELECTOR": "brisbane",
        "KURIR_DKIM_PRIVATE_KEY": "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
    }).keys  # fmt: skip
    assert key.dns_record == "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
