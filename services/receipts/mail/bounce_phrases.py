"""The words by which bounces without a report say what they are, in lower case, in many languages."""

from __future__ import annotations

QMAIL = (
    "hi. this is the qmail-send program", "i'm afraid i wasn't able to deliver your message",
    "sorry, we were unable to deliver your message to the following address", "this is the mail delivery agent at",
    "unable to deliver message to the following address", "your mail message to the following address",
    "hi. this is the deliver program", "we were unable to deliver the following message",
)  # fmt: skip
DAEMONS = frozenset({
    "mailer-daemon", "mailerdaemon", "mailer_daemon", "mail-daemon", "maildaemon", "mdaemon", "daemon", "postmaster",
    "post_master", "mail-delivery", "maildelivery", "mailsystem", "mail-system", "mailadmin", "mail", "bounce",
})  # fmt: skip
# nobody else has these; people and their autoresponders have `mail`, `bounce` or a name such as "Mail Delivery"
SURE_DAEMONS = (
    "mailer-daemon", "mailerdaemon", "mailer_daemon", "mail-daemon", "maildaemon", "mdaemon", "postmaster",
    "post_master",
)  # fmt: skip
DAEMON_NAMES = ("mailer-daemon", "mailer daemon", "mail delivery", "mail deliver system", "system administrator",
                 "postmaster", "mail administrator", "mail system", "mail router", "mmsc")  # fmt: skip
FAILED = (
    # English
    "undeliver", "deliver fail", "delivery fail", "delivery has failed", "delivery failure", "failure notice",
    "returned mail", "returned to sender", "mail delivery failed", "could not be delivered", "couldn't be delivered",
    "cannot be delivered", "can not be delivered", "wasn't delivered", "was not delivered", "not be delivered",
    "unable to deliver", "permanent error", "permanent fatal error", "permanent delivery error", "delivery error",
    "delivery problem", "had delivery", "did not reach", "mail failure", "mail system error", "message rejected",
    "error has occurred while attempting to deliver", "failed to deliver", "error delivering", "nondeliverable",
    "failed recipient", "failed permanently", "recipients failed", "recipient failed",
    "mail failed", "delivery status notification (failure)", "rejected by a remote mail server",
    "error sending your mail", "trouble delivering", "bounce notification", "you sent was rejected",
    "failure reasons", "unknown user", "invalid user", "invalid recipient", "mail could not be sent",
    # German, Dutch
    "unzustellbar", "nicht zugestellt", "zustellung fehlgeschlagen", "zustellfehler", "onbestelbaar", "niet bezorgd",
    "niet worden bezorgd", "niet afgeleverd",
    # French, Spanish, Portuguese, Italian
    "non remis", "non délivr", "non delivr", "non distribu", "pas pu être remis", "pas pu etre remis",
    "pas pu être délivr", "n'a pu etre", "n'a pas pu", "échec de la remise", "echec de la remise", "revenu en erreur",
    "no se pudo entregar", "no se ha podido entregar", "no entregado", "no se puede entregar", "mensaje devuelto",
    "não entregue", "nao entregue", "não pôde ser entregue", "não foi possível entregar", "falha na entrega",
    "non recapitat", "mancato recapito", "impossibile recapitare", "mancata consegna", "non è stato possibile",
    # Nordic, Slavic, Turkish, Hungarian
    "kunde inte levereras", "olevererat", "kunne ikke leveres", "ikke levert", "kan ikke leveres", "ei voitu toimittaa",
    "не доставлен", "недоставлен", "не может быть доставлен", "не удалось доставить",
    "не доставлено", "не вдалося доставити",
    "nie dostarczono", "niedostarczon", "nie został dostarczon", "nie można dostarczyć", "nedoručiteľn", "nedoručiteln",
    "nelze doručit", "teslim edilemedi", "iletilemedi", "kézbesíthetetlen", "nem kézbesíthető",
    # Indonesian, Malay, Vietnamese, Thai
    "gagal dikirim", "tidak terkirim", "tidak dapat dikirim", "gagal terkirim", "tidak dapat dihantar",
    "không gửi được", "không thể gửi", "ไม่สามารถส่ง",
    # Chinese, Japanese, Korean
    "退信", "无法送达", "無法送達", "無法傳送", "无法投递", "投递失败", "投遞失敗", "未送达", "未送達", "发送失败",
    "退件",
    "配信不能", "配信できません", "配信エラー", "送信できません", "送信エラー", "メールエラー", "エラー通知",
    "届けられません",
    "送信できませんでした", "お届けできません", "반송", "전송 실패", "전송실패", "배달 실패", "발송 실패", "보낼 수 없",
)  # fmt: skip
DELAYED = (
    "delayed", "not yet been delivered", "still trying", "will be retried", "will retry", "continue to try",
    "delivery will continue", "temporary problem", "temporarily deferred", "warning: message",
    "warning: could not send",
    "delivery status notification (delay)", "this is a warning message only", "no action is required on your part",
    "verzögert", "retardé", "retrasad", "atrasad", "ritard", "задержан", "遅延", "延迟", "延遲", "지연",
)  # fmt: skip
NO_DELAY = (
    "permanent", "given up", "giving up", "gave up", "has been failing for a long time", "retry time",
    "not going to try again", "in the queue too long", "not be retried", "no further attempts",
)  # fmt: skip
