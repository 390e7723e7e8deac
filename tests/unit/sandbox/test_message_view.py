"""The names under which attachments are stored."""

from __future__ import annotations

import pytest

from services.sandbox.message_view import file_name
from services.sandbox.mime import Part


def part(filename: str) -> Part:
    return Part(3, "text/html", "utf-8", "", filename, "", True, b"")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("März 2026.pdf", "März 2026.pdf"),
        ("../../.ssh/authorized_keys", "_.._.ssh_authorized_keys"),
        ("C:\\evil.exe", "C__evil.exe"),
        ("photo\u202egpj.exe", "photo_gpj.exe"),
        ('a"\r\nSet-Cookie: x=1', "a___Set-Cookie_ x=1"),
        ("", "part-3"),
        ("...", "part-3"),
        ("x" * 500 + ".pdf", "x" * 108 + ".pdf"),
    ],
)
def test_names_are_made_harmless(given: str, name: str) -> None:
    """No path, no header, no text that turns around; the end of a long name stays."""
    assert file_name(part(given)).text == name


def test_the_disposition_is_an_attachment() -> None:
    """Beyond ASCII the name is given twice (RFC 6266)."""
    found = file_name(part("März.pdf")).disposition
    assert found == "attachment; filename=\"M_rz.pdf\"; filename*=UTF-8''M%C3%A4rz.pdf"
