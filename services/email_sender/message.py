"""Turns a blast into messages: compiles a MIME frame once per blast and fills it in once per recipient.

Everything that all recipients share (sender, reply address, attachments, part headers, boundaries, templates) is
prepared before the first message; each recipient costs only the rendering of its texts and one join. Boundaries are
random per blast and made after its content is fixed, so no content can contain them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec
from cachetools import LRUCache

from services.email_sender.attached import AttachedFiles
from services.email_sender.envelope import Envelope
from services.email_sender.mime import PlainLines, clean, mailbox, text_part, unstructured
from services.email_sender.ready_part import Filled, ReadyParts, ready_part
from services.email_sender.settings import MailSettings
from services.email_sender.signers import PendingMessage
from services.email_sender.signing import Covered, covered, relaxed
from shared.addresses import AddressError
from shared.blasts import Blast
from shared.errors import PermanentError, StopBlastError
from shared.jobs import Job
from shared.mailboxes import parse_mailbox, smtp_address
from shared.receipts import RETURN_PREFIX, make_return_token
from shared.rendering import BlastValues, CompiledTemplate, RenderError, compile_template
from shared.sending.provider import RenderedMessage
from shared.unsubscribe import make_token

MOST_FRAME_BYTES = 64 * 1024 * 1024
_NO_ATOM = re.compile(r"[^A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+")
_NO_LABEL = re.compile(r"[^A-Za-z0-9]+")
_LONGEST_LABEL = 63
_TEXT = b'Content-Type: text/plain; charset="utf-8"'
_HTML = b'Content-Type: text/html; charset="utf-8"'
_OWN = b"To: %b\r\nSubject: %b\r\nDate: %b\r\nMessage-ID: <%b>\r\n"
_END_OF_HEADERS = b"MIME-Version: 1.0\r\n"
# headers of each message, as a signature lists them
_OWN_NAMES = (b"message-id", b"date", b"subject", b"to", b"from")
_UNSUBSCRIBE_NAMES = (b"list-unsubscribe-post", b"list-unsubscribe")
_UNSUBSCRIBE = b"List-Unsubscribe: %b\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
_COVERED_UNSUBSCRIBE = b"list-unsubscribe-post:List-Unsubscribe=One-Click\r\nlist-unsubscribe:%b\r\n"


class _OwnHeaders(msgspec.Struct, frozen=True):
    """The headers' values that differ between the messages of a blast; `unsubscribe` is b"" for a blast without it."""

    to: bytes
    subject: bytes
    date: bytes
    message_id: bytes
    unsubscribe: bytes


class Body(msgspec.Struct, frozen=True):
    """The parts of one message: texts, whose encoding depends on the server, or parts that no server needs encoded.

    `plain_texts` is whether the lines of these are known to be plain (`PlainLines`).
    """

    text: str | bytes
    html: str | bytes | None
    attached: AttachedFiles
    own: AttachedFiles | None
    boundary: str
    plain_texts: bool

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        own = self.own.size if self.own is not None else 0
        return len(self.text) + len(self.html or "") + self.attached.size + own

    @property
    def plain(self) -> bool:
        """Whether all of its lines are plain, as far as that is known; asked once it is encoded."""
        return self.plain_texts and self.attached.plain and (self.own is None or self.own.plain)

    def encode(self, *, eight_bit: bool) -> bytes:
        """Return the content type and body of the whole message."""
        marks = _marks(self.boundary)
        inline, files, invitation = self.attached.encoded()
        if self.own is not None:
            own_inline, own_files, own_invitation = self.own.encoded()
            inline, files, invitation = inline + own_inline, files + own_files, invitation or own_invitation
        text, html = self.text, self.html
        versions = [text if isinstance(text, bytes) else text_part(_TEXT, text, eight_bit=eight_bit)]
        if html is not None:
            html = html if isinstance(html, bytes) else text_part(_HTML, html, eight_bit=eight_bit)
            mark = marks.plain
            versions.append(_RELATED % (mark, mark, html, inline, mark) if inline else html)
        if invitation:
            versions.append(invitation)
        content = versions[0] if len(versions) == 1 else marks.alternative(versions)
        if not files:
            return content
        mark = b"m" + marks.plain
        return b"%b--%b\r\n%b%b\r\n--%b--\r\n" % (_MIXED % marks.plain, mark, content, files, mark)


class ReadyBody(msgspec.Struct, frozen=True):
    """A body without files whose parts no server needs encoded; asked as a `Body` is."""

    content: bytes
    size: int
    plain: bool

    def encode(self, *, eight_bit: bool) -> bytes:
        """Return the content type and body of the whole message."""
        del eight_bit
        return self.content


class _Marks:
    """The lines of a boundary, encoded once per blast."""

    def __init__(self, boundary: str) -> None:
        self.plain = boundary.encode("ascii")
        self.start = b"%b--%b\r\n" % (_ALTERNATIVE % self.plain, self.plain)
        self.between = b"\r\n--%b\r\n" % self.plain
        self.end = b"\r\n--%b--\r\n" % self.plain

    def alternative(self, versions: list[bytes]) -> bytes:
        """Return the alternatives of one content, the plainest first (RFC 2046, 5.1.4)."""
        return b"".join((self.start, self.between.join(versions), self.end))


_marks = lru_cache(64)(_Marks)
# single messages, each a blast of its own, mostly have the same
_covered_again = lru_cache(64)(covered)
_ALTERNATIVE = b'Content-Type: multipart/alternative; boundary="%b"\r\n\r\n'
_RELATED = b'Content-Type: multipart/related; boundary="r%b"; type="text/html"\r\n\r\n--r%b\r\n%b%b\r\n--r%b--\r\n'
_MIXED = b'Content-Type: multipart/mixed; boundary="m%b"\r\n\r\n'


class Mail(RenderedMessage, frozen=True):
    """One message, ready to be encoded for a server; its `own` headers are among those of its `head`."""

    message_id: str
    envelope: Envelope
    head: bytes
    own: _OwnHeaders
    body: Body | ReadyBody
    from_domain: str
    frame: Frame
    # the whole message, being signed before its turn; None if that was not started
    signed: PendingMessage | None = None

    def encode(self, *, eight_bit: bool) -> bytes:
        """Return the whole message in CRLF lines, dots not stuffed; `eight_bit` if the server offers 8BITMIME."""
        content = self.head + self.body.encode(eight_bit=eight_bit)
        return PlainLines(content) if self.body.plain else content


class Frame:
    """The frame of a blast's messages; raises PermanentError or StopBlastError if the blast cannot become mail."""

    def __init__(self, blast: Blast, mail: MailSettings) -> None:
        self.blast_id = blast.blast_id
        self._blast = blast
        self._mail = mail
        self._template = _compiled(blast)
        self._values = BlastValues(blast)
        self._marketing = blast.template.category == "marketing"
        if self._marketing and (problem := mail.marketing_problem):
            raise StopBlastError(f"marketing mail needs an unsubscribe link: KURIR_PUBLIC_URL: {problem}", code="link")
        self._links = self._marketing or "unsubscribe_url" in self._template.variables
        try:
            sender = parse_mailbox(blast.from_address) if blast.from_address else mail.sender
            reply_to = parse_mailbox(blast.reply_to) if blast.reply_to else None
        except AddressError as error:
            raise PermanentError(f"from or reply address: {error}", code="address") from error
        self._sender = mail.return_path or sender.smtp_address
        self._utf8 = not sender.smtp_address.isascii() or (reply_to is not None and not reply_to.smtp_address.isascii())
        self.domain = sender.domain
        self._id = _NO_ATOM.sub("-", blast.blast_id)
        # then the ids of its jobs are clean too
        self._has_clean_id = clean(blast.blast_id) == blast.blast_id
        from_line = b"From: %b\r\n" % mailbox(sender.name, sender.smtp_address, 6)
        reply = b"Reply-To: %b\r\n" % mailbox(reply_to.name, reply_to.smtp_address, 10) if reply_to else b""
        self._boundary = f"=_{secrets.token_hex(16)}"
        self._ready = self._ready_parts()
        self._attached = AttachedFiles(blast.attachments, self._boundary, html=bool(blast.template.html))
        # about how large its messages are, in bytes, without files of their own
        self.expected_size = self._attached.size + len(blast.template.html) + len(blast.template.text)
        names = (b"X-Kurir-Job", b"X-PM-Metadata-kurir-job") if mail.with_metadata else (b"X-Kurir-Job",)
        job_headers = b"".join(b"%b: %%b\r\n" % name for name in names) + _END_OF_HEADERS
        self._job_places = len(names)
        to = quote(mail.unsubscribe_to, safe="@+")
        self._by_mail = f",\r\n <mailto:{to}?subject=unsubscribe%20" if to else ""
        about_list = list_headers(blast, self.domain) if self._marketing else b""
        fixed = [line.replace(b"%", b"%%") for line in (from_line, reply, about_list)]
        # the headers, with places for those that differ between messages
        self._head = b"".join((fixed[0], _OWN, fixed[1], b"%b", fixed[2], job_headers))
        last, reply_to_line = _covered_again(about_list + job_headers), _covered_again(reply)
        unsubscribe = _UNSUBSCRIBE_NAMES if self._marketing else ()
        self._covered_names = (*last.names, *unsubscribe, *reply_to_line.names, *_OWN_NAMES)
        self._covered_last, self._covered_first = last.lines, reply_to_line.lines
        self._covered_from = _covered_again(from_line).lines

    def _ready_parts(self) -> ReadyParts | None:
        text = ready_part(_TEXT, self._template.text_interpolation)
        if text is None:
            return None
        if not self._blast.template.html:
            return ReadyParts([text], (b"", b""))
        html = ready_part(_HTML, self._template.html_interpolation)
        marks = _marks(self._boundary)
        return ReadyParts([text, html], (marks.start, marks.between, marks.end)) if html is not None else None

    @property
    def size(self) -> int:
        """The approximate memory that it keeps, in bytes."""
        return self._attached.size + self._template.size

    def fill(self, job: Job) -> Mail:
        """Return the message of one job; raises PermanentError with the reason."""
        try:
            address = smtp_address(job.recipient.address)
        except AddressError as error:
            raise PermanentError(f"the address cannot be used: {error}", code="address") from error
        token = make_token(self._mail.secret, job.channel, job.recipient.address) if self._links else ""
        url = f"{self._mail.public_url}/u/{token}" if token else ""
        values, subject, body = self._render(job, url)
        job_id = job.job_id
        job_line = (job_id if self._has_clean_id else clean(job_id)).encode()
        message_id = f"{self._id}.{job.index}.{job.channel}.{job.run}@{self.domain}"
        own = _OwnHeaders(
            mailbox(job.recipient.name, address, 4),
            unstructured(subject, 9),
            _date(),
            message_id.encode(),
            self._unsubscribe(url, token) if self._marketing else b"",
        )
        unsubscribe = _UNSUBSCRIBE % own.unsubscribe if own.unsubscribe else b""
        head = self._head % (
            own.to,
            own.subject,
            own.date,
            own.message_id,
            unsubscribe,
            *(job_line,) * self._job_places,
        )
        utf8 = self._utf8 or not address.isascii()
        sender = self._return_path(job) if self._mail.bounce_domain else self._sender
        envelope = Envelope(sender, address, utf8)
        logged = self._template.subject_for_log(values, subject)
        return Mail(job_id, logged, f"<{message_id}>", envelope, head, own, body, self.domain, self)

    def covered(self, own: _OwnHeaders) -> Covered:
        """Return what `signing.covered` returns for a message's head; looks only at what differs between messages."""
        lines = (
            self._covered_last,
            _COVERED_UNSUBSCRIBE % relaxed(own.unsubscribe) if own.unsubscribe else b"",
            self._covered_first,
            b"message-id:<",
            own.message_id,
            b">\r\ndate:",
            own.date,
            b"\r\nsubject:",
            relaxed(own.subject),
            b"\r\nto:",
            relaxed(own.to),
            b"\r\n",
            self._covered_from,
        )
        return Covered(self._covered_names, b"".join(lines))

    def _return_path(self, job: Job) -> str:
        """Return the envelope's sender that names the job, where bounces come back to us."""
        try:
            token = make_return_token(job.job_id, self._mail.secret)
        except ValueError:  # an id that is too long; ingest makes none
            return self._sender
        return f"{RETURN_PREFIX}{token}@{self._mail.bounce_domain}"

    def _render(self, job: Job, url: str) -> tuple[dict[str, Any], str, Body | ReadyBody]:
        """Return the job's values, the subject, which is clean, and the body."""
        try:
            values = self._values.of(job, url)
            if self._ready is not None and (filled := self._ready.fill(values)) is not None:
                body = self._ready_body(job, self._ready, filled)
                return values, self._template.render_subject(values), body
            rendered = self._template.render(values)
            written = rendered.html if self._blast.template.html else None
            return values, rendered.subject, self._body(job, rendered.text, written, plain=False)
        except RenderError as error:
            raise _unrenderable(error) from error

    def _ready_body(self, job: Job, parts: ReadyParts, filled: Filled) -> Body | ReadyBody:
        if not self._blast.attachments and not job.recipient.attachments:
            content = b"".join(filled.pieces)
            return ReadyBody(content, len(content), filled.plain)
        text, *html = parts.apart(filled)
        return self._body(job, text, html[0] if html else None, plain=filled.plain)

    def _body(self, job: Job, text: str | bytes, html: str | bytes | None, *, plain: bool) -> Body:
        files = job.recipient.attachments
        own = AttachedFiles(files, self._boundary, html=html is not None) if files else None
        return Body(text, html, self._attached, own, self._boundary, plain)

    def _unsubscribe(self, url: str, token: str) -> bytes:
        """Return where to unsubscribe (RFC 8058), with a `mailto:` link only if the settings name a mailbox for it."""
        by_mail = f"{self._by_mail}{token}>" if self._by_mail else ""
        return f"<{url}>{by_mail}".encode("ascii")


def list_headers(blast: Blast, domain: str) -> bytes:
    """Return `List-Id` (RFC 2919: one list per template) and `Feedback-ID`, which Gmail uses to report complaints.

    A Feedback-ID is `campaign:customer:type:sender`: here the blast, the From domain, the template, and a name of 5 to
    15 characters that stays the same for all mail of the domain.
    """
    template = _NO_LABEL.sub("-", blast.template.id).strip("-").lower()[:_LONGEST_LABEL] or "list"
    sender = f"kurir{hashlib.sha256(domain.encode()).hexdigest()[:10]}"
    return b"List-Id: %b\r\nFeedback-ID: %b\r\n" % (
        mailbox(clean(blast.template.name) or template, f"{template}.{domain}", 9),
        f"{_NO_LABEL.sub('-', blast.blast_id)}:{domain}:{template}:{sender}".encode("ascii"),
    )


class Frames:
    """A cache of the frames of recent blasts; evicts the least recently used first."""

    def __init__(self, mail: MailSettings) -> None:
        self._mail = mail
        self._kept: LRUCache[str, Frame] = LRUCache(MOST_FRAME_BYTES, lambda frame: min(frame.size, MOST_FRAME_BYTES))
        self._latest: Frame | None = None

    def get(self, blast: Blast) -> Frame:
        """Return a blast's frame, compiled at its first message; raises PermanentError or StopBlastError."""
        # most messages belong to the blast of the message before; its frame is the most recently used one already
        if self._latest is None or self._latest.blast_id != blast.blast_id:
            self._latest = self._kept.get(blast.blast_id) or self._compiled(blast)
        return self._latest

    def _compiled(self, blast: Blast) -> Frame:
        frame = self._kept[blast.blast_id] = Frame(blast, self._mail)
        return frame


def _compiled(blast: Blast) -> CompiledTemplate:
    try:
        return compile_template(blast.template)
    except RenderError as error:
        raise _unrenderable(error) from error


def _unrenderable(error: RenderError) -> PermanentError:
    named = f"variable {error.variable}: " if error.variable and error.variable not in str(error) else ""
    return PermanentError(f"cannot be rendered: {named}{error}", code="render")


class _Dates:
    """The Date header's value, made once per second."""

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._value = formatdate(second).replace("-0000", "+0000").encode("ascii")
        return self._value


_date = _Dates().now
