"""The plain text of an html document, for readers who prefer it and for spam filters that expect it.

Links keep their address, images their description, lists their marks, and an empty line separates paragraphs. Styles,
scripts and hidden content are left out. One pass, in time linear in the input.

The space between two words is decided only once both are known; until then it is a run of *gaps*, private-use
characters. Marks stand for a template's statements (see `derived`), and gaps next to them remain, so that the rendered
and settled text of a template equals the text of its rendered html.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

# what `tidy` removes around a text
ENDS = "\n \t"
SPACE, LINE, PARAGRAPH, BREAK = "\ue010", "\ue011", "\ue012", "\ue013"
STATEMENT = re.compile("\ue002[0-9]+\ue003")
# whole runs, with or without a gap: a pattern that requires a gap would take quadratic time
_RUNS = re.compile(f"[\n {SPACE}-{BREAK}]++")
_GAP = re.compile(f"[{SPACE}-{BREAK}]")

_DROPPED = frozenset({"head", "style", "script", "title", "template", "noscript", "svg", "math", "object"})
_VOID = frozenset({"br", "hr", "img", "input", "meta", "link", "area", "base", "col", "embed", "source", "wbr"})
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre"})
_LINES = frozenset(
    {"div", "tr", "li", "dt", "dd", "section", "article", "header", "footer", "main", "nav", "aside", "form"}
    | {"address", "figure", "figcaption", "fieldset", "tbody", "thead", "tfoot", "caption", "center", "body", "html"}
)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|mso-hide\s*:\s*all", re.IGNORECASE)
_RULE = "-" * 20
_MAX_NESTED_LISTS = 10
_MARKUP_START = re.compile(r"<(?=[!?])")
_SPACES_BEFORE_BREAK = re.compile(r"(?<=\S)[ \t]+(?=\n)")
_SPACES_ONLY = re.compile(r"(?<=\n)[ \t]+(?=\n)")
_SPACE_RUN = re.compile(r"(?<=\S) {2,}(?=\S)")
_UNTIDY = re.compile("[ \t]\n|\n\n\n|  ")
_BREAK_RUN = re.compile(r"\n{3,}")

Attributes = list[tuple[str, str | None]]


def html_to_text(html: str) -> str:
    """Return an html document as plain text that ends with one line break ("" if it has no text)."""
    return tidy(Reader.read(html).text())


def settle(text: str) -> str:
    """Replace the remaining gaps by spaces and line breaks."""
    return _RUNS.sub(lambda run: _settled(run[0]) if _GAP.search(run[0]) else run[0], text)


def tidy(text: str) -> str:
    """Remove superfluous spaces and empty lines, which empty values leave behind."""
    if " \n" in text or "\t\n" in text:
        text = _SPACES_ONLY.sub("", _SPACES_BEFORE_BREAK.sub("", text))
    if "\n\n\n" in text:
        text = _BREAK_RUN.sub("\n\n", text)
    if "  " in text:
        text = _SPACE_RUN.sub(" ", text)
    text = text.strip(ENDS)
    return f"{text}\n" if text else ""


def is_neat(text: str) -> bool:
    """Return whether all that `tidy` does to a text is to trim it."""
    inner = text.strip(ENDS)
    return inner != "" and _UNTIDY.search(inner) is None


def is_neat_word(text: str) -> bool:
    """Return whether a neat text stays neat if this replaces one of its words; also False for some that could."""
    return text.strip() == text != "" and "\n" not in text and "  " not in text


def trimmed(text: str) -> str:
    """Return a text that is not blank without empty lines around it, ended by one line break."""
    return f"{text.strip(ENDS)}\n"


def _settled(gaps: str) -> str:
    breaks = 0
    for gap in gaps:
        if gap in {BREAK, "\n"}:
            breaks += 1
        elif gap in {LINE, PARAGRAPH}:
            breaks = max(breaks, 1 if gap == LINE else 2)
    return "\n" * min(breaks, 2) or " "


def without_comments(html: str) -> str:
    """Remove comments, declarations and processing instructions; an unclosed one extends to the end.

    `html.parser` searches for the end of each one separately, which a hostile document can make quadratic.
    """
    kept, position = [], 0
    while (start := _MARKUP_START.search(html, position)) is not None:
        kept.append(html[position : start.start()])
        comment = html.startswith("<!--", start.start())
        # browsers treat "<!-->" and "<!--->" as complete comments
        end = html.find("-->" if comment else ">", start.start() + (2 if comment else 1))
        if end < 0:
            return "".join(kept)
        position = end + (3 if comment else 1)
    kept.append(html[position:])
    return "".join(kept)


class Reader(HTMLParser):
    """Collects the text of a document; `faithful` becomes False if the effect of a statement cannot be determined."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.faithful = True
        self._out: list[str] = []
        self._owed = ""
        self._line_empty = True
        self._beside_statement = False
        self._dropping: list[str] = []
        self._preformatted = 0
        self._lists: list[int] = []
        self._link: tuple[str, int] | None = None

    @classmethod
    def read(cls, html: str) -> Reader:
        """Read a whole document."""
        reader = cls()
        reader.feed(without_comments(html))
        reader.close()
        reader._close_link()
        return reader

    def text(self) -> str:
        """Return the text, with gaps only next to statements."""
        return "".join(self._out)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        """Handle a start tag."""
        if any(value and STATEMENT.search(value) for _name, value in attrs):
            self.faithful = False
        if self._dropping:
            if tag == self._dropping[0]:
                self._dropping.append(tag)
        elif tag not in _VOID and (tag in _DROPPED or _is_hidden(attrs)):
            self._dropping.append(tag)
        else:
            self._block(tag)
            self._open(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        """Handle `<tag/>`: html ignores the slash except on void elements; for svg and the like it closes the tag."""
        self.handle_starttag(tag, attrs)
        if tag in _DROPPED:
            self.handle_endtag(tag)

    def _open(self, tag: str, attrs: dict[str, str | None]) -> None:
        match tag:
            case "br":
                self._owed += BREAK
            case "hr":
                self._owed += LINE
                self._emit(_RULE)
                self._owed += LINE
            case "img":
                self._flow(attrs.get("alt") or "")
            case "a":
                self._close_link()
                self._link = (attrs.get("href") or "", len(self._out))
            case "ul" | "ol":
                self._lists.append(0 if tag == "ol" else -1)
            case "li":
                self._mark_item()
            case "td" | "th":
                self._owed += SPACE
            case "pre":
                self._preformatted += 1

    def handle_endtag(self, tag: str) -> None:
        """Handle an end tag."""
        if self._dropping:
            if tag == self._dropping[0]:
                self._dropping.pop()
            return
        if tag == "a":
            self._close_link()
        elif tag == "pre" and self._preformatted:
            self._preformatted -= 1
        elif tag in {"ul", "ol"} and self._lists:
            self._lists.pop()
        self._block(tag)

    def handle_data(self, data: str) -> None:
        """Handle text."""
        if self._dropping:
            return
        position = 0
        for mark in STATEMENT.finditer(data):
            self._take(data[position : mark.start()])
            self._statement(mark[0])
            position = mark.end()
        self._take(data[position:])

    def _take(self, data: str) -> None:
        if self._preformatted and data:
            self._emit(data)
        else:
            self._flow(data)

    def _statement(self, mark: str) -> None:
        self._out.append(self._owed + mark)
        self._owed = ""
        self._beside_statement = True

    def _flow(self, data: str) -> None:
        words = data.split()
        if data and (not words or data[0].isspace()):
            self._owed += SPACE
        if words:
            self._emit(" ".join(words))
            self._owed = SPACE if data[-1].isspace() else ""

    def _emit(self, text: str) -> None:
        if self._beside_statement:
            self._out.append(self._owed)
        elif self._owed:
            gap = _settled(self._owed)
            if gap != " " or not self._line_empty:
                self._out.append(gap)
        self._out.append(text)
        self._owed, self._line_empty, self._beside_statement = "", False, False

    def _block(self, tag: str) -> None:
        # a nested list has no empty line around it
        nested = tag in {"ul", "ol"} and bool(self._lists)
        if tag in _PARAGRAPHS and not nested:
            self._owed += PARAGRAPH
        elif tag in _LINES or nested:
            self._owed += LINE

    def _mark_item(self) -> None:
        mark = "- "
        if self._lists and self._lists[-1] >= 0:
            self._lists[-1] += 1
            mark = f"{self._lists[-1]}. "
        self._emit("  " * min(max(len(self._lists) - 1, 0), _MAX_NESTED_LISTS) + mark)
        self._line_empty = True

    def _close_link(self) -> None:
        if self._link is None:
            return
        (href, start), self._link = self._link, None
        href = href.strip()
        label = "".join(self._out[start:])
        if STATEMENT.search(label):
            self.faithful = False
        label = label.strip()
        if not href or href.startswith(("#", "javascript:")) or href in {label, f"mailto:{label}", f"tel:{label}"}:
            return
        owed, self._owed = self._owed, self._owed if not label else SPACE
        self._emit(f"({href})" if label else href)
        self._owed = owed if label else ""


def _is_hidden(attrs: Attributes) -> bool:
    return any(name == "hidden" or (name == "style" and _HIDDEN.search(value or "")) for name, value in attrs)
