"""Numbers are exact from the request to the message, and printed as given unless a filter is used."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from shared.blasts import Blast, pack_blast, unpack_blast
from shared.jobs import Job, Recipient, pack_job, unpack_job
from shared.numbers import AmbiguousNumberError, NotANumberError, Number, read_number
from shared.rendering import RenderError, compile_template, job_values
from shared.templates import Template, Variable, WhatsAppContent


def rendered(source: str, value: Any) -> str:
    return compile_template(Template("t", "T", ["email"], subject="s", text=source)).render({"a": value}).text


@pytest.mark.parametrize(
    ("text", "value", "printed"),
    [
        ("1915000.00", "1915000.00", "1915000.00"),
        ("12.50", "12.50", "12.50"),
        ("1,915.00", "1915.00", "1,915.00"),
        ("1.915,00", "1915.00", "1.915,00"),
        ("1.915.000", "1915000", "1.915.000"),
        ("1,915,000.5", "1915000.5", "1,915,000.5"),
        ("1 915", "1915", "1 915"),
        ("1\u00a0915\u202f000,5", "1915000.5", "1\u00a0915\u202f000,5"),
        ("1'915.00", "1915.00", "1'915.00"),
        ("Rp 1.915.000", "1915000", "1.915.000"),
        ("Rp1.915.000,50", "1915000.50", "1.915.000,50"),
        ("-Rp. 5", "-5", "-5"),
        ("IDR 2,500,000", "2500000", "2,500,000"),
        ("12,5", "12.5", "12,5"),
        ("0.915", "0.915", "0.915"),
        ("1915.000", "1915.000", "1915.000"),
        ("1.9150", "1.9150", "1.9150"),
        ("007", "7", "007"),
        ("+5", "5", "+5"),
        ("\u22127", "-7", "-7"),
        ("0", "0", "0"),
        ("12345678901234567890123456789", "12345678901234567890123456789", "12345678901234567890123456789"),
    ],
)
def test_an_unambiguous_text_is_its_number(text: str, value: str, printed: str) -> None:
    """Thousands may be grouped in any way; the number is printed as written, without the currency."""
    number = read_number(f" {text} ")
    assert Decimal(number) == Decimal(value)
    assert rendered("{{ a }}", number) == printed


@pytest.mark.parametrize("text", ["1.915", "1,915", "-1.500", "12.000", "999,999", "Rp 1.915"])
def test_a_text_that_could_be_two_numbers_is_refused(text: str) -> None:
    """The error has both readings, each of which is unambiguous."""
    with pytest.raises(AmbiguousNumberError) as raised:
        read_number(text)
    one, other = (Decimal(read_number(reading)) for reading in raised.value.readings)
    assert one == other * 1000


@pytest.mark.parametrize(
    "text",
    ["", "-", "x", "NaN", "Infinity", "1e5", "1.9E+06", "1.915.00", "1,2,3", "5.", "1_000", "15%", "(5)", "$5", "--5",
     "1..5", "١٢", "1.915 000", "0812 2477", "1" * 31, "1" * 100],
)  # fmt: skip
def test_text_that_is_not_a_number_is_refused(text: str) -> None:
    """This includes numbers that a spreadsheet has shortened, since their digits are lost."""
    with pytest.raises(NotANumberError):
        read_number(text)


@pytest.mark.parametrize(
    ("source", "value", "text"),
    [
        ("{{ a }}", Number("1e16"), "1e16"),
        ("{{ a }}", 12345678901234567890123, "12345678901234567890123"),
        ("{{ a | number }}", 12345678901234567, "12.345.678.901.234.567"),
        ("{{ a | number }}", "12345678901234567", "12.345.678.901.234.567"),
        ("{{ a | number(2) }}", Number("12.50"), "12,50"),
        ("{{ a | number }}", Number("2.5"), "3"),
        ("{{ a | number }}", Number("-0.4"), "0"),
        ("{{ a | currency }}", Number("1915000.00"), "Rp 1.915.000"),
        ("{{ a | currency('IDR') }}", Number("1915000.5"), "Rp 1.915.000,50"),
        ("{{ a | currency('USD') }}", Number("12.5"), "$12.50"),
        ("{{ a | currency('USD', 0) }}", -5, "-$5"),
        ("{{ a | currency('EUR', language='de') }}", Number("1915000.50"), "1.915.000,50 €"),
        ("{{ a * 1.11 }}", Number("1915000.00"), "2125650.0000"),
        ("{{ a + 0.2 }}", Number("0.1"), "0.3"),
        ("{{ a - 0.1 }}", 12345678901234567, "12345678901234566.9"),
        ("{{ a / 4 }} {{ a / 5 }} {{ a // 3 }} {{ a % 3 }}", 10, "2.5 2 3 1"),
        ("{{ a // 3 }} {{ a % 3 }}", Number("-10.5"), "-4 1.5"),
        ("{{ a == 12.5 }} {{ a > 12 }} {{ a in [12.50] }}", Number("12.50"), "true true true"),
        ("{{ a | round(2) }} {{ a | round }}", Number("1.005"), "1.01 1"),
        ("{{ a | abs }} {{ -a }}", Number("-3.50"), "3.50 3.50"),
        ("{{ a | int }} {{ a | float }}", Number("3.50"), "3 3.50"),
        ("{{ 'yes' if a else 'no' }}", Number("0.00"), "no"),
        ("{{ a is number }} {{ a is string }} {{ a is odd }}", Number("3.0"), "true false true"),
    ],
)
def test_filters_and_operators_are_exact(source: str, value: Any, text: str) -> None:
    """Rounding is half away from zero, as on invoices."""
    assert rendered(source, value) == text


@pytest.mark.parametrize("source", ["{{ a | number }}", "{{ a | currency }}", "{{ a | int }}", "{{ a | float }}"])
def test_a_filter_refuses_a_text_that_could_be_two_numbers(source: str) -> None:
    """Otherwise it could print 2 for 1.915."""
    with pytest.raises(RenderError, match="two different numbers"):
        rendered(source, "1.915")


@pytest.mark.parametrize("written", ["1915000.00", "12.50", "1e16", "-0.0", "0.1", "98765432109876543210.12345"])
def test_a_number_survives_the_queue(written: str) -> None:
    """In a job, a blast's variables and a default, both its value and its written form survive."""
    template = Template("t", "T", ["email"], text="x", variables=[Variable("c", "number", default=Number(written))])
    blast = Blast("b", template, ["email"], "normal", 0, {"email": 1}, 1, variables={"b": Number(written)})
    job = Job("b", 0, "email", "normal", Recipient("a@example.com", "Ann", {"a": Number(written)}), 0)
    values = job_values(unpack_blast(pack_blast(blast)), unpack_job(pack_job(unpack_job(pack_job(job)))))
    for name in "abc":
        assert isinstance(values[name], Number)
        assert (values[name], values[name].written) == (Decimal(written), written)


@pytest.mark.parametrize("text", ["007", "1.915.000,50", "Rp 1.915.000"])
def test_a_number_with_marks_survives_the_queue(text: str) -> None:
    """Both its value and its written form survive."""
    job = Job("b", 0, "email", "normal", Recipient("a@example.com", "Ann", {"a": read_number(text)}), 0)
    blast = Blast("b", Template("t", "T", ["email"]), ["email"], "normal", 0, {"email": 1}, 1)
    found = job_values(blast, unpack_job(pack_job(job)))["a"]
    assert (found, found.written) == (read_number(text), read_number(text).written)  # type: ignore[union-attr]


@pytest.mark.parametrize("literal", ["1915000.00", "12.50", "1e16", "1250000", "-7.5", "12345678901234567890.5"])
def test_an_invoice_reads_the_same_in_both_channels(literal: str) -> None:
    """The same expressions give the same text in a mail and in a WhatsApp parameter."""
    sources = ["{{ a }}", "{{ a | number(2) }}", "Rp {{ a | number }}", "{{ a | currency('IDR') }}",
               "{{ d | date('%d %B %Y') }}", "{{ a * 1.11 }}",
               "{% if a > 10 %}much{% else %}little{% endif %}"]  # fmt: skip
    content = WhatsAppContent("invoice", "id", body_variables=sources)
    template = Template("t", "T", ["email", "whatsapp"], subject="s", html="|".join(sources), whatsapp=content)
    decoded = msgspec.json.Decoder(dict[str, Any], float_hook=Number).decode(b'{"a":%b}' % literal.encode())
    values = {"d": "2026-05-01", **decoded}
    compiled = compile_template(template)
    body = compiled.components(values)[0]["parameters"]
    assert [one["text"] for one in body] == compiled.render(values).html.split("|")
    assert body[0]["text"] == literal
    assert body[4]["text"] == "01 Mei 2026"


@pytest.mark.parametrize(
    ("language", "whatsapp", "text"),
    [
        ("", "", "Sunday 31 May 2026, May Sun PM"),
        ("id", "", "Minggu 31 Mei 2026, Mei Min PM"),
        ("", "id", "Minggu 31 Mei 2026, Mei Min PM"),
        ("en", "id", "Sunday 31 May 2026, May Sun PM"),
        ("pt-BR", "", "domingo 31 maio 2026, mai. dom. PM"),
        ("de_AT", "", "Sonntag 31 Mai 2026, Mai So. PM"),
        ("", "prs_AF", "Sunday 31 May 2026, May Sun PM"),
    ],
)
def test_names_of_months_and_days_follow_the_templates_language(language: str, whatsapp: str, text: str) -> None:
    """The language is the template's, else its WhatsApp content's, else English."""
    source = "{{ d | date('%A %d %B %Y, %b %a %p') }}"
    content = WhatsAppContent("t", whatsapp) if whatsapp else None
    template = Template("t", "T", ["email"], text=source, whatsapp=content, language=language)
    assert compile_template(template).render({"d": "2026-05-31T13:00:00"}).text == text


def test_a_date_may_name_its_own_language() -> None:
    """This allows mails in two languages; an unknown language is an error."""
    both = "{{ a | date('%d %B', 'id') }} / {{ a | date('%d %B', language='en') }}"
    assert rendered(both, "2026-08-17") == "17 Agustus / 17 August"
    with pytest.raises(RenderError, match="no language 'xx'"):
        rendered("{{ a | date('%d %B', 'xx') }}", "2026-08-17")


@pytest.mark.parametrize("name", ["int", "float"])
def test_text_that_is_not_a_number_does_not_become_zero(name: str) -> None:
    """Without a fallback `5 jt` is refused; an empty value is 0, as in Jinja."""
    for amount in ("5 jt", "USD 12.50", "abc", "#N/A"):
        with pytest.raises(RenderError):
            rendered(f"{{{{ a | {name} }}}}", amount)
        assert rendered(f"{{{{ a | {name}(-1) }}}}", amount) == "-1"
    assert rendered(f"{{{{ a | {name} }}}}", "") == "0"
