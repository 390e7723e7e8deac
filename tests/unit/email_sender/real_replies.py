"""Real answers of providers, with where they are documented and the class that Kurir gives them.

Addresses, hosts and session ids are replaced; the rest are the provider's words, shortened where they are long.
"""

from __future__ import annotations

from typing import NamedTuple

from services.email_sender.replies import Stage
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    StopChannelError,
    TryLaterError,
    UnavailableError,
)

GOOGLE = "https://support.google.com/a/answer/3726730"
EXCHANGE = "https://learn.microsoft.com/exchange/mail-flow-best-practices/non-delivery-reports-in-exchange-online/non-delivery-reports-in-exchange-online"
OUTLOOK = "https://sendersupport.olc.protection.outlook.com/pm/troubleshooting.aspx"
YAHOO = "https://senders.yahooinc.com/smtp-error-codes/"
SES = "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html"
POSTFIX = "https://github.com/vdukhovni/postfix/blob/master/postfix/src/smtpd/smtpd_check.c"
SMTPD = "https://github.com/vdukhovni/postfix/blob/master/postfix/src/smtpd/smtpd.c"
POSTGREY = "https://github.com/schweikert/postgrey/blob/master/postgrey"
MILTER_GREYLIST = "https://manpages.debian.org/bookworm/milter-greylist/greylist.conf.5.en.html"
SQLGREY = "https://sqlgrey.sourceforge.net/"

AUTH, GREETING, STARTTLS = Stage.AUTH, Stage.GREETING, Stage.STARTTLS
MAIL, RCPT, DATA, DOT = Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT


class Case(NamedTuple):
    """One answer: to which command, what it means, whether the address is suppressed, the wait it asks for."""

    source: str
    stage: Stage
    code: int
    text: str
    kind: type[SendError]
    suppresses: bool = False
    wait_s: float | None = None


D, L, P, S, U = DeferredError, TryLaterError, PermanentError, StopChannelError, UnavailableError

CASES = [
    # Gmail and Google Workspace
    Case(GOOGLE, DOT, 421, "4.3.0 Temporary System Problem. Try again later. - gsmtp", L),
    Case(GOOGLE, MAIL, 421, "4.4.5 Server busy, try again later. - gsmtp", L),
    Case(
        GOOGLE,
        DOT,
        421,
        "4.7.0 Our system has detected an unusual rate of unsolicited mail originating from your IP",
        D,
    ),
    Case(GOOGLE, MAIL, 421, "4.7.0 Try again later, closing connection. - gsmtp", D),
    Case(GOOGLE, RCPT, 450, "4.2.1 The user you are trying to contact is receiving mail too quickly.", D),
    Case(
        GOOGLE, RCPT, 450, "4.2.1 The user you are trying to contact is receiving mail at a rate that prevents more", D
    ),
    Case(GOOGLE, RCPT, 450, "4.2.1 Peak SMTP relay limit exceeded for customer. This is a temporary error.", D),
    Case(GOOGLE, DOT, 451, "4.3.0 Mail server temporarily rejected message.", L),
    Case(GOOGLE, DOT, 451, "4.4.2 Timeout - closing connection.", L),
    Case(GOOGLE, RCPT, 452, "4.2.2 The email account that you tried to reach is over quota.", D),
    Case(GOOGLE, RCPT, 452, "4.5.3 Your message has too many recipients.", L),
    Case(GOOGLE, AUTH, 454, "4.7.0 Too many login attempts, please try again later.", U),
    Case(GOOGLE, MAIL, 530, "5.5.1 Authentication Required.", S),
    Case(GOOGLE, MAIL, 530, "5.7.0 Must issue a STARTTLS command first.", S),
    Case(GOOGLE, AUTH, 534, "5.7.9 Application-specific password required.", S),
    Case(GOOGLE, AUTH, 534, "5.7.14 Please log in through your web browser and then try again.", S),
    Case(GOOGLE, AUTH, 535, "5.7.8 Username and Password not accepted.", S),
    Case(GOOGLE, RCPT, 550, "5.1.1 The email account that you tried to reach does not exist.", P, suppresses=True),
    Case(GOOGLE, RCPT, 550, "5.2.1 The email account that you tried to reach is inactive.", P),
    Case(
        GOOGLE, RCPT, 550, "5.2.1 The user you are trying to contact is receiving mail at a rate that prevents more", P
    ),
    Case(GOOGLE, DOT, 550, "5.4.5 Daily user sending limit exceeded.", D),
    Case(GOOGLE, RCPT, 550, "5.7.0 Mail relay denied.", P),
    Case(GOOGLE, DOT, 550, "5.7.1 Our system has detected that this message is likely unsolicited mail.", P),
    Case(GOOGLE, DOT, 550, "5.7.26 This mail has been blocked because the sender is unauthenticated.", P),
    Case(GOOGLE, RCPT, 552, "5.2.2 The email account that you tried to reach is over quota.", P),
    Case(GOOGLE, DOT, 552, "5.2.3 Your message exceeded Google's message size limits.", P),
    Case(GOOGLE, RCPT, 553, "5.1.2 We weren't able to find the recipient domain.", P, suppresses=True),
    Case(GOOGLE, MAIL, 555, "5.5.2 Syntax error, cannot decode response.", P),
    # Exchange Online and Outlook.com
    Case(EXCHANGE, MAIL, 451, "4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", D),
    Case(EXCHANGE, DOT, 432, "4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", D),
    Case(EXCHANGE, RCPT, 550, "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found", P, suppresses=True),
    Case(EXCHANGE, MAIL, 550, "5.1.8 Access denied, bad outbound sender", P),
    Case(EXCHANGE, RCPT, 550, "5.4.1 Recipient address rejected: Access denied.", P),
    Case(EXCHANGE, DOT, 550, "5.7.501 Access denied, spam abuse detected.", P),
    Case(
        EXCHANGE, DOT, 550, "5.7.515 Access denied, sending domain does not meet the required authentication level.", P
    ),
    Case(EXCHANGE, AUTH, 535, "5.7.3 Authentication unsuccessful", S),
    Case(
        EXCHANGE,
        AUTH,
        535,
        "5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
        S,
    ),
    Case(EXCHANGE, MAIL, 530, "5.7.57 Client not authenticated to send mail.", S),
    Case(OUTLOOK, MAIL, 451, "4.7.651 The mail server [192.0.2.1] has been temporarily rate limited", D),
    Case(OUTLOOK, MAIL, 421, "RP-001 The mail server IP connecting has exceeded the rate limit allowed.", D),
    Case(OUTLOOK, MAIL, 550, "5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. (S3140)", P),
    Case(OUTLOOK, RCPT, 550, "5.5.0 Requested action not taken: mailbox unavailable", P),
    Case(OUTLOOK, RCPT, 550, "Requested action not taken: mailbox unavailable", P, suppresses=True),
    Case(OUTLOOK, DOT, 550, "SC-001 Mail rejected by Outlook.com for policy reasons.", P),
    # Yahoo and AOL
    Case(YAHOO, MAIL, 421, "4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume", D),
    Case(YAHOO, MAIL, 421, "4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred", D),
    Case(YAHOO, DOT, 451, "Resources temporarily not available - Please try again later [#4.16.1].", L),
    Case(YAHOO, DOT, 451, "4.3.2 Internal error reading data", L),
    Case(YAHOO, MAIL, 553, "5.7.2 [TSS09] All messages from 192.0.2.1 will be permanently deferred", P),
    Case(YAHOO, DOT, 554, "5.7.9 Message not accepted for policy reasons.", P),
    Case(YAHOO, DOT, 554, "5.7.5 (AU01) Message not accepted for policy reasons.", P),
    Case(YAHOO, RCPT, 554, "delivery error: dd This user doesn't have a yahoo.com account", P),
    Case(YAHOO, RCPT, 552, "1 Requested mail action aborted, mailbox not found", P),
    # Amazon SES
    Case(SES, GREETING, 421, "Too many concurrent SMTP connections", U),
    Case(SES, DOT, 421, "Too many concurrent SMTP connections", D),
    Case(SES, DOT, 454, "Throttling failure: Maximum sending rate exceeded.", D),
    Case(SES, DOT, 454, "Throttling failure: Daily message quota exceeded.", D),
    Case(SES, DOT, 454, "Temporary service failure", L),
    Case(SES, DOT, 451, "Timeout waiting for data from client.", L),
    Case(SES, AUTH, 454, "Temporary authentication failure", U),
    Case(SES, MAIL, 530, "Authentication required", S),
    Case(SES, AUTH, 535, "Authentication Credentials Invalid", S),
    Case(SES, DOT, 552, "Message is too long.", P),
    Case(
        SES, DOT, 554, "Message rejected: Email address is not verified. The following identities failed the check", P
    ),
    Case(SES, DOT, 554, "Transaction failed: Address length exceeds limits", P),
    # Postfix
    Case(POSTFIX, MAIL, 450, "4.1.8 <a@nowhere.example>: Sender address rejected: Domain not found", L),
    Case(POSTFIX, RCPT, 450, "4.1.2 <a@nowhere.example>: Recipient address rejected: Domain not found", L),
    Case(POSTFIX, RCPT, 450, "4.1.1 <a@example.com>: Recipient address rejected: unverified address", L),
    Case(POSTFIX, RCPT, 451, "4.3.0 <a@example.com>: Temporary lookup failure", L),
    Case(POSTFIX, MAIL, 452, "4.3.1 Insufficient system storage", D),
    Case(POSTFIX, RCPT, 450, "4.7.1 Client host rejected: cannot find your hostname, [192.0.2.1]", D),
    Case(POSTFIX, RCPT, 454, "4.7.1 <a@example.com>: Relay access denied", D),
    Case(POSTFIX, RCPT, 550, "5.1.1 <a@example.com>: User unknown in virtual mailbox table", P, suppresses=True),
    Case(POSTFIX, RCPT, 550, "5.1.0 <a@example.com>: Recipient address rejected: User unknown", P),
    Case(POSTFIX, RCPT, 554, "5.7.1 <a@example.com>: Relay access denied", P),
    Case(POSTFIX, RCPT, 554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", P),
    Case(POSTFIX, RCPT, 553, "5.7.1 <b@example.com>: Sender address rejected: not owned by user", P),
    Case(POSTFIX, MAIL, 552, "5.3.4 Message size exceeds fixed limit", P),
    Case(SMTPD, STARTTLS, 454, "4.7.0 TLS not available due to local problem", U),
    Case(SMTPD, GREETING, 421, "4.7.0 mx.example.net Error: too many connections from 192.0.2.1", U),
    Case(SMTPD, MAIL, 450, "4.7.1 Error: too much mail from 192.0.2.1", D),
    Case(SMTPD, MAIL, 530, "5.7.0 Must issue a STARTTLS command first", S),
    Case(SMTPD, AUTH, 535, "5.7.8 Error: authentication failed: authentication failure", S),
    Case(SMTPD, MAIL, 421, "4.3.2 All server ports are busy", L),
    Case(SMTPD, DOT, 451, "4.3.0 Error: queue file write error", L),
    Case(SMTPD, DATA, 554, "5.5.1 Error: no valid recipients", P),
    # Greylisting
    Case(POSTGREY, RCPT, 450, "4.2.0 <a@example.com>: Recipient address rejected: Greylisted, see http://postgrey", D),
    Case(MILTER_GREYLIST, RCPT, 451, "4.7.1 Greylisting in action, please come back in 00:05:00", D, wait_s=300),
    Case(
        SQLGREY, RCPT, 450, "4.7.1 <a@example.com>: Recipient address rejected: Greylisted for 5 minutes", D, wait_s=300
    ),
    Case(SQLGREY, RCPT, 451, "Greylisted, please try again in 180 seconds", D, wait_s=180),
]
