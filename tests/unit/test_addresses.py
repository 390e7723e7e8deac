"""The identity of an address: the spellings that belong to one mailbox or number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.addresses import ascii_domain, identity, ways_written

SAME = [
    ("siti@example.com", "Siti@Example.com"),
    ("siti@example.com", "SITI@EXAMPLE.COM"),
    ("siti+news@example.com", "Siti+News@example.com"),
    ("siti@münchen.de", "Siti@xn--mnchen-3ya.de"),
    ("siti@münchen.de", "siti@MÜNCHEN.DE"),
    ("siti@münchen.de", "siti@mu\u0308nchen.de"),
    ("josé@example.com", "JOSE\u0301@example.com"),
    ("siti@faß.de", "siti@xn--fa-hia.de"),
    ("siti@例え.jp", "siti@xn--r8jz45g.JP"),
    ("525512345678", "5215512345678"),
    ("5581987654321", "558187654321"),
]
DIFFERENT = [
    ("siti@example.com", "siti@example.org"),
    ("siti@example.com", "siti.a@example.com"),
    ("siti+news@example.com", "siti@example.com"),
    ("siti@fass.de", "siti@faß.de"),
    ("5491123456789", "541123456789"),  # a mobile and a landline number of Buenos Aires
    ("551132654321", "5511932654321"),  # a landline of São Paulo: only mobile numbers got the 9
    ("521551234567", "52551234567"),  # too short for a number with the old 1
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_spellings_have_one_identity(one: str, other: str) -> None:
    """Case, the form of the domain, composed characters and WhatsApp's old numbers make no difference."""
    assert identity(one) == identity(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_addresses_have_two_identities(one: str, other: str) -> None:
    """Addresses that may belong to different people have different identities."""
    assert identity(one) != identity(other)


@given(st.text(max_size=40))
def test_an_identity_is_its_own_identity(text: str) -> None:
    """The identity of an identity is itself, for any text."""
    assert identity(identity(text)) == identity(text)


def test_a_domain_without_an_ascii_form_is_unchanged() -> None:
    """A label with more than 63 characters cannot be encoded; it is compared in lower case."""
    domain = "É" * 70 + ".example"
    assert ascii_domain(domain) == "é" * 70 + ".example"


@pytest.mark.parametrize(
    ("typed", "held"),
    [
        ("0812-2477", {"08122477", "628122477"}),
        ("+62 (0)812 2477", {"628122477"}),
        ("00 62 812", {"62812"}),
        ("\u200e\u0660\u0668\u0661\u0662", {"0812", "62812"}),
        ("tel:+62-812", {"62812"}),
        ("12.34", {"1234", "12.34"}),
        ("SITI@M\u00dcNCHEN.de", {"siti@m\u00fcnchen.de", "siti@xn--mnchen-3ya.de"}),
        ("siti news@", {"siti+news@"}),
    ],
)
def test_a_search_matches_every_form_of_an_address(typed: str, held: set[str]) -> None:
    """Users type numbers as they dial them and mailboxes as they read them."""
    assert held <= set(ways_written(typed, "ID"))


@pytest.mark.parametrize("typed", ["00", "0", "(0)", "+", "-", "@", "."])
def test_a_search_without_characters_does_not_match_everything(typed: str) -> None:
    """An empty form would match every address, and lifting suppressions by such a filter would lift all of them."""
    assert "" not in ways_written(typed, "ID")
