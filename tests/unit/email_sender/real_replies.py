"""Real replies of providers, with their source and the outcome class that Kurir assigns.

Addresses, hosts and session ids are replaced; the rest is in the provider's words, shortened where long.
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
_MANUAL = "https://github.com/ActiveCampaign/smtp-field-manual/blob/master/data/codes"
F550, F551, F552 = f"{_MANUAL}/550.json", f"{_MANUAL}/551.json", f"{_MANUAL}/552.json"
F553, F554, F421 = f"{_MANUAL}/553.json", f"{_MANUAL}/554.json", f"{_MANUAL}/421.json"
F450, F451, F452 = f"{_MANUAL}/450.json", f"{_MANUAL}/451.json", f"{_MANUAL}/452.json"
ZONE = "https://github.com/zone-eu/zone-mta/blob/master/config/bounces.txt"
SITEPACKAGE = (
    "http://www.sitepackage.de/service/dokumentation/auswertung/typische-fehlermeldungen-bei-unzustellbarkeit.html"
)
DBMAIL = "https://www.dbmailserver.com/tui-xin-address-not-exist.htm"
CLOUD4Y = "https://client.cloud4y.ru/index.php/knowledgebase/1041/Service-Restrictions-to-Prevent-Spam.html"
SISIMAI = "https://github.com/sisimai/p5-sisimai/issues/467"

AUTH, GREETING, STARTTLS = Stage.AUTH, Stage.GREETING, Stage.STARTTLS
MAIL, RCPT, DATA, DOT = Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT


class Case(NamedTuple):
    """One reply: the command that it answers, its class, whether it suppresses the address, the requested wait."""

    source: str
    stage: Stage
    code: int
    text: str
    kind: type[SendError]
    suppresses: bool = False
    wait_s: float | None = None


D, L, P, S, U = DeferredError, TryLaterError, PermanentError, StopChannelError, UnavailableError

CASES = [
    # limits with final codes
    Case(CLOUD4Y, AUTH, 550, "Too many messages. Try again in 92 seconds.", U),
    Case(CLOUD4Y, MAIL, 550, "Too many messages. Try again in 92 seconds.", D, wait_s=92),
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
    Case(
        EXCHANGE,
        DOT,
        550,
        "5.1.90 Your message can't be sent because you've reached your daily limit for message recipients",
        D,
    ),
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
    # Relays that refuse us, which is not the recipient's fault
    Case("https://github.com/namshi/docker-smtp/issues/77", RCPT, 550, "relay not permitted", P),
    Case("https://github.com/hestiacp/hestiacp/issues/4852", RCPT, 550, "Relay not permitted", P),
    Case(
        "https://github.com/4IceG/luci-app-sms-tool-js/issues/45", MAIL, 550, "Authentication is required for relay", P
    ),
    Case("https://github.com/mailcow/mailcow/issues/318", RCPT, 550, "smtp auth required", P),
    Case(
        "https://github.com/docker-mailserver/docker-mailserver/issues/19",
        RCPT,
        554,
        "5.7.1 <a@163.com>: Relay access denied",
        P,
    ),
    Case("https://github.com/mailgun/documentation/pull/471", RCPT, 550, "5.7.1 Relaying denied", P),
    Case(
        "https://github.com/simonrob/email-oauth2-proxy/issues/241",
        DATA,
        530,
        "5.7.0 Authentication Required. For more information, go to\n5.7.0  "
        "https://support.google.com/mail/?p=WantAuthError",
        S,
    ),
    Case(F550, RCPT, 550, "relaying denied for <a@example.com>", P),
    Case(F553, RCPT, 553, "Relaying disallowed", P),
    Case(F554, RCPT, 554, "5.7.1 <a@icloud.com>: Relay access denied", P),
    Case("https://github.com/nitinsh06/Django-Verify-Email/issues/35", RCPT, 550, "not local sender over smtp", P),
    Case("https://github.com/postalserver/postal/issues/2088", DOT, 530, "From/Sender name is not valid", S),
    # Sender verification by call-out
    Case(
        "https://github.com/docker-mailserver/docker-mailserver/issues/2257",
        RCPT,
        550,
        "Verification failed for <a@example.org>\nThe mail server does not recognize a@example.org "
        "as a valid sender.\nSender verify failed",
        P,
    ),
    Case(
        "https://github.com/mailcow/mailcow-dockerized/issues/2544",
        RCPT,
        550,
        "Verification failed for <a@example.org>\nNo Such User Here\nSender verify failed",
        P,
    ),
    Case(
        "https://github.com/mailcow/mailcow/issues/775",
        RCPT,
        550,
        "Verification failed for <a@example.org>\nThe mail server could not deliver mail to "
        "a@example.org.  The account or domain may not exist, they\nmay be blacklisted, or missing "
        "the proper dns entries.\nSender verify failed",
        P,
    ),
    Case(
        "https://github.com/PHPMailer/PHPMailer/issues/1187",
        RCPT,
        550,
        "Verification failed for <a@example.lu>\nUnrouteable address\nSender verify failed",
        P,
    ),
    Case("https://github.com/mattermost/docker/issues/111", RCPT, 550, "Sender verify failed", P),
    Case(
        "https://github.com/EBWiki/EBWiki/issues/3861",
        DOT,
        550,
        "The from address does not match a verified Sender Identity. Mail cannot be sent until this error is resolved.",
        P,
    ),
    # SPF, DKIM, DMARC, reverse DNS
    Case(F550, RCPT, 550, "SPF-check failed:\nexample.com doesn't allow sending mails from 192.0.2.1", P),
    Case(
        F550,
        RCPT,
        550,
        "<a@example.com>: Reject due to SPF policy. The originating IP of the message is not "
        "permitted by the domain owner",
        P,
    ),
    Case(F550, RCPT, 550, "<a@example.com>: Bad DNS PTR resource record", P),
    Case(F550, RCPT, 550, "<a@example.com>: Invalid DNS MX or A/AAAA resource record", P),
    Case(F550, DOT, 550, "DMARC check failed http://service.mail.qq.com/cgi-bin/help?subtype=1&&no=1001508&&id=16.", P),
    Case(
        F550,
        DOT,
        550,
        "5.2.0 Message rejected due to DMARC. Please see http://postmaster.comcast.net/smtp-error-codes.php",
        P,
    ),
    Case(
        F550,
        RCPT,
        550,
        "5.7.1 Connections not accepted from servers without a valid sender domain. ## Fix reverse DNS for 192.0.2.1",
        P,
    ),
    Case(
        SISIMAI,
        RCPT,
        550,
        "5.1.0 192.0.2.1 is not allowed to send from <example.jp> per it's SPF Record. Please "
        "inspect your SPF settings, and try again.",
        P,
    ),
    Case(
        SISIMAI,
        RCPT,
        553,
        "SPF (Sender Policy Framework) domain authentication fail. Refer to the Troubleshooting "
        "page at http://www.symanteccloud.com/troubleshooting for more information. (#5.7.1)",
        P,
    ),
    Case("https://github.com/justingit/dada-mail/issues/717", DOT, 550, "5.7.1 [BFD] Sender prohibited by SPF", P),
    Case(
        "https://github.com/jcbf/smf-spf/issues/33",
        RCPT,
        550,
        "4.7.23 Rejected, look at http://www.openspf.org/why.html?sender=a@example.com&ip=192.0.2.1",
        D,
    ),
    # Blocklists, reputation, spam, content
    Case(
        "https://github.com/nodemailer/nodemailer/issues/1089",
        RCPT,
        550,
        "5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org",
        P,
    ),
    Case(
        "https://github.com/getconversio/email-deep-validator/issues/9",
        RCPT,
        550,
        '"JunkMail rejected - host.example.com\n(example.com) [192.0.2.1]:34032 is in an RBL, '
        'see\nhttps://www.spamhaus.org/query/ip/192.0.2.1"',
        P,
    ),
    Case(
        "https://github.com/getconversio/email-deep-validator/pull/20",
        RCPT,
        554,
        "Service unavailable; Client host [host.example.net] blocked using\nBarracuda "
        "Reputation;\nhttp://www.barracudanetworks.com/reputation/?r=1&ip=192.0.2.1",
        P,
    ),
    Case(
        "https://github.com/baptisteArno/typebot.io/issues/128",
        RCPT,
        554,
        "5.7.1 Service unavailable; Sender address [a@example.xyz] blocked using dbl.spamhaus.org; "
        "Error: open resolver",
        P,
    ),
    Case(ZONE, RCPT, 550, "192.0.2.1 blacklisted see http://www.spamhaus.org/query/bl?ip=192.0.2.1", P),
    Case(ZONE, RCPT, 550, "5.2.1 Mailbox unavailable. Your IP address 192.0.2.1 is blacklisted using SPAMHAUS-XBL.", P),
    Case(ZONE, RCPT, 550, "Email blocked by SPAMHAUS", P),
    Case(ZONE, RCPT, 550, "IP 192.0.2.1 is blacklisted (xbl.spamhaus.org). Help at/Hilfe unter www.mfaq.info", P),
    Case(ZONE, RCPT, 550, "https://www.spamhaus.org/query/ip/192.0.2.1", P),
    Case(
        ZONE,
        RCPT,
        421,
        "4.7.1 Service unavailable; Client host [192.0.2.1] blocked using grey.rbl - Rechazo "
        "temporal, intentelo mas tarde por favor",
        D,
    ),
    Case(
        F550,
        MAIL,
        550,
        "mwinf5c14 ME Adresse IP source bloquee pour incident de spam. Client host blocked for "
        "spamming issues. OFR006_102",
        P,
    ),
    Case(F550, RCPT, 550, "<a@example.com>: IP address is block listed", P),
    Case(F550, RCPT, 550, "<a@example.com>: Reject due to policy restrictions (IP based)", P),
    Case(F550, DOT, 550, "spam message rejected. Please visit http://help.mail.ru/notspam-support/id?c=7y4y", P),
    Case(F550, DOT, 550, "spam detected", P),
    Case(F550, DOT, 550, "virus detected", P),
    Case(
        F550,
        DOT,
        550,
        "Mail content denied. http://service.exmail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000726",
        P,
    ),
    Case(
        F550,
        MAIL,
        550,
        "Sender frequency limited. http://service.exmail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000723",
        P,
    ),
    Case(F550, MAIL, 550, "Suspected spam sender.", P),
    Case(
        F553,
        MAIL,
        553,
        "Mail from 192.0.2.1 not allowed - 5.7.1 [BL23] Connections not accepted from IP addresses on Spamhaus XBL",
        P,
    ),
    Case(
        F554,
        GREETING,
        554,
        "resimta.example.net comcast 192.0.2.1 Comcast requires that all mail servers must have a PTR record",
        U,
    ),
    Case(F554, DOT, 554, "5.7.1 [1] Message rejected under suspicion of SPAM; https://ya.cc/1IrBc", P),
    Case(
        "https://github.com/Vincedream/NodeMail/issues/20",
        DOT,
        554,
        "DT:SPM 126 smtp2,DMmowAAnNDQz4zxdCk6LIw--.52838S2 1564271411,please see "
        "http://mail.163.com/help/help_spam_16.htm",
        P,
    ),
    Case(
        "https://github.com/postalserver/postal/issues/266",
        DOT,
        550,
        "5.7.1 [192.0.2.1 12] Our system has detected that this message is\n5.7.1 likely "
        "unsolicited mail. To reduce the amount of spam sent to Gmail,\n5.7.1 this message has been blocked.",
        P,
    ),
    Case("https://github.com/Excision-Mail/Excision-Mail/issues/54", DOT, 550, "message rejected", P),
    Case("https://github.com/substack/node-smtp-protocol/issues/50", MAIL, 550, "Command Rejected", P),
    # The recipient, by code
    Case(F550, RCPT, 550, "5.1.1 <a@icloud.com>: user does not exist", P, suppresses=True),
    Case(F550, RCPT, 550, "5.1.1 Not our Customer", P, suppresses=True),
    Case(F550, RCPT, 550, "5.1.1 <a@comcast.net> recipient mailbox unallocated", P, suppresses=True),
    Case(F550, RCPT, 550, "5.1.1 Email address could not be found, or was misspelled (G8)", P, suppresses=True),
    Case(
        F550,
        RCPT,
        550,
        "5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR_416 [416]",
        P,
        suppresses=True,
    ),
    Case(
        "https://github.com/knadh/listmonk/issues/2623",
        RCPT,
        550,
        "5.1.1 The email account that you tried to reach does not exist. Please try\n5.1.1 "
        "double-checking the recipient's email address for typos",
        P,
        suppresses=True,
    ),
    Case(SITEPACKAGE, RCPT, 554, "Sorry, no mailbox here by that name. (#5.1.1)", P, suppresses=True),
    Case(DBMAIL, RCPT, 551, "5.1.1 recipient is not exist", P, suppresses=True),
    # The recipient, by words alone
    Case("https://github.com/zone-eu/zone-mta/issues/324", RCPT, 550, "No user found", P, suppresses=True),
    Case("https://github.com/sisimai/p5-sisimai/issues/312", RCPT, 550, "Unknown User", P, suppresses=True),
    Case(
        F550,
        RCPT,
        550,
        "Mailbox not found. http://service.exmail.qq.com/cgi-bin/help?subtype=1&&id=20022",
        P,
        suppresses=True,
    ),
    Case(F550, RCPT, 550, "<a@web.de>: Requested action not taken: mailbox unavailable", P, suppresses=True),
    Case(SITEPACKAGE, RCPT, 550, "Benutzer nicht bekannt/User unknown", P, suppresses=True),
    Case(SITEPACKAGE, RCPT, 550, "Unknown local part nobody in", P, suppresses=True),
    Case(SITEPACKAGE, RCPT, 550, "unrouteable address", P, suppresses=True),
    Case(
        SITEPACKAGE,
        RCPT,
        550,
        "<a@lycos.de>: Recipient address rejected: User unknown in local recipient table",
        P,
        suppresses=True,
    ),
    Case(DBMAIL, RCPT, 550, "User not found: a@163.com", P, suppresses=True),
    Case(DBMAIL, RCPT, 550, "Local User [a@123.com] not found.", P, suppresses=True),
    Case(DBMAIL, RCPT, 550, "no such user: a@example.com", P, suppresses=True),
    Case(DBMAIL, RCPT, 550, "#2175041 unavailable mail user", P),
    Case(
        "https://github.com/jeremymcs/baruwa/issues/18",
        RCPT,
        550,
        "REJECTED - Recipient Verification Failed - User Not Found",
        P,
    ),
    # The recipient's mailbox, but no verdict on its address
    Case(F550, RCPT, 550, "5.2.1 <a@prodigy.net>... Addressee unknown, relay=[192.0.2.1]", P),
    Case(F550, RCPT, 550, "5.2.0 <a@comcast.net> - Recipient unavailable", P),
    Case(F550, RCPT, 550, "5.7.1 No such user!", P),
    Case(
        F550,
        RCPT,
        550,
        "Message was not accepted -- invalid mailbox. Local mailbox a@mail.ru is unavailable: account is disabled",
        P,
    ),
    Case(F550, RCPT, 550, "Mailbox unavailable or access denied", P),
    Case(F550, RCPT, 550, "Mail is rejected by recipients", P),
    Case(F552, RCPT, 552, "5.1.1 Boite du destinataire pleine. Recipient overquota. OFR_417 [417]", P),
    Case(F552, RCPT, 552, "5.1.1 <a@comcast.net> recipient rejected - extended quota violation", P),
    Case(F552, DOT, 552, "5.1.1 <a@zoho.com> Mailbox delivery failure policy error", P),
    Case(
        "https://github.com/sisimai/p5-sisimai/issues/221",
        RCPT,
        554,
        "5.7.1 <a@example.com>: Recipient address rejected: Access denied",
        P,
    ),
    Case(
        "https://github.com/ActiveCampaign/smtp-field-manual/issues/11",
        RCPT,
        550,
        "5.7.1 : Recipient address rejected:  Inactive MailBox, not poped for more than 6 months",
        P,
    ),
    Case("https://github.com/ActiveCampaign/smtp-field-manual/issues/11", RCPT, 550, "ip in prison", P),
    Case(
        SITEPACKAGE,
        RCPT,
        550,
        "Benutzer hat das Speichervolumen ueberschritten. / User has exhausted allowed storage space.",
        P,
    ),
    Case(SITEPACKAGE, RCPT, 554, "Refused. Your reverse DNS entry contains your IP address and a country code.", P),
    Case(F551, RCPT, 551, "5.7.1 Domain not found (#id-5.9.2)", P),
    Case(
        F554,
        RCPT,
        554,
        "5.2.122 The recipient has exceeded their limit for the number of messages they can receive per hour.",
        P,
    ),
    # "Later", in many words
    Case(F421, MAIL, 421, "Max message per connection reached, closing transmission channel", D),
    Case(F421, MAIL, 421, "4.3.2 Service not available [outlook.com]", L),
    Case(F421, RCPT, 421, "4.7.1 Messages to a@icloud.com deferred due to excessive volume. Try again later", D),
    Case(F450, RCPT, 450, "User is receiving mail too quickly", D),
    Case(F450, RCPT, 450, "4.2.0 <a@comcast.net> - Recipient temporarily unavailable", L),
    Case(F450, RCPT, 450, "4.2.1 The recipient has exceeded message rate limit. Try again later.", D),
    Case(F451, DOT, 451, "4.4.0 Message failed to be replicated: No healthy secondary server available", L),
    Case(F451, DOT, 451, "4.7.0 Temporary server error. Please try again later. PRX6 NextHop", D),
    Case(F452, RCPT, 452, "4.1.1 <a@comcast.net> user over quota", L),
    Case(F452, DOT, 452, "temporary domain failure <a@example.com>", D),
    Case(F452, DOT, 452, "<a@zoho.com> Mailbox delivery restricted by policy error", D),
]
