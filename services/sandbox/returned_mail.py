"""The mail that mail servers return: a bounce (RFC 3464, as Postfix writes it) and a complaint (RFC 5965). Pure."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal

from services.sandbox.outcomes import simulated_part
from shared.channels import SANDBOX_HOST

Kind = Literal["bounce", "complaint"]
# local part of a recipient, up to `+`, and what comes back later
_RETURNED: dict[str, Kind] = {"late-bounce": "bounce", "complaint": "complaint"}
_MOST_HEADER = 64 * 1024


@dataclass(frozen=True, slots=True)
class ReturnedMail:
    """A mail to a return path; `sender` is the envelope's, which is empty for a bounce (RFC 3464, section 2)."""

    kind: Kind
    sender: str
    to: str
    raw: bytes


def returned_mail(return_path: str, recipient: str, raw: bytes, now_s: float) -> ReturnedMail | None:
    """Return what comes back for an accepted mail, None for nothing; nothing is returned to an empty return path."""
    kind = _RETURNED.get(simulated_part(recipient))
    if kind is None or not return_path:
        return None
    header = raw.partition(b"\r\n\r\n")[0][:_MOST_HEADER]
    make = _bounce if kind == "bounce" else _complaint
    sender = "" if kind == "bounce" else f"feedback@{SANDBOX_HOST}"
    return ReturnedMail(kind, sender, return_path, make(return_path, recipient, header, now_s))


def _bounce(return_path: str, recipient: str, header: bytes, now_s: float) -> bytes:
    """Return what Postfix sends when another server refused the address after we had accepted the mail."""
    kind = "rfc822" if recipient.isascii() else "utf-8"
    reply = f"550 5.1.1 <{recipient}>: Recipient address rejected: User unknown in local recipient table"
    report = (
        f"Reporting-MTA: dns; {SANDBOX_HOST}",
        f"Arrival-Date: {formatdate(now_s)}",
        "",
        f"Final-Recipient: {kind}; {recipient}",
        f"Original-Recipient: {kind};{recipient}",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; mx.example.com",
        f"Diagnostic-Code: smtp; {reply}",
        f"Last-Attempt-Date: {formatdate(now_s)}",
    )
    words = f"I'm sorry to have to inform you that your message could not be delivered.\n\n<{recipient}>: {reply}"
    return _report(
        (
            f"From: Mail Delivery System <MAILER-DAEMON@{SANDBOX_HOST}>",
            f"To: {return_path}",
            "Subject: Undelivered Mail Returned to Sender",
            "Auto-Submitted: auto-replied",
        ),
        ("delivery-status", words, "message/delivery-status", report),
        header,
        now_s,
    )


def _complaint(return_path: str, recipient: str, header: bytes, now_s: float) -> bytes:
    """Return what a mailbox provider sends when somebody marks a mail as spam."""
    report = (
        "Feedback-Type: abuse",
        "User-Agent: Kurir-Sandbox/1",
        "Version: 1",
        f"Original-Mail-From: <{return_path}>",
        f"Original-Rcpt-To: <{recipient}>",
        f"Arrival-Date: {formatdate(now_s)}",
        f"Reported-Domain: {recipient.rpartition('@')[2]}",
        "Source-IP: 192.0.2.1",
    )
    words = "This is an abuse report for a mail that you sent. Its recipient marked it as spam."
    return _report(
        (f"From: Feedback Loop <feedback@{SANDBOX_HOST}>", f"To: {return_path}", "Subject: Abuse report"),
        ("feedback-report", words, "message/feedback-report", report),
        header,
        now_s,
    )


def _report(
    fields_of_mail: tuple[str, ...], report: tuple[str, str, str, tuple[str, ...]], header: bytes, now_s: float
) -> bytes:
    """Return a multipart/report (RFC 6522) of a text, a machine's report, and the header of the mail it is about."""
    report_type, words, content_type, fields = report
    boundary = f"kurir-{secrets.token_hex(12)}"
    head = (
        *fields_of_mail,
        f"Date: {formatdate(now_s)}",
        f"Message-ID: <{secrets.token_hex(12)}@{SANDBOX_HOST}>",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={report_type}; boundary="{boundary}"',
    )
    parts = (
        ("Content-Type: text/plain; charset=utf-8", words.replace("\n", "\r\n").encode()),
        (f"Content-Type: {content_type}", "\r\n".join(fields).encode()),
        ("Content-Type: text/rfc822-headers", header),
    )
    body = b"".join(
        f"--{boundary}\r\n{part_head}\r\n\r\n".encode() + content + b"\r\n\r\n" for part_head, content in parts
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body + f"--{boundary}--\r\n".encode()
