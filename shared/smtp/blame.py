"""Decides from a refusal's words whether it concerns the recipient's address or the server's policy towards us.

Servers use 550 for both. A wrong guess against the recipient suppresses a valid address. So words count against the
recipient only if they say that the address does not exist, and any word of policy overrides them. Quoted addresses,
hosts and URLs are not the server's own words: `spam@example.com` and `relay.example.com` prove nothing.

The words are taken from real replies (tests/unit/email_sender/real_replies.py). In languages other than English only
words of policy are known: without a code, such a reply never counts against the recipient.
"""

from __future__ import annotations

import re
import unicodedata

# longer than any honest reply
_MOST_READ = 8192
_MOST_ALIKE = 200
_QUOTES = "<>[](){}\"'`,;:.!?=*-"
_HOST = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z][a-z0-9-]*\.?")
_ADDRESS = re.compile(r"[^\s<>()\[\]{}\"'`,;:=]+@[^\s<>()\[\]{}\"'`,;:=]+")
_IP = re.compile(r"[0-9a-f]*[:.][0-9a-f:.]*[0-9a-f]")
# Postfix names the table that it searched: "User unknown in relay recipient table"
_TABLE = re.compile(r"\bin (?:local|relay|virtual) (?:recipient|mailbox|alias) table\b")

# Domino: "User Ana not listed in Domino Directory"; elsewhere "listed in" means a block list
_DIRECTORY = re.compile(r"\bnot listed in (?:\w+ )?(?:directory|address book)\b")

_WHO = r"(?:user|recipient|mailbox|mail ?box|account|address|addressee|alias|local ?part|customer|person|rcpt)"
_GONE = (
    r"(?:unknown|not (?:be )?(?:found|known|exist\w*|present|valid|recogni[sz]ed|listed|local)|unrecogni[sz]ed|"
    r"(?:does|do|did)(?: not|n.?t) exist|doesn.?t have|(?:is )?invalid|no longer (?:valid|exists?|available)|"
    r"unallocated|non-?existent|unavailable)"
)
_RECIPIENT = re.compile(
    rf"\b{_WHO}s?\b(?: \w+)? (?:is |was |were )?{_GONE}\b|"
    rf"\b(?:unknown|invalid|no such|no valid|bad|non-?existent|unrouteable|undeliverable)"
    rf" (?:or \w+ )?(?:(?:local|virtual|email|mail|destination|recipient|smtp) ){{0,2}}{_WHO}s?\b|"
    rf"\bno (?:mailbox|mail ?box|account|user|one)(?: \w+)?"
    rf" (?:here|there|found|by that name|with that|at this|for this)|"
    rf"\bnot (?:a|an|our|one of our) (?:\w+ )?{_WHO}s?\b|"
    r"\bemail name is not found\b|\baccount that you tried to reach does not exist\b"
)

_POLICY = re.compile(
    r"\brelay\w*|\bauth\w*|\bunauth\w*|\blog ?in\b|\bpassword|\bcredential|\bspf\b|\bdkim\b|\bdmarc\b|\barc\b|"
    r"\bdns(?:bl)?\b|\brdns\b|\brbl\b|\bptr\b|reverse|\bhelo\b|\behlo\b|\bhostname|\bclient\b|\bsender|"
    r"\bmail ?from\b|\b(?:mails|messages?|connections?|traffic|sent) from\b|"
    r"\bfrom (?:address|domain|host)\b|\benvelope\b|\bverif\w*|\bcallout\b|\bcallback\b|"
    r"\bblack ?-?list|\bblock|\bdeny\w*|\bdenied\b|\bwhite ?-?list|\bgr[ae]y-?list|\blisted (?:in|at|on|by)\b|"
    r"\bspam|\bjunk\b|\bunsolicited\b|\bbulk\b|\babus|\bphish|\bvirus|\bmalware|\bcontent\b|\battachment|"
    r"\bpolic(?:y|ies)\b|\breputation\b|\bprohibit|\bpermi(?:t|ssion)|\bnot allowed\b|\bdisallow|\brestrict|"
    r"\bban(?:ned)?\b|\brefus|\bforbidden\b|\baccess\b|\bsecurity\b|\btls\b|\bencrypt|\bips?\b|"
    r"\brates?\b|\blimit|\bexceed|\btoo (?:many|much|large|big|fast)\b|quota|\bfull\b|\bstorage\b|\bsize\b|"
    r"\bdisabled\b|\binactive\b|\bsuspend|\blocked\b|\bexpired\b|\btempor|"
    # a server that is not the recipient's, with codes that seem to condemn the address
    r"\brcpthosts\b|\bno such domain (?:at|here|on)\b|\bnot hosted\b|"
    r"\bdomains? (?:is |are )?(?:not |isn.?t |aren.?t )(?:local|handled|served|accepted|configured)\b|"
    r"\bnot (?:a |an |one of )?(?:our )?(?:local|hosted|own)? ?domains?\b|"
    r"\b(?:do|does) not (?:accept|handle|deliver|take) (?:any )?(?:e-?)?(?:mail|messages?) (?:for|to)\b|"
    # the server could not find out
    r"\btimed? ?out\b|\blook ?up fail|\bmisconfig|\btry (?:it )?again (?:later|in|after)\b|"
    # a server or a network in trouble
    r"\bservice (?:is )?(?:currently )?(?:not available|unavailable)\b|\b(?:server|system|service) (?:is |too )*busy\b|"
    r"\b(?:internal|server|system|database|directory|configuration) (?:server )?(?:error|problem|failure)|"
    r"\bmaintenance\b|\bno route to host\b|\bunreachable\b|\bconnection (?:reset|lost|closed|aborted)|\bbroken pipe\b|"
    # words about us: "your domain has no MX", "your server", "intrusion prevention active for"
    r"\byour (?:\w+ )?(?:server|domain|host|network|system|client|connection)\b|\bvol\b|"
    r"\bintrusion|\bfirewall|\bhoneypot|\btarpit"
)
# word stems, written without accents
_POLICY_ELSEWHERE = (
    # German, Dutch
    "abgelehnt", "verweigert", "gesperrt", "blockiert", "absender", "richtlinie", "nicht erlaubt", "voll",
    "anmeld", "uberschritten", "ueberschritten", "zu viele", "unzulassig", "unzulaessig", "verboten", "deaktiviert",
    "speicherplatz", "geweigerd", "geblokkeerd", "afzender", "overschreden", "te veel", "niet toegestaan",
    "gestattet", "zugriff", "zugang", "berechtigung", "sperrliste", "blockliste", "vertrauensw", "angenommen",
    "zu gross", "nicht verfugbar", "nicht verfuegbar", "nicht erreichbar", "interner fehler", "serverfehler", "spater",
    "spaeter", "zeituberschreitung", "zeitueberschreitung", "wartung", "ihr server", "ihre domain", "toegang",
    "toegelaten", "te groot", "niet beschikbaar", "interne fout", "later opnieuw", "onderhoud", "uw server",
    "uw domein",
    # Swedish, Danish, Norwegian, Finnish
    "avvisad", "avvist", "afvist", "blockera", "blokkert", "blokeret", "avsandare", "avsender", "afsender", "behorig",
    "estetty", "lahettaj", "fuld", "taynn",
    "otillgangl", "utilgængelig", "utilgjengelig", "senare", "senere", "tillat", "tilladt", "for stor", "internt fel",
    "intern fejl", "intern feil", "ei kaytettaviss", "myohemmin", "sisainen virhe", "liian suuri", "sallittu",
    # French
    "refus", "rejet", "bloqu", "expediteur", "emetteur", "politique", "relais", "interdit", "plein", "depass",
    "autoris", "trop de", "liste noire", "indesirable", "desactiv", "suspendu",
    "liste de blocage", "le droit", "volumineu", "indisponible", "erreur interne", "plus tard", "reessay", "occupe",
    "votre serveur", "votre domaine",
    # Spanish, Portuguese, Italian
    "rechaz", "rejeitad", "rifiut", "respint", "blocca", "denegad", "negad", "negat", "remitente", "remetente",
    "mittente", "politica", "autentic", "lleno", "llena", "cheia", "cheio", "piena", "pieno", "lista negra",
    "lista nera", "excedid", "excedeu", "superado", "superato", "limite", "cuota", "autoriza", "permitid", "proibid",
    "prohibid", "demasiad", "muitas", "troppi", "correo no deseado", "indesiderata", "inativ", "inactiv", "desativ",
    "permiso", "permissao", "consentit", "confianza", "muito grande", "troppo grand", "no disponible", "indisponivel",
    "non disponibile", "error interno", "erro interno", "errore interno", "mas tarde", "mais tarde", "piu tardi",
    "ocupado", "occupato", "mantenimiento", "manutencao", "manutenzione", "su servidor", "seu servidor", "su dominio",
    "seu dominio",
    # Indonesian, Malay
    "ditolak", "diblokir", "disekat", "pengirim", "kebijakan", "otentikasi", "autentikasi", "diizinkan", "dibenarkan",
    "penuh", "kuota", "terlampaui", "melebihi", "batas", "terlalu banyak", "dilarang", "dinonaktifkan", "daftar hitam",
    "daftar blokir", "izin", "diperbolehkan", "dipercaya", "tidak dapat diterima", "dibekukan", "ditangguhkan",
    "terlalu besar", "tidak tersedia", "sibuk", "gangguan", "sementara", "kesalahan server", "kesalahan sistem",
    "kesalahan internal", "coba lagi", "cuba lagi", "pemeliharaan", "server anda", "domain anda", "ip anda",
    # Vietnamese, Thai
    "tu choi", "bi chan", "nguoi gui", "thu rac", "đay", "gioi han", "vuot qua", "ปฏิเสธ", "ผู้ส่ง", "เต็ม", "สแปม",
    "khong đuoc phep", "khong co quyen", "danh sach đen", "qua lon", "khong kha dung", "loi noi bo", "thu lai",
    "bao tri", "ไม่อนุญาต", "บล็อก", "ไม่พร้อมใช้งาน", "ขัดข้อง", "ลองใหม่", "ภายหลัง",
    # Russian, Polish, Turkish
    "отклонен", "отказан", "спам", "заблокирован", "отправител", "авториз", "аутентифик", "лимит", "превышен", "квот",
    "переполнен", "запрещен", "политик", "репутац", "черн", "відхилен", "відправник", "переповнен", "odrzucon",
    "nadawc", "zablokowan", "autoryz", "uwierzyteln", "przekrocz", "pełn", "zabronion", "reddedil", "engellen",
    "gonderen", "kota", "dolu", "yetkilendir", "izin veril", "asildi",
    "отказано", "нет прав", "стоп-лист", "слишком больш", "недоступ", "внутренн", "позже", "проверк", "занят",
    "ваш сервер", "ваш домен", "заборонен", "пізніше", "odmow", "uprawnien", "za duz", "niedostepn", "wewnetrzn",
    "pozniej", "zajet", "kara liste", "cok buyuk", "hizmet kullan", "dahili hata", "daha sonra", "mesgul", "sunucunuz",
    # Czech, Hungarian, Romanian, Greek
    "odmitnut", "odesilatel", "zablokovan", "plna", "elutasit", "felado", "betelt", "megtelt", "respins", "expeditor",
    " plina", "απορριφθ", "αποστολε", "γεματ",
    "povolen", "opravneni", "prilis velk", "nedostupn", "interni chyba", "pozdeji", "engedely", "tul nagy",
    "nem elerheto", "belso hiba", "kesobb", "permis", "prea mare", "indisponibil", "eroare interna", "mai tarziu",
    "δεν επιτρεπετ", "μη διαθεσιμ", "εσωτερικο σφαλμα", "αργοτερα",
    # Arabic, Hebrew, Persian
    "مرفوض", "رفض", "محظور", "ممتلئ", "المرسل", "تجاوز", "مزعج", "נדחה", "חסום", "השולח", "מלאה", "پر است", "فرستنده",
    "غير مسموح", "غير متاح", "خطأ داخلي", "لاحقا", "مشغول", "לא מורש", "לא זמין", "שגיאה פנימית", "נסה שוב",
    # Chinese, Japanese, Korean
    "拒", "垃圾", "发件人", "發件人", "寄件", "黑名单", "黑名單", "信誉", "信譽", "认证", "認證", "認証", "策略",
    "频率", "頻率", "满", "滿", "超过", "超過", "超出", "限制", "限额", "禁止", "屏蔽", "封锁", "过多", "停用",
    "冻结", "授权",
    "允许", "允許", "权限", "權限", "信任", "中继", "中繼", "发送方", "發送方", "过大", "過大", "太大", "不可用", "忙",
    "内部错误", "內部錯誤", "系统错误", "系統錯誤", "稍后", "稍後", "再试", "再試", "维护", "維護",
    "迷惑", "送信者", "送信元", "ブロック", "スパム", "一杯", "いっぱい", "容量", "制限", "許可", "無効",
    "発信元", "中継", "受信できません", "大きすぎ", "利用できません", "内部エラー", "システムエラー", "後で", "後ほど",
    "混雑", "メンテナンス",
    "차단", "스팸", "거부", "초과", "인증", "꽉", "가득", "제한", "허용",
    "발신", "블랙리스트", "릴레이", "너무 큽", "너무 크", "사용할 수 없", "내부 오류", "나중에", "다시 시도", "점검",
)  # fmt: skip


def accuses_recipient(text: str) -> bool:
    """Return whether a reply says that the recipient's address does not exist."""
    return _RECIPIENT.search(_TABLE.sub("", words_of(text))) is not None


def speaks_of_policy(text: str, recipient: str = "") -> bool:
    """Return whether a reply is about us, the message, or a temporary state; ignores the recipient's local part."""
    words = _DIRECTORY.sub("", _TABLE.sub("", words_of(text, recipient.rpartition("@")[0])))
    return _POLICY.search(words) is not None or any(root in words for root in _POLICY_ELSEWHERE)


def names_another(text: str, recipient: str) -> bool:
    """Return whether a reply quotes addresses, and none of them may be the recipient's: it may be about the sender.

    A server may know the recipient by an address of another domain, or without what follows a `+`; its local part is
    the same. False if no recipient is given.
    """
    named = {_user_of(token) for token in _ADDRESS.findall(text[:_MOST_READ])}
    return bool(recipient and named) and _user_of(recipient) not in named


def _user_of(address: str) -> str:
    """Return the local part of an address up to a `+`; of a text that is no address, the same of the whole."""
    local, _, rest = address.casefold().rpartition("@")
    return (local or rest).partition("+")[0].strip('"')


def likeness(text: str, recipient: str) -> str:
    """Return what similar replies have in common: their words without quoted names and numbers."""
    words = words_of(text, recipient.rpartition("@")[0]).split()
    return " ".join(word for word in words if not any(map(str.isdecimal, word)))[:_MOST_ALIKE]


def words_of(text: str, quoted: str = "") -> str:
    """Return a reply's own words in lower case, without accents, addresses, hosts, URLs and IP addresses.

    `quoted` is another word to leave out, such as the recipient's local part.
    """
    tokens = (token.strip(_QUOTES) or token for token in text[:_MOST_READ].replace("...", " ").split())
    own = " ".join(token for token in tokens if not _is_quoted(token, quoted.casefold()))
    plain = unicodedata.normalize("NFKD", own.casefold())
    # ü becomes u and a mark, which is dropped; the marks of kana are in another block and stay
    return unicodedata.normalize("NFC", "".join(char for char in plain if not "\u0300" <= char <= "\u036f"))


def _is_quoted(token: str, quoted: str) -> bool:
    folded = token.casefold()
    if "@" in token or "://" in token or (quoted and folded == quoted):
        return True
    host = token.partition("/")[0].partition("[")[0]
    # "denied.Please" is not a host
    written_as_host = host.islower() or host.isupper()
    return (written_as_host and _HOST.fullmatch(host.casefold()) is not None) or _IP.fullmatch(folded) is not None
