"""What each sample in `samples/` says. The samples are written for the tests in the forms of real systems.

In a sample TOKEN, UPPER and FORGED are local parts of return paths (valid, in upper case, signed with another secret),
MESSAGEID and JOBID are ours.
"""

from __future__ import annotations

from typing import NamedTuple

JOB_ID = "06fv3k9qz1m2n4p7:17:email"
MESSAGE_ID = "06fv3k9qz1m2n4p7.17.email.1@example.com"
ANA = "ana@example.org"


class Said(NamedTuple):
    """One receipt: its kind, its severity, its code, its address, and how the job was found."""

    kind: str
    severity: str = ""
    code: str = ""
    address: str = ANA
    found_by: str = "token"  # or "message-id", "job-header"


def hard(code: str, address: str = ANA, found_by: str = "token") -> list[Said]:
    return [Said("bounced", "hard", code, address, found_by)]


def soft(code: str, address: str = ANA) -> list[Said]:
    return [Said("bounced", "soft", code, address)]


def complaint(address: str = "", found_by: str = "token") -> list[Said]:
    return [Said("complained", "", "", address, found_by)]


RECEIPTS: dict[str, list[Said]] = {
    # Postfix, and services that run it
    "postfix-unknown-user": hard("5.1.1"),
    "postfix-over-quota": soft("5.2.2"),
    "postfix-no-such-domain": hard("5.4.4"),
    "postfix-expired": soft("4.4.1"),
    "postfix-delivered": [Said("delivered", "", "2.0.0")],
    "postfix-local-user": hard("5.1.1"),
    "postfix-words-alone": hard("550"),
    "postfix-words-after-data": soft("550"),
    "postfix-spam": soft("5.7.1"),
    "postfix-blocked-with-5.1.1": soft("5.1.1"),
    "postfix-smtputf8": hard("5.1.1", "jörg@example.org"),
    "postfix-message-id-alone": hard("5.1.1", found_by="message-id"),
    "postfix-job-header-alone": hard("5.1.1", found_by="job-header"),
    "postfix-forged-token": hard("5.1.1", found_by="message-id"),
    "postfix-expanded-list": [*soft("5.1.1", "bea@example.org"), Said("delivered", "", "2.1.5", "cem@example.org")],
    "postfix-alias-member": soft("5.1.1", "bea@example.net"),
    "postfix-own-among-several": [*hard("5.1.1"), *soft("5.2.2", "copy@example.org")],
    "yandex": hard("5.1.1"),
    "bouygues": soft("552"),
    "orange": hard("5.1.1"),
    "t-online": soft("554"),
    "qq": hard("550"),
    "qq-frequency": soft("550"),
    "zimbra": hard("5.1.1"),
    "naver": hard("5.1.1"),
    "libero": hard("5.1.1"),
    "interia-full": soft("4.2.2"),
    "seznam": hard("5.1.1"),
    "telkom": hard("5.1.1"),
    "telkom-spam": soft("550"),
    # Sendmail
    "sendmail-unknown-user": hard("5.1.1"),
    "sendmail-upper-case-token": hard("5.1.1"),
    "sendmail-too-many-hops": soft("5.4.6"),
    "sendmail-five-days": soft("4.4.7"),
    "sendmail-derived-status": soft("5.1.1"),
    "docomo": hard("550"),
    # Exim
    "exim-unknown-user": hard("5.1.1"),
    "exim-unrouteable": hard(""),
    "exim-spf": soft("5.7.0"),
    "exim-retry-timeout": soft("4.2.2"),
    "exim-message-id-alone": hard("5.1.1", found_by="message-id"),
    "exim-dsn": hard("5.1.1"),
    "mail-ru": hard("5.1.1"),
    # qmail and its kin
    "qmail-no-mailbox": hard("5.1.1"),
    "qmail-remote": hard("5.1.1"),
    "qmail-quota": soft("5.2.2"),
    "qmail-no-host": hard("5.1.2"),
    "qmail-policy": soft("5.7.1"),
    "qmail-gave-up": soft("4.4.1"),
    "qmail-deferred-then-gave-up": soft("4.7.0"),
    "yahoo": hard("5.1.1"),
    "yahoo-jp": hard(""),
    # Microsoft
    "exchange-2003": hard("5.1.1"),
    "exchange-2007-de": hard("5.1.1"),
    "exchange-2013-fr": soft("5.2.2"),
    "office365-not-found": hard("5.1.10"),
    "office365-blocked-ja": soft("5.7.708"),
    "office365-access-denied": soft("5.4.1"),
    "office365-no-diagnostic": soft("5.2.2"),
    "hotmail": hard("550"),
    # Google
    "gmail-old": hard("5.1.1"),
    "gmail-not-found": hard("5.1.1"),
    "gmail-full-pt": soft("5.2.2"),
    "gmail-dmarc": soft("5.7.26"),
    # other systems
    "courier": hard("5.1.1"),
    "domino": hard("5.1.1"),
    "domino-ja": soft("5.0.0"),
    "mdaemon": hard("5.1.1"),
    "oracle-es": hard("5.1.1"),
    "communigate": soft("5.4.1"),
    "powermta": hard("5.1.1"),
    "amazon-inbound": hard("5.1.1"),
    "haraka": soft("5.7.1"),
    "mimecast": soft("550"),
    "orange-base64-report": hard("5.1.1"),
    "cr-line-ends": hard("5.1.1"),
    "action-missing": hard("5.1.1"),
    "turkish": soft("5.2.2"),
    "gmx": soft("5.2.2"),
    "gmx-unknown": hard("5.1.1"),
    "opensmtpd": hard("5.1.1"),
    "dragonfly": soft("5.7.26", ""),
    "zoho": hard("550", ""),
    "au-ezweb": hard("550"),
    "kddi": soft("", ""),
    "netease": hard("550"),
    "broken-mime": hard("5.1.1"),
    "james-broken-boundary": hard("550", ""),
    "trouble-delivering": hard("5.1.1", ""),
    # complaints
    "arf-yahoo": complaint(ANA),
    "arf-redacted": complaint("redacted"),
    "arf-message-id": complaint(found_by="message-id"),
    "arf-fraud": complaint(),
    "arf-headers-only": complaint(),
    "arf-mail-ru": complaint(ANA),
    "arf-opt-out": [Said("opted_out", "", "", ANA)],
    "jmrp": complaint(ANA),
}

IGNORED = (
    "postfix-delayed", "postfix-relayed", "sendmail-four-hours", "exim-warning", "gmail-delay", "opensmtpd-warning",
    "arf-not-spam", "arf-dmarc", "vacation-rfc3834", "vacation-quoting-failure", "vacation-exchange-de",
    "vacation-quoting-our-subject", "vacation-quoting-qmail",
    "vacation-subject-ja", "vacation-gmail", "vacation-fr", "vacation-apple", "ticket", "read-receipt",
)  # fmt: skip

SET_ASIDE = (
    "postfix-foreign", "arf-foreign", "person", "spam", "reply-quoting-our-subject", "daemon-in-unknown-words",
)  # fmt: skip
