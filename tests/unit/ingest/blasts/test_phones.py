"""Phone texts: one number in any usual form, or the reason for its refusal; no digit is added or dropped."""

from __future__ import annotations

import time

import pytest

from services.ingest.blasts.addresses import normal_phone
from services.ingest.blasts.phone_text import DECIMAL, EXTENSION, LETTERS, NOTE, SHAPE, TWO_NUMBERS
from shared.addresses import AddressError

ONE_NUMBER = [
    "081224772000",
    "0812 2477 2000",
    "0812-2477-2000",
    "0812.2477.2000",
    "0812/24772000",
    "0812 / 2477 2000",
    "(0812) 2477-2000",
    "(0812 2477 2000)",
    "812 2477 2000",
    "6281224772000",
    "62-812-2477-2000",
    "+62 812 2477 2000",
    "+62 (812) 2477 2000",
    "+62 (0)812 2477 2000",
    "+62 (0) 812/24772000",
    "62 (0)812 2477 2000",
    "(+62) 812-2477-2000",
    "00 62 812 2477 2000",
    "0062 (0)812 2477 2000",
    "+62 0812 2477 2000",
    "tel:+62-812-2477-2000",
    "TEL: 0812 2477 2000",
    "'081224772000",
    "\u2019081224772000",
    '"081224772000"',
    '="081224772000"',
    "0812\u20132477\u20132000",
    "0812\u00a02477\u202f2000",
    "0812\u00ad2477\u00ad2000",
    "\u200e+62 812\u200b 2477 2000\u202c",
    "\u0660\u0668\u0661\u0662 \u0662\u0664\u0667\u0667 \u0662\u0660\u0660\u0660",
    "\uff10\uff18\uff11\uff12\uff0d\uff12\uff14\uff17\uff17\uff0d\uff12\uff10\uff10\uff10",
    "\uff0b\uff16\uff12\uff08\uff18\uff11\uff12\uff0924772000",
    "\t0812 2477 2000\n",
]
CAUSES = {
    DECIMAL: [
        "6281224770000.0", "6281224770000.00", "6281224770000.", "+6281224770000.0", "6281224770000,0",
        "81224770000.5", "6,28E+12", "6.28122E+12", "6.28122477e12", "6E12", "6,281,224,770,000",
        "6.281.224.770.000,00", "6 281 224 770 000,0", "6 281 224 770 000.0", "6'281'224'770'000,0", "-6.28E+12",
        "6.28122477", "62812.24770", "628122.4770000", "812.24772000",
        "628122477.2000", "0812-2477-100.00", "(0812) 2477 100.0", "0812 2477 2000.",
        "\u0666\u0662\u0668\u0661\u0662\u0662\u0664\u0667\u0667\u0660\u0660.\u0660",
    ],
    TWO_NUMBERS: [
        "0812 2477 100/1", "0812 2477 100/101", "0812 2477 100 / 0812 2477 101", "081224771000/081224771001",
        "081224771000;081224771001", "081224771000 ; 081224771001", "081224771000, 081224771001",
        "081224771000 or 081224771001", "081224771000 atau 081224771001", "081224771000 & 081224771001",
        "081224771000 o 081224771001",
        "081224771000|081224771001", "081224771000\n081224771001", "+6281224771000 +6281224771001",
        "021 5551234/5551235", "021-5551234/35", "021 5551/5552", "0711/123/456", "0812 2477 100/",
        "887559/887510", "887559 / 887510", "(887559)/887510", "88755/8875",
    ],
    EXTENSION: [
        "021 5551234 ext 5", "021 5551234 ext. 12", "021 5551234 x5", "021-5551234x5", "021 5551234 #5",
        "tel:+62-21-5551234;ext=5", "021 5551234 extension 5", "021 5551234 EXT:5",
    ],
    NOTE: ["0812 2477 2000 (2)", "0812 2477 2000 (02)", "0812 2477 2000 ()", "0812 2477 2000 (", "1) 0812 2477 2000"],
    LETTERS: [
        "0812 2477 2000 (WA)", "WA 0812 2477 2000", "0812 2477 2000 (lama)", "0800 FLOWERS", "0812 2477 200O",
        "hp: 0812 2477 2000", "08122477o000", "0812 2477y000", "none", "NaN", "#N/A", "6281224772000@c.us", "https://wa.me/6281224772000",
    ],
    SHAPE: ["-", "+", "()", "-081224772000", "0812 2477 2000 -", "++62 812 2477 2000", "\u200b"],
    "This contains '\u00b2'.": ["0812 2477 2000\u00b2"],
    "This contains '\u2461'.": ["0812 2477 2000 \u2461"],
    "This contains '*'.": ["0812****2000", "*123*1#"],
    "This contains ','.": ["0812 2477 2000,"],
    "without '2' it is valid.": ["0812 2477 2000 2", "0812-2477-2000-2", "+62 812 2477 2000 2"],
    "without '101' it is valid.": ["0812 2477 100-101", "0812 2477 2000 101"],
    "This begins with the country code 62, but has too few digits for a mobile number.": [
        "62812247", "628122477", "62 812 2477", "62-8122-477", "62 (0)812 247", "6285141777",
    ],
    "This has 1 digit,": ["7"],
    "This has 4 digits,": ["0812"],
    "This has 24 digits,": ["0812 2477 2000 0812 2477 2001", "081224772000 - 081224772001"],
    "This is longer than 64 characters.": ["1" * 70, "0812" + " " * 70 + "24772000"],
    "This is not a valid phone number.": ["+999123456789", "+0812 2477 2000", "0999 99999999"],
}  # fmt: skip


@pytest.mark.parametrize("text", ONE_NUMBER)
def test_one_number_is_read_in_any_usual_notation(text: str) -> None:
    """All forms give the same number; invisible marks are ignored, and digits of every script are accepted."""
    assert normal_phone(text, "ID") == "6281224772000"


@pytest.mark.parametrize(("cause", "text"), [(cause, text) for cause, texts in CAUSES.items() for text in texts])
def test_text_that_is_not_one_number_is_refused_with_its_cause(cause: str, text: str) -> None:
    """No part of the text is dropped to make it a number, and the message says what to change."""
    with pytest.raises(AddressError) as refused:
        normal_phone(text, "ID")
    assert cause in str(refused.value)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("5215512345678", "5215512345678"),
        ("+52 1 55 1234 5678", "5215512345678"),
        ("+52 55 1234 5678", "525512345678"),
        ("558187654321", "558187654321"),
        ("+55 81 8765-4321", "558187654321"),
        ("+55 (81) 98765-4321", "5581987654321"),
        ("5491123456789", "5491123456789"),
        ("+54 9 11 2345-6789", "5491123456789"),
    ],
)
def test_whatsapps_spellings_of_numbers_are_accepted(text: str, digits: str) -> None:
    """Mexico's retired 1, Brazil's missing ninth digit and Argentina's 9 are sent as written."""
    for region in ("ID", "MX", "BR", "AR"):
        assert normal_phone(text, region) == digits


@pytest.mark.parametrize(
    ("text", "region", "digits"),
    [
        ("0711/1234567", "DE", "497111234567"),
        ("711/1234567", "DE", "497111234567"),
        ("(0711) / 1234567", "DE", "497111234567"),
        ("04921/12345", "DE", "49492112345"),
        ("+49 (0)711/123 45-67", "ID", "497111234567"),
        ("06 12 34 56 78", "FR", "33612345678"),
        ("06.12.34.56.78", "FR", "33612345678"),
        ("(212) 555-0123", "US", "12125550123"),
        ("1-212-555-0123", "US", "12125550123"),
        ("8 (912) 345-67-89", "RU", "79123456789"),
        ("+39 06 1234 5678", "ID", "390612345678"),
        ("+39 (0)6 1234 5678", "ID", "390612345678"),
        ("011 15-2345-6789", "AR", "5491123456789"),
        ("011 62 812 2477 2000", "US", "6281224772000"),
        ("6.281.224.770.000", "ID", "6281224770000"),
    ],
)
def test_national_notations_of_numbers_are_read(text: str, region: str, digits: str) -> None:
    """Trunk prefixes, slashes after area codes, pairs of digits and significant leading zeros are accepted."""
    assert normal_phone(text, region) == digits


@pytest.mark.parametrize(
    ("text", "region", "digits"),
    [
        ("0628 12247", "ID", "6262812247"),
        ("+62 628 12247", "ID", "6262812247"),
        ("622 435123", "ID", "62622435123"),
        ("491 1234567", "DE", "494911234567"),
        ("(55) 3221-1234", "BR", "555532211234"),
        ("6581 2345", "SG", "6565812345"),
        ("391 234 5678", "IT", "393912345678"),
        ("91234 56789", "IN", "919123456789"),
    ],
)
def test_national_numbers_that_begin_like_a_country_code_are_read(text: str, region: str, digits: str) -> None:
    """Only the beginning of a mobile number behind the region's own code is refused."""
    assert normal_phone(text, region) == digits


@pytest.mark.parametrize(("text", "region"), [("628122477", "ID"), ("491511234567", "DE"), ("336123456", "FR")])
def test_a_mobile_number_that_is_cut_off_reaches_nobody(text: str, region: str) -> None:
    """Without its last digits it would be a landline of another town, whose trunk prefix is missing."""
    with pytest.raises(AddressError, match="too few digits for a mobile number"):
        normal_phone(text, region)


@pytest.mark.cost
@pytest.mark.parametrize(
    "unit", ["0", " ", "1 ", "(", "()", "1(", "/", "1/", "+", ".", "1,", "1'", "x", "ext", "-", "e1"]
)
def test_a_long_text_is_read_in_linear_time(unit: str) -> None:
    """No text of the maximum length makes the grammar backtrack."""
    began = time.process_time()
    for text in (unit * (64 // len(unit)), "1" + unit * (62 // len(unit)) + "y"):
        with pytest.raises(AddressError):
            normal_phone(text, "ID")
    assert time.process_time() - began < 0.05
