"""A template compiled once per blast and rendered once per recipient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from threading import Lock
from typing import Any

import msgspec
from cachetools import LRUCache, cached

from shared.numbers import packed_number
from shared.rendering.budget import MAX_OUTPUT_CHARS, MAX_SUBJECT_CHARS
from shared.rendering.computed import all_computed
from shared.rendering.derived import DerivedText, TextPart, WrittenText, derive_text
from shared.rendering.errors import RenderError
from shared.rendering.interpolation import Interpolation
from shared.rendering.languages import DEFAULT, is_language
from shared.rendering.sandbox import HTML, PLAIN, Part
from shared.rendering.whatsapp import Component, WhatsAppParameters
from shared.sealing import hidden_values, sensitive_names
from shared.templates import Template

KEPT_BYTES = 64 * 1024 * 1024
# the memory of a compiled template, measured with tracemalloc: 27 KB for an empty one and 17 bytes per packed byte
_LEAST_BYTES = 27_000
_GROWTH = 17

_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(Template)
# line separators and control characters
_UNFIT_FOR_HEADERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Rendered(msgspec.Struct, frozen=True):
    """The content of one email; parts that the template lacks are empty."""

    subject: str
    html: str
    text: str


class CompiledTemplate:
    """A template ready to render; safe to share between threads.

    `variables` are the names that any part of its mail uses, built-in ones included; `printed` are those that it prints
    without a guard; `computed` are those that must be numbers or dates. `whatsapp` fills the parameters of its WhatsApp
    content, or is None. `size` is the approximate memory in bytes.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        language = template.spoken if is_language(template.spoken) else DEFAULT
        self._subject = Part(template.subject, "subject", PLAIN, language)
        self._hidden = sensitive_names(template) & self._subject.variables
        self._html = Part(template.html, "html", HTML, language) if template.html else None
        self._text = _text_part(template, language)
        self.whatsapp = WhatsAppParameters(template.whatsapp, language) if template.whatsapp is not None else None
        self.variables = frozenset().union(*(part.variables for part in self._parts()))
        self.printed = frozenset().union(*(part.printed for part in self._parts()))
        self.computed = all_computed(part.computed for part in self._parts())
        self.size = _LEAST_BYTES + _GROWTH * len(_encoder.encode(template))

    def _parts(self) -> list[Part]:
        written = [self._text.part] if isinstance(self._text, (WrittenText, DerivedText)) else []
        return [self._subject, *([self._html] if self._html else []), *written]

    @property
    def html_interpolation(self) -> Interpolation | None:
        """The html if it only inserts variables, else None."""
        return self._html.interpolation if self._html else None

    @property
    def text_interpolation(self) -> Interpolation | None:
        """The text if it only inserts variables, else None."""
        return self._text.interpolation if self._text else None

    def render(self, values: Mapping[str, Any]) -> Rendered:
        """Render every part; raises RenderError."""
        html = self.render_html(values)
        text = self._text.render(values, html) if self._text else ""
        return Rendered(self.render_subject(values), html, text)

    def render_subject(self, values: Mapping[str, Any]) -> str:
        """Render the subject as one line for a header; line breaks and control characters become spaces."""
        subject = self._subject.render(values, MAX_OUTPUT_CHARS)
        if not subject.isprintable():
            subject = _UNFIT_FOR_HEADERS.sub(" ", subject)
        subject = subject.strip()
        if len(subject) > MAX_SUBJECT_CHARS:
            raise RenderError(f"the subject is longer than {MAX_SUBJECT_CHARS} characters", part="subject")
        return subject

    def subject_for_log(self, values: Mapping[str, Any], subject: str) -> str:
        """Return a rendered subject for the log, with stars instead of the values of sensitive variables."""
        if not self._hidden:
            return subject
        try:
            return self.render_subject(hidden_values(values, self._hidden))
        except RenderError:  # stars are not a number
            return self.template.subject

    def render_html(self, values: Mapping[str, Any]) -> str:
        """Render the html, "" if the template has no html."""
        return self._html.render(values) if self._html else ""

    def components(self, values: Mapping[str, Any]) -> list[Component]:
        """Return the WhatsApp components with their parameters; raises RenderError."""
        if self.whatsapp is None:
            raise RenderError("the template has no WhatsApp content", part="whatsapp")
        return self.whatsapp.components(values)


def _text_part(template: Template, language: str) -> TextPart | None:
    if template.text:
        return WrittenText(Part(template.text, "text", PLAIN, language))
    return derive_text(template.html, language) if template.html else None


def compile_template(template: Template) -> CompiledTemplate:
    """Compile the parts of a template; raises RenderError with the part and the line.

    A cache keeps the most recently used templates by their content, up to `KEPT_BYTES`: each single message is a blast
    of its own, and compiling takes longer than sending.
    """
    return _compiled(_encoder.encode(template))


@cached(LRUCache(KEPT_BYTES, lambda compiled: min(compiled.size, KEPT_BYTES)), lock=Lock())
def _compiled(packed: bytes) -> CompiledTemplate:
    return CompiledTemplate(_decoder.decode(packed))


def whatsapp_components(template: Template, values: Mapping[str, Any]) -> list[Component]:
    """Return a template's header, body and button components with their parameters; raises RenderError.

    A template without parameters gives an empty list.
    """
    return compile_template(template).components(values)
