"""The classification of replies: the table of classes, checked against real replies of providers."""

from __future__ import annotations

import time
from collections import Counter
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.email_sender.replies import LONGEST_WAIT_S, Stage, asked_wait_s, classify
from shared.errors import DeferredError, PermanentError, SendError, StopChannelError, TransientError
from shared.smtp.replies import Reply
from tests.unit.email_sender.real_replies import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=[f"{case.stage.value} {case.code} {case.text[:40]}" for case in CASES])
def test_real_answer_has_its_class(case: Case) -> None:
    """Class, suppression and wait are the table's, and the error has the reply's code and words unchanged."""
    error = classify(case.stage, Reply(case.code, case.text))
    assert type(error) is case.kind
    assert bool(getattr(error, "suppress", "")) is case.suppresses
    assert getattr(error, "wait_s", None) == case.wait_s
    assert error.reply == f"{case.code} {case.text}"
    assert error.code.startswith(str(case.code))


def test_table_is_of_many_providers() -> None:
    """It has at least 150 replies from at least fifteen providers, each with its source."""
    hosts = Counter(urlsplit(case.source).netloc for case in CASES)
    assert len({(case.code, case.text) for case in CASES}) >= 150
    assert len({case.source for case in CASES}) >= 15
    assert len(hosts) >= 5
    assert all(urlsplit(case.source).scheme in {"http", "https"} for case in CASES)


@pytest.mark.parametrize(
    ("stage", "code", "suppresses"),
    [(stage, code, stage is Stage.RCPT and code in {550, 551, 553})
     for stage in (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT) for code in (550, 551, 552, 553, 554)],
)  # fmt: skip
def test_bare_code_suppresses_at_rcpt_alone(stage: Stage, code: int, suppresses: bool) -> None:
    """Without an enhanced code, only a 550, 551 or 553 to RCPT TO can reject the address."""
    error = classify(stage, Reply(code, "no such user"))
    assert isinstance(error, PermanentError)
    assert bool(error.suppress) is suppresses


@pytest.mark.parametrize(
    ("enhanced", "suppresses"),
    [("5.1.1", True), ("5.1.2", True), ("5.1.3", True), ("5.1.6", True), ("5.1.10", True), ("5.1.0", False),
     ("5.1.7", False), ("5.1.8", False), ("5.2.1", False), ("5.2.2", False), ("5.4.1", False), ("5.4.6", False),
     ("5.7.1", False), ("5.7.26", False), ("5.1.11", False), ("5.0.0", False)],
)  # fmt: skip
def test_enhanced_code_decides_over_the_basic_one(enhanced: str, suppresses: bool) -> None:
    """A 550 to RCPT with 5.7.1 does not suppress the address; a 554 with 5.1.1 does."""
    for code in (550, 553, 554):
        error = classify(Stage.RCPT, Reply(code, f"{enhanced} words"))
        assert isinstance(error, PermanentError)
        assert bool(error.suppress) is suppresses


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [("try again in 2 seconds", 2), ("Try again in 5 minutes.", 300), ("retry after 60s", 60),
     ("please come back in 01:00:30", 3630), ("Greylisted for 300 seconds", 300), ("try again in 2 hours", 7200),
     ("deferred, wait 90 secs", 90), ("retry in 1m", 60), ("try again later", None), ("in 5 minutes", None),
     ("try again in 5 messages", None), ("try again in 99 hours", LONGEST_WAIT_S), ("try again in 3 months", None),
     ("host 10.0.0.5 said try again", None), ("Try again later. d9443c01a7-si9876543x4m.12 - gsmtp", None),
     ("try again in 0 seconds", None), ("come back in 00:00:00", None)],
)  # fmt: skip
def test_wait_is_read_from_words(text: str, wait_s: float | None) -> None:
    """A requested wait counts, in seconds, minutes, hours or as a clock; it is never zero and at most a day."""
    assert asked_wait_s(text) == wait_s


@given(st.sampled_from(Stage), st.integers(200, 599), st.text(max_size=60))
def test_any_reply_has_a_class(stage: Stage, code: int, text: str) -> None:
    """Every reply has an outcome; a 4xx without stop words is never permanent."""
    error = classify(stage, Reply(code, text))
    assert isinstance(error, SendError)
    if 400 <= code < 500 and not Reply(code, text).enhanced:
        assert not isinstance(error, PermanentError | StopChannelError)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("Greylisting is enabled", DeferredError), ("5.7.1 graylisted, retry in 300s", DeferredError),
     ("5.7.0 Rate exceeded: wait at least 2 minutes", DeferredError), ("5.3.2 come back after 1 hour.", DeferredError),
     ("5.1.1 user unknown, try again in 2 hours", DeferredError),
     ("5.1.1 no such user, wait 5 seconds", PermanentError), ("try again later", PermanentError),
     ("5.3.4 above 35 M: reduce it and try again", PermanentError), ("5.7.1 try again with TLS", PermanentError),
     ("5.4.7 expired after a delay of 72 hours", PermanentError)],
)  # fmt: skip
def test_final_code_does_not_outweigh_a_wait_that_the_words_name(text: str, kind: type[SendError]) -> None:
    """Only greylisting and a time to try again count, and no verdict on the recipient is put off."""
    assert type(classify(Stage.RCPT, Reply(550, text))) is kind


def test_enhanced_code_is_the_first_word_alone() -> None:
    """Digits among the words are not a status code; several lines make one reply."""
    assert Reply(550, "5.1.1 no").enhanced == "5.1.1"
    assert Reply(550, "host 5.1.1 no").enhanced == ""
    assert Reply(550, "5.1.1234 no").enhanced == ""
    assert Reply(550, "5.1.1.20 is listed").enhanced == ""
    assert Reply(550, "[5.7.1.9] is listed").enhanced == ""
    assert Reply(550, "5.7.1. Blocked").enhanced == "5.7.1"
    assert Reply(550, "5.7.26 a\n5.7.26 b").codes == "550 5.7.26"
    assert isinstance(classify(Stage.RCPT, Reply(550, "4.7.1 grey")), DeferredError)
    assert isinstance(classify(Stage.RCPT, Reply(354, "what")), TransientError)


@pytest.mark.parametrize(
    "text",
    ["#5.7.1 Your access to submit messages to this e-mail system has been rejected.", "[5.7.1] no", "(5.7.1) no"],
)
def test_enhanced_code_in_dress_counts_too(text: str) -> None:
    """If it were missed, a refusal of the sender as 550 would suppress every address at that provider."""
    error = classify(Stage.RCPT, Reply(550, text))
    assert isinstance(error, PermanentError)
    assert (error.code, error.suppress) == ("550 5.7.1", "")


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [("sorry, no mailbox here by that name. (#5.1.1)", "5.1.1"), ("message refused [5.7.1]", "5.7.1"),
     ("Access denied #5.7.1 see the manual", "5.7.1"), ("rejected 5.7.1", "5.7.1"), ("rejected - 5.7.1.", "5.7.1"),
     ("first line\n5.7.1 second", "5.7.1"), ("5.1.1 gone (#5.7.1)", "5.1.1"), ("later (#4.2.1)", ""),
     ("by Exim 4.96.2", ""), ("from 10.5.1.1", ""), ("see section 5.1.1.2", ""), ("ticket #5.1.1234", "")],
)  # fmt: skip
def test_enhanced_code_behind_the_words_counts(text: str, enhanced: str) -> None:
    """A code at the end or in brackets counts if it has the class of the basic code."""
    assert Reply(550, text).enhanced == enhanced


@pytest.mark.parametrize("enhanced", ["", "5.7.1 ", "5.1.1 "])
def test_basic_code_of_4xx_is_later_whatever_follows(enhanced: str) -> None:
    """A reply whose codes contradict each other is not permanent."""
    assert isinstance(classify(Stage.RCPT, Reply(451, f"{enhanced}no such user")), TransientError)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("code", [421, 432, 450, 451, 452, 454])
@pytest.mark.parametrize("enhanced", ["5.7.8", "5.7.0", "5.7.1", "5.1.1", "4.7.0", "4.7.8"])
def test_4xx_stops_and_fails_nothing_at_any_stage(stage: Stage, code: int, enhanced: str) -> None:
    """A server that temporarily cannot check our password has not refused it."""
    assert not isinstance(classify(stage, Reply(code, f"{enhanced} words")), PermanentError | StopChannelError)


WORDS_OF_POLICY = [
    "relay not permitted", "we do not relay", "authentication required", "SMTP AUTH is required", "SPF check failed",
    "SPF fail - not authorized", "blocked using spamhaus", "Sender verify failed", "DKIM signature invalid",
    "rejected by DMARC policy", "no PTR record", "reverse DNS lookup failed", "HELO command rejected: invalid name",
    "your IP has a poor reputation", "too many messages, rate exceeded", "message content rejected", "virus found",
    "message size exceeds limit", "rejected for policy reasons", "you are blacklisted", "access denied",
    "sending domain not allowed", "mailbox full", "account is disabled", "please log in first", "not permitted",
    "administrative prohibition", "TLS required", "user is over quota", "Absender abgelehnt", "expéditeur refusé",
    "remitente rechazado", "pengirim ditolak", "发件人被拒绝", "送信者を拒否しました", "mittente rifiutato",
    # a server that takes no mail for that domain from us, and one that could not find out
    "sorry, that domain isn't in my list of allowed rcpthosts", "domain is not hosted here", "domain not local",
    "no such domain at this location", "not one of our domains", "not a local domain",
    "we do not accept mail for that domain", "user lookup failed", "directory lookup timed out",
    # a server or a network in trouble
    "service unavailable", "Service is not available", "server too busy", "internal server error", "database error",
    "server configuration problem", "down for maintenance", "no route to host", "network is unreachable",
    "connection reset by peer", "broken pipe",
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS_OF_POLICY)
def test_words_of_policy_accuse_nobody(words: str) -> None:
    """Words of policy never suppress: alone, with the recipient named, in any case, or with a code of the recipient."""
    for text in (words, words.upper(), f"<ana@example.com>: {words}", f"unknown user or {words}", f"5.1.1 {words}"):
        error = classify(Stage.RCPT, Reply(550, text), "ana@example.com")
        assert (type(error), error.suppress) == (PermanentError, ""), text  # type: ignore[attr-defined]  # of that type


@pytest.mark.parametrize(
    "words",
    ["no such user", "No such user here", "user unknown", "Unknown user", "User not found", "mailbox not found",
     "Mailbox does not exist", "invalid recipient", "recipient unknown", "no mailbox here by that name",
     "unknown address",
     "Recipient address rejected: User unknown in relay recipient table", "not a valid mailbox",
     "address does not exist",
     "account does not exist", "unrouteable address", "mailbox unavailable", "no such recipient",
     "This user doesn't exist",
     "That user does not exist", "user doesn't have an account here", "Bad destination mailbox address"],
)  # fmt: skip
def test_verdict_on_the_recipient_suppresses(words: str) -> None:
    """Any wording suppresses, even if the address or a quoted host looks like a word of policy."""
    for recipient in ("ana@example.com", "spam@relay.example", "blocked@spf.example", "policy@example.com"):
        local, _, domain = recipient.partition("@")
        for text in (
            words, f"<{recipient}>: {words}", f"{words}: {recipient}", f"{words} ({local})", f"[{domain}] {words}",
            f"{words}, see https://spam.example/blocked?relay=1", f"relay.example.net said: {words}", f"5.1.1 {words}",
        ):  # fmt: skip
            error = classify(Stage.RCPT, Reply(550, text), recipient)
            assert isinstance(error, PermanentError)
            assert error.suppress, text


@pytest.mark.parametrize(
    "words",
    ["Benutzer unbekannt", "Empfänger unbekannt", "utilisateur inconnu", "usuario desconocido", "usuário inexistente",
     "utente sconosciuto", "penerima tidak dikenal", "用户不存在", "宛先が見つかりません", "пользователь не найден"],
)  # fmt: skip
def test_verdict_in_another_language_needs_a_code(words: str) -> None:
    """Words in an unknown language do not suppress; with 5.1.1 they do."""
    for text, suppressed in ((words, False), (f"5.1.1 {words}", True), (f"{words} (#5.1.1)", True)):
        error = classify(Stage.RCPT, Reply(550, text), "ana@example.com")
        assert isinstance(error, PermanentError)
        assert bool(error.suppress) is suppressed, text


@pytest.mark.parametrize(
    ("text", "suppressed"),
    [
        ("5.1.1 <news@shop.example>: User unknown", False),
        ("5.1.1 unknown user: bounces+7@mail.shop.example", False),
        ("no such user 'news@shop.example'", False),
        ("5.1.1 MAIL FROM:<news@shop.example> does not exist", False),
        ("5.1.1 <Ana@Example.com>: User unknown", True),
        ("5.1.1 ana@inside.example.net: no such user", True),
        ("5.1.1 <ana+news@example.com>: no such user", True),
        ("5.1.1 <news@shop.example> to <ana@example.com>: no such recipient", True),
        ("5.1.1 RCPT TO:<ana@example.com> unknown user", True),
    ],
)
def test_a_reply_about_another_address_accuses_nobody(text: str, suppressed: bool) -> None:
    """A server that does not know our sender says so with the codes of a recipient; the recipient may be well."""
    error = classify(Stage.RCPT, Reply(550, text), "ana@example.com")
    assert isinstance(error, PermanentError)
    assert bool(error.suppress) is suppressed


ACQUITTED = [
    # quotas, log-ins and senders, in the languages of the recipients' servers
    "Mailbox vol", "Postfach voll", "postkassen er fuld", "postilaatikko on täynnä",
    "a postafiók megtelt", "căsuța este plină", "το γραμματοκιβώτιο είναι γεμάτο",
    "Speicherplatz überschritten", "Anmeldung erforderlich", "boîte pleine",
    "Quota dépassé", "limite excedido", "buzón lleno", "caixa postal cheia", "casella piena", "Skrzynka pełna",
    "Brak autoryzacji", "Przekroczono limit", "Ящик переполнен", "Нет авторизации", "Превышен лимит", "kutu dolu",
    "Kuota terlampaui", "kotak surat penuh", "Hòm thư đầy", "người gửi bị chặn", "邮箱已满", "发送频率过高",
    "郵箱已滿", "メールボックスが一杯です", "送信元が許可されていません", "메일함이 가득 찼습니다", "الصندوق ممتلئ",
    "Avsändaren avvisad", "схранилище: доступ запрещен", "zpráva odmítnuta", "ผู้ส่งถูกปฏิเสธ",
    # permissions, sizes, servers in trouble, "later", and our own server
    "Zugriff nicht gestattet", "Nachricht zu groß", "Dienst nicht verfügbar", "Bitte später erneut versuchen",
    "Niet toegelaten", "Interne fout", "Tjänsten är otillgänglig", "Viesti on liian suuri", "Ikke tilladt",
    "Réessayez plus tard", "Vous n'avez pas le droit d'envoyer", "Votre serveur est sur une liste de blocage",
    "No tiene permiso", "Intente más tarde", "Serviço indisponível", "Messaggio troppo grande", "Non consentito",
    "Email dari domain Anda tidak dapat diterima", "Layanan sedang tidak tersedia", "Anda tidak memiliki izin",
    "Gangguan sementara, coba lagi nanti", "Akun penerima dibekukan", "Pelayan sibuk", "Không được phép",
    "Vui lòng thử lại sau", "บริการไม่พร้อมใช้งาน", "Сервис недоступен", "Попробуйте позже", "Нет прав",
    "Ваш сервер в стоп-листе", "Odmowa dostępu", "Spróbuj później", "Sunucunuz kara listede", "İzin yok",
    "Služba je nedostupná", "Túl nagy üzenet", "Serviciu indisponibil", "Δεν επιτρέπεται", "الخدمة غير متاحة",
    "חשבון לא זמין", "不允许中继", "服务不可用", "请稍后再试", "發送方域名不存在", "発信元のドメインが存在しません",
    "後でもう一度お試しください", "サイズが大きすぎます", "나중에 다시 시도하십시오", "릴레이 할 수 없습니다",
    # words of both kinds: policy wins
    "user unknown; your domain has no MX record", "recipient address invalid, intrusion prevention active for you",
    "too many invalid recipients", "no such user, blocked using spamhaus", "unknown recipient: SPF check failed",
    "user not found; your mail server is misconfigured", "recipient unknown, message too large",
    "unknown user (authentication required)", "invalid recipient: high probability of spam",
]  # fmt: skip


@pytest.mark.parametrize("words", ACQUITTED)
def test_policy_is_understood_in_many_languages_and_outweighs_any_verdict(words: str) -> None:
    """Even with a code of the recipient: a dead address costs one more refusal, but a live one would be lost."""
    for text in (words, f"5.1.1 {words}", f"{words} (#5.1.1)"):
        error = classify(Stage.RCPT, Reply(550, text), "ana@example.com")
        assert (type(error), error.suppress) == (PermanentError, ""), text  # type: ignore[attr-defined]  # of that type


@pytest.mark.parametrize(
    "words",
    ["5.1.1 User unknown. Please remove this address from your list", "5.1.10 Recipient address has null MX",
     "5.1.2 Host unknown (Name server: host not found)", "5.1.1 this account was closed, please write no more today",
     "5.1.1 The address you entered couldn't be found. Check its spelling", "5.1.1 Adresse inexistante",
     "5.1.1 Ukjent mottaker", "5.1.1 Tuntematon vastaanottaja", "5.1.1 Neznámý příjemce", "5.1.1 无此用户",
     "5.1.1 Ismeretlen címzett", "5.1.1 Άγνωστος παραλήπτης", "5.1.1 該当するユーザーがいません",
     "5.1.1 adres onbekend",
     "5.1.1 Адресат не существует", "5.1.1 Người dùng không tồn tại", "5.1.1 ไม่พบผู้ใช้", "5.1.1 böyle bir hesap yok"],
)  # fmt: skip
def test_words_beside_a_verdict_that_are_not_of_policy_leave_it_one(words: str) -> None:
    """A code of the recipient with harmless words in any language suppresses."""
    error = classify(Stage.RCPT, Reply(550, words), "ana@example.com")
    assert isinstance(error, PermanentError)
    assert error.suppress


def test_long_replies_are_read_in_linear_time() -> None:
    """A hostile reply of a megabyte is classified within a second."""
    for text in (
        "a" * 1_000_000,
        "user " * 200_000,
        "5.1.1 " * 170_000,
        " " * 1_000_000,
        "no such " * 125_000,
        "a." * 500_000,
    ):
        started = time.process_time()
        classify(Stage.RCPT, Reply(550, text), "ana@example.com")
        assert time.process_time() - started < 3
