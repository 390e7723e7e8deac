"""The mail that comes back: bounces and complaints, as the standard library reads them."""

from __future__ import annotations

import email
import email.message
import email.policy

import pytest

from services.sandbox.returned_mail import ReturnedMail, returned_mail

PATH = "b-abc234@bounces.example.com"
RAW = b"From: a@example.com\r\nMessage-ID: <b.0.email.1@example.com>\r\nSubject: Hi\r\n\r\nbody that is private\r\n"
NOW_S = 1_767_225_600.0


def back(recipient: str, path: str = PATH) -> tuple[ReturnedMail, email.message.EmailMessage]:
    mail = returned_mail(path, recipient, RAW, NOW_S)
    assert mail is not None
    read = email.message_from_bytes(mail.raw, policy=email.policy.default)
    assert isinstance(read, email.message.EmailMessage)
    return mail, read


@pytest.mark.parametrize("recipient", ["late-bounce@example.org", "Late-Bounce+17@example.org"])
def test_a_late_bounce_is_a_delivery_status_notification(recipient: str) -> None:
    """It comes from nobody to the return path, and says in a machine's words which address does not exist."""
    mail, read = back(recipient)
    assert (mail.sender, mail.to) == ("", PATH)
    assert read.get_content_type() == "multipart/report"
    assert read.get_param("report-type") == "delivery-status"
    _, report, header = list(read.iter_parts())
    assert report.get_content_type() == "message/delivery-status"
    _, of_recipient = report.iter_parts()
    assert (of_recipient["Action"], of_recipient["Status"]) == ("failed", "5.1.1")
    assert of_recipient["Final-Recipient"] == f"rfc822; {recipient}"
    assert "550 5.1.1" in of_recipient["Diagnostic-Code"]
    assert "<b.0.email.1@example.com>" in header.get_payload()


def test_a_complaint_is_an_abuse_report() -> None:
    """It is in the form of feedback loops, and encloses the header of the mail."""
    mail, read = back("complaint@example.org")
    assert mail.sender
    assert read.get_param("report-type") == "feedback-report"
    _, report, header = list(read.iter_parts())
    assert report.get_content_type() == "message/feedback-report"
    assert "Feedback-Type: abuse" in report.as_string()
    assert "Original-Rcpt-To: <complaint@example.org>" in report.as_string()
    assert "<b.0.email.1@example.com>" in header.get_payload()


@pytest.mark.parametrize("recipient", ["late-bounce@example.org", "complaint@example.org"])
def test_the_text_of_a_mail_is_not_returned(recipient: str) -> None:
    """Its header is enough, as with RET=HDRS; every line is short enough for any server."""
    mail, _ = back(recipient)
    assert b"private" not in mail.raw
    assert b"\n" not in mail.raw.replace(b"\r\n", b"")


def test_nothing_comes_back_for_other_addresses_and_to_nobody() -> None:
    """A mail without a return path is a bounce itself (RFC 5321, section 4.5.5)."""
    assert returned_mail(PATH, "siti@example.org", RAW, NOW_S) is None
    assert returned_mail("", "late-bounce@example.org", RAW, NOW_S) is None
