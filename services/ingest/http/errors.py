"""Error codes and problems: everything that can be wrong with a request, in one closed table.

Every error answer has a code from `ERROR_CODES`, which fixes its HTTP status. Codes with status 422 also appear in the
`errors` list of an answer: one entry per problem, with the JSON path of the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.errors import KurirError

MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `field` is its JSON path (`recipients[3].variables.amount`), "" for the whole body."""

    field: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """A row of the table: the HTTP status of an answer with this code, and its default message."""

    status: int
    meaning: str


ERROR_CODES: dict[str, ErrorCode] = {
    # the request cannot be read
    "MALFORMED_JSON": ErrorCode(400, "The body is not valid JSON."),
    "MALFORMED_NDJSON": ErrorCode(400, "The first line of an NDJSON body must be the blast, as a JSON object."),
    "MALFORMED_CSV": ErrorCode(400, "The CSV cannot be read: no header row, an unknown encoding or an unclosed quote."),
    "MALFORMED_MULTIPART": ErrorCode(400, "The multipart body cannot be read, or a part is missing or unknown."),
    "MALFORMED_REQUEST": ErrorCode(400, "The HTTP request itself cannot be read."),
    "INVALID_QUERY": ErrorCode(400, "A query parameter is unknown or given twice, or its value is not allowed."),
    "INVALID_CURSOR": ErrorCode(400, "The cursor is invalid. Use `nextCursor` of the previous page, or start without."),
    "INVALID_IDEMPOTENCY_KEY": ErrorCode(400, "The Idempotency-Key must be 1 to 255 printable ASCII characters."),
    "INVALID_TOKEN": ErrorCode(400, "The unsubscribe link is invalid. Open it again from the message."),
    # who is calling
    "UNAUTHORIZED": ErrorCode(401, "The API key is missing or unknown. Send it as `Authorization: Bearer <key>`."),
    "INVALID_SIGNATURE": ErrorCode(
        401, "The provider's signature or login is missing or wrong; the message says which."
    ),
    "MISSING_SCOPE": ErrorCode(403, "The API key does not have the scope that this call needs."),
    "SENDER_NOT_ALLOWED": ErrorCode(403, "The API key is not allowed to send from this address."),
    "FOREIGN_PAGE": ErrorCode(403, "The console's cookie is accepted only from the console's own pages."),
    "LOOPBACK_ONLY": ErrorCode(403, "No API key is configured, so only direct requests from this machine are served."),
    # what the call refers to
    "NOT_FOUND": ErrorCode(404, "There is no API call at this path. See /docs for all calls."),
    "TEMPLATE_NOT_FOUND": ErrorCode(404, "There is no template with this id."),
    "BLAST_NOT_FOUND": ErrorCode(404, "There is no blast with this id."),
    "JOB_NOT_FOUND": ErrorCode(404, "There is no job with this id."),
    "CHANNEL_NOT_FOUND": ErrorCode(404, "There is no channel with this name."),
    "SUPPRESSION_NOT_FOUND": ErrorCode(404, "There is no suppression with this id."),
    "WEBHOOK_NOT_FOUND": ErrorCode(404, "There is no webhook with this id."),
    "METHOD_NOT_ALLOWED": ErrorCode(
        405, "This path does not support this method; the Allow header lists those it does."
    ),
    "REQUEST_TIMEOUT": ErrorCode(408, "The body arrived too slowly. Send the request again."),
    "IDEMPOTENCY_IN_PROGRESS": ErrorCode(
        409, "A request with this Idempotency-Key is still running. Repeat it after the time in Retry-After."
    ),
    "BLAST_ENDED": ErrorCode(409, "This blast has already finished."),
    "JOB_ENDED": ErrorCode(409, "This message has already finished, so it cannot be cancelled."),
    "JOB_PROCESSING": ErrorCode(
        409, "This message is being sent, so it cannot be cancelled. If the attempt fails, there is no other."
    ),
    "JOB_NOT_RETRYABLE": ErrorCode(
        409, "This message cannot be retried: it did not fail, or its blast was cancelled or no longer exists."
    ),
    "TEMPLATE_EXISTS": ErrorCode(409, "A template with this id already exists. Use PUT to change it."),
    "TOO_MANY_WEBHOOKS": ErrorCode(409, "There are 100 webhooks already. Remove one that is not used."),
    "WEBHOOK_DISABLED": ErrorCode(409, "This webhook is disabled. Enable it first."),
    "CONFIRMATION_MISMATCH": ErrorCode(409, "`confirm` does not fit the number that matches. Nothing was changed."),
    "BODY_TOO_LARGE": ErrorCode(413, "The body, or one line of it, is larger than allowed."),
    "UNSUPPORTED_MEDIA_TYPE": ErrorCode(415, "This call does not accept the Content-Type, or its charset."),
    "UNSUPPORTED_ENCODING": ErrorCode(415, "The Content-Encoding is not supported. Use gzip, deflate or none."),
    # the request can be read but not accepted
    "VALIDATION_FAILED": ErrorCode(422, "The request has several kinds of problems; `errors` lists them."),
    "IDEMPOTENCY_KEY_REUSED": ErrorCode(
        422, "This Idempotency-Key was already used for a different request. Use a new key."
    ),
    "REQUIRED": ErrorCode(422, "A required field is missing or empty."),
    "INVALID_TYPE": ErrorCode(422, "The value has the wrong type."),
    "INVALID_VALUE": ErrorCode(422, "The value is not allowed in this field."),
    "UNKNOWN_FIELD": ErrorCode(422, "There is no field with this name."),
    "TOO_LONG": ErrorCode(422, "The value is longer than allowed."),
    "INVALID_CHARACTERS": ErrorCode(422, "The value contains line breaks or control characters."),
    "NO_RECIPIENTS": ErrorCode(422, "The request has no recipients."),
    "TOO_MANY_RECIPIENTS": ErrorCode(422, "The request has more recipients than allowed."),
    "MISSING_EMAIL": ErrorCode(422, "The recipient has no email address, which the email channel needs."),
    "MISSING_PHONE": ErrorCode(422, "The recipient has no phone number, which this channel needs."),
    "INVALID_EMAIL": ErrorCode(422, "This is not a valid email address."),
    "INVALID_PHONE": ErrorCode(422, "This is not one valid phone number; the message says why."),
    "DUPLICATE_RECIPIENT": ErrorCode(422, "An earlier recipient of this blast has the same address."),
    "UNKNOWN_TEMPLATE": ErrorCode(422, "There is no template with this id."),
    "UNKNOWN_CHANNEL": ErrorCode(422, "There is no channel with this name."),
    "CHANNEL_NOT_CONFIGURED": ErrorCode(422, "No provider is configured for this channel."),
    "CHANNEL_NOT_SUPPORTED": ErrorCode(422, "The template does not support this channel."),
    "PUBLIC_URL_REQUIRED": ErrorCode(
        422, "Marketing mail needs a one-click unsubscribe link, but KURIR_PUBLIC_URL is not a public https URL."
    ),
    "MISSING_REQUIRED_VARIABLE": ErrorCode(422, "The template requires a variable that has no value."),
    "INVALID_VARIABLE": ErrorCode(422, "A variable's value does not fit its declared type."),
    "PARAMETER_COUNT_MISMATCH": ErrorCode(422, "The WhatsApp template has more parameters of a kind than allowed."),
    "INVALID_TEMPLATE": ErrorCode(422, "The template cannot be compiled, or does not fit its channels."),
    "RENDER_FAILED": ErrorCode(422, "The template cannot be rendered with these values."),
    "INVALID_URL": ErrorCode(422, "Webhooks cannot be sent to this URL; the message says why."),
    "UNKNOWN_EVENT": ErrorCode(422, "There is no event of this type."),
    "INVALID_SECRET": ErrorCode(422, "A webhook's secret is `whsec_` and base64 of 24 to 64 bytes."),
    "PRIORITY_NOT_ALLOWED": ErrorCode(422, "A blast of this size may not have priority 0."),
    "TIME_IN_PAST": ErrorCode(422, "The time is in the past."),
    "TIME_TOO_FAR": ErrorCode(422, "The time is more than a year away."),
    "EXPIRES_BEFORE_START": ErrorCode(422, "expiresAt must be after scheduledAt."),
    "ATTACHMENTS_TOO_LARGE": ErrorCode(422, "The attachments of one message are larger than 10 MB in total."),
    "MISSING_ATTACHMENT": ErrorCode(422, "The html shows an attachment (`cid:…`) that the message does not have."),
    # not now
    "RATE_LIMITED": ErrorCode(429, "Too many requests. Wait for the time in Retry-After; see the RateLimit headers."),
    "TOO_MANY_STREAMS": ErrorCode(429, "Too many clients read events already. Close one, or try again later."),
    "BACKLOG_FULL": ErrorCode(429, "Too many messages wait to be sent. Try again after the time in Retry-After."),
    "RECEIPTS_NOT_TAKEN": ErrorCode(
        429, "The receipts cannot be taken now. Send them again after the time in Retry-After."
    ),
    "INTERNAL_ERROR": ErrorCode(500, "An internal error occurred. Look up the request id in the logs for its cause."),
    "QUEUE_UNAVAILABLE": ErrorCode(
        503,
        "Redis cannot be reached, or does not serve Kurir; the message says why. Try again, with the same "
        "Idempotency-Key if you send messages.",
    ),
    "LOGGER_UNAVAILABLE": ErrorCode(503, "The logger cannot be reached. Try again."),
    "SENDER_UNAVAILABLE": ErrorCode(503, "The sender of this channel cannot be reached. Try again."),
    "STORAGE_UNAVAILABLE": ErrorCode(503, "The disk for incoming requests is full or read-only. Try again later."),
}


class ApiError(KurirError):
    """A request that ends with an error answer; code at any depth below the handlers may raise it."""

    def __init__(
        self,
        code: str,
        message: str = "",
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or ERROR_CODES[code].meaning)
        self.code = code
        self.message = message or ERROR_CODES[code].meaning
        self.problems = list(problems[:MAX_PROBLEMS])
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return ERROR_CODES[self.code].status


_TRY_AGAIN_S = 10


def queue_unavailable(why: str) -> ApiError:
    """Return the 503 answer for a Redis that does not serve; `why` is fit for clients."""
    what = f"{why[:1].upper()}{why[1:]}. Try again, with the same Idempotency-Key if you send messages."
    return ApiError("QUEUE_UNAVAILABLE", what, headers={"Retry-After": "2"})


def as_not_taken(error: ApiError) -> ApiError:
    """Return the error to answer a provider with: one that may pass becomes 429, since some drop receipts on a 5xx."""
    if error.status < 500 and error.code not in {"BACKLOG_FULL", "REQUEST_TIMEOUT"}:
        return error
    headers = {"Retry-After": str(_TRY_AGAIN_S)} | error.headers
    return ApiError("RECEIPTS_NOT_TAKEN", f"the receipts were not taken: {error.message}", headers=headers)


def invalid(problems: Sequence[Problem], total: int = 0) -> ApiError:
    """Make the 422 answer for these problems, with their code where all share one, VALIDATION_FAILED otherwise.

    `total` is how many were found, where more were found than are listed.
    """
    codes = {problem.code for problem in problems}
    code = codes.pop() if len(codes) == 1 else "VALIDATION_FAILED"
    count = max(total, len(problems))
    shown = f"more than {MAX_PROBLEMS}" if count > MAX_PROBLEMS else str(count)
    message = problems[0].message if count == 1 else f"{shown} problems; the first: {problems[0].message}"
    return ApiError(code, message, problems)
