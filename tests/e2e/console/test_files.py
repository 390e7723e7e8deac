"""Files of recipients as spreadsheets and people write them: what the console shows and sends is what they mean.

The server reads all of them. The console shows a file before it is sent and renames its columns, so it must find the
same header row, columns and rows.
"""

from __future__ import annotations

import base64
import codecs
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser

from tests.e2e.console.browser import WIDE, visiting
from tests.e2e.console.conftest import ADMIN_KEY
from tests.e2e.console.hands import Mouse
from tests.e2e.console.walking import call, wait
from tests.e2e.system import System

CASES = Path(__file__).parents[2] / "integration" / "ingest" / "cases"
HEADER, ROWS = "name;email;code\r\n", "Siti;siti@example.com;007\r\nBudi;budi@example.com;008\r\n"
HEAD = b'{"templateId":"otp","channels":["email"],"reference":"from the file"}\n'
LINES = (
    b'{"email":"siti@example.com","variables":{"code":"007"}}\n{"email":"budi@example.com","variables":{"code":"008"}}'
)


class Written(NamedTuple):
    """A file, the columns that its header names, and how many recipients can be sent to."""

    name: str
    content: bytes
    columns: list[str]
    recipients: int = 2


def _case(name: str, columns: list[str], recipients: int = 2) -> Written:
    return Written(name, (CASES / name).read_bytes(), columns, recipients)


THREE = ["name", "email", "code"]
FILES = [
    _case("04-sep-hint-tab.csv", THREE),
    _case("10-mac-cr.csv", THREE),
    _case("11-blank-first-line.csv", THREE),
    _case("12-trailing-empty-column.csv", THREE, 1),
    _case("13-short-rows.csv", [*THREE, "city", "note"], 3),
    _case("18-header-variants.csv", ["Name", "E-mail", "Code"], 1),
    _case("31-case-dup.csv", THREE, 1),
    _case("39-optional-header-case.csv", [*THREE, "Minutes"], 1),
    Written("utf-8-mark.csv", codecs.BOM_UTF8 + (HEADER + ROWS).encode(), THREE),
    Written("utf-16-le.csv", codecs.BOM_UTF16_LE + (HEADER + ROWS).encode("utf-16-le"), THREE),
    Written("utf-16-be.csv", codecs.BOM_UTF16_BE + (HEADER + ROWS).encode("utf-16-be"), THREE),
    Written("utf-16-no-mark.csv", (HEADER + ROWS).encode("utf-16-le"), THREE),
    Written("hint-as-a-row.csv", b'"sep=;";;\r\n\r\n' + (HEADER + ROWS).encode(), THREE),
    Written("bars.csv", (HEADER + ROWS).replace(";", "|").encode(), THREE),
    Written("spaces.csv", b'name, email, code\n"A, b", "siti@example.com", 007\nBudi, budi@example.com, 008\n', THREE),
    Written("texts.csv", (HEADER + ROWS).replace("007", '="007"').encode(), THREE),
    Written("empty-rows.csv", (HEADER + ";;\r\n" + ROWS + ' ; ;\r\n"";"";\r\n\x1a').encode(), THREE),
    Written("two-same.csv", b"name,email,code,n,n,,\nSiti,siti@example.com,007,,x,y\n", [*THREE, "n", "n", ""], 1),
    Written("header-in-lines.csv", b'name,email,code,"a\nnote"\nSiti,siti@example.com,007,\n', [*THREE, "a note"], 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def page(browser: Browser, url: str) -> Any:
    """The page on which files are chosen."""
    with visiting(browser, url, WIDE, ADMIN_KEY) as visit:
        yield visit.page


def _choose(page: Any, url: str, name: str, content: bytes) -> Mouse:
    page.goto(f"{url}/console/send")
    hand = Mouse(page)
    hand.put_file("A CSV or NDJSON file", {"name": name, "mimeType": "text/plain", "buffer": content})
    page.wait_for_selector(f"text={name}")
    return hand


# as the page does it: read the file, give each column a name that the template knows, and let the server check it
_READ = """async ([module, content, names]) => {
  const { plainName, readCsv, withHeader } = await import(module);
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const opened = readCsv(new Blob([bytes]), bytes, true);
  const known = opened.columns.map((one, place) => {
    const name = plainName(one);
    return names.includes(name) ? name : `left out: ${place + 1}`;
  });
  const query = "templateId=otp&channels=email&validation=permissive&dryRun=true";
  const answer = await fetch(`/api/messages/blast?${query}`, {
    method: "POST", headers: { "Content-Type": "text/csv" }, body: await withHeader(opened, known),
  });
  return { columns: opened.columns, rows: opened.rows, answer: await answer.json() };
}"""


@pytest.mark.parametrize("written", FILES, ids=lambda written: written.name)
def test_a_file_is_read_as_it_is_meant(page: Any, url: str, written: Written) -> None:
    """Its columns have the names of its header, its rows are found, and the server finds the same without a mistake."""
    if not page.url.endswith("/send"):
        page.goto(f"{url}/console/send")
    module = page.locator("link[href$='core/csv.js']").get_attribute("href")
    content = base64.b64encode(written.content).decode()
    found = page.evaluate(_READ, [module, content, ["name", "email", "code", "minutes"]])
    answer = found["answer"]
    assert found["columns"] == written.columns
    assert answer.get("errors", []) == []
    assert answer["totalRecipients"] == written.recipients
    assert answer["totalRecipients"] + answer.get("duplicates", 0) == len(found["rows"])
    place = [one.lower() for one in written.columns].index("code")
    assert found["rows"][0][place] in {"007", "1"}


def test_a_spreadsheets_file_is_shown_and_checked(page: Any, url: str) -> None:
    """UTF-16, a line for spreadsheets and columns without a name: the page shows what a person sees in the file."""
    text = "sep=\t\r\n\r\nname\temail\tcode\t\t\r\nSiti\tsiti@example.com\t007\t\t\r\nBudi\tbudi@example.com\t008\r\n"
    hand = _choose(page, url, "sheet.txt", text.encode("utf-16"))
    hand.choose("Template", "One-time password")
    page.wait_for_selector("text=3. Columns")
    hand.toggle("WhatsApp")
    assert page.locator("tbody tr:has(select) th").all_inner_texts() == THREE
    page.frame_locator("iframe.mail").get_by_text("007").first.wait_for()
    hand.press("Check all rows")
    page.wait_for_selector("text=2 recipients can be sent to")


@pytest.mark.parametrize("before", [codecs.BOM_UTF8, b"\n\n"], ids=["mark", "blank lines"])
@pytest.mark.parametrize("head", [HEAD, b""], ids=["head", "no head"])
def test_lines_are_sent_whatever_precedes_them(page: Any, url: str, before: bytes, head: bytes) -> None:
    """A byte order mark or blank lines change nothing; what the first line says is the page's, too."""
    hand = _choose(page, url, "lines.ndjson", before + head + LINES)
    hand.choose("Template", "One-time password")
    page.wait_for_selector("text=4. Check")
    if head:
        assert page.get_by_label("Reference").input_value() == "from the file"
        assert not page.get_by_label("WhatsApp").is_checked()
    else:
        hand.toggle("WhatsApp")
    hand.press("Check all rows")
    page.wait_for_selector("text=2 recipients can be sent to")


def test_a_head_is_kept_unless_the_page_changes_it(page: Any, url: str, system: System) -> None:
    """The reference, time, priority and global values of a first line are shown, and sent if nobody changes them."""
    head = HEAD.replace(b"from the file", b"kept head").replace(
        b"}\n", b',"scheduledAt":"2100-01-02T03:04:00Z","priority":2,"metadata":{"team":"a"}}\n'
    )
    hand = _choose(page, url, "head.ndjson", head + LINES)
    page.wait_for_selector("text=4. Check")
    assert page.get_by_label("Send at").input_value() == "2100-01-02T03:04"
    hand.fill("Send at", "")
    hand.press("Check all rows")
    hand.press("Send to 2")
    page.wait_for_selector("h1:has-text('kept head')")
    blast = page.url.rpartition("/")[2].partition("?")[0]
    wait(lambda: call(system, f"/api/blasts/{blast}")["blast"]["counts"]["sent"] == 2)
    found = call(system, f"/api/blasts/{blast}")["blast"]
    assert found.get("scheduledAt") is None
    assert (found["reference"], found["metadata"]) == ("kept head", {"team": "a"})


def test_a_mistake_is_reported_with_its_line_in_the_file(page: Any, url: str) -> None:
    """Lines before the header and within it count, although the page sends another header."""
    content = b'sep=,\n\nname,email,"co\nde"\nSiti,siti@example.com,007\nB\xfcdi,budi@example.com,008\n'
    hand = _choose(page, url, "latin.csv", content)
    hand.choose("Template", "One-time password")
    page.wait_for_selector("text=3. Columns")
    hand.press("Check all rows")
    page.wait_for_selector("text=line 6 is not UTF-8")
