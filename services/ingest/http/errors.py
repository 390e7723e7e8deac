"""Problems: what can be wrong with a request, in one closed table of codes.

Every error answer bears a code of `ERROR_CODES`, which fixes its HTTP status. Codes with status 422 also stand in
the `errors` list of an answer, one per problem, with the JSON path of the field that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.errors import KurirError

MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `field` is its JSON path (`recipients[3].variables.amount`), "" for the whole."""

    field: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """A row of the table: the HTTP status of an answer with this code, and what it means."""

    status: int
    meaning: str


ERROR_CODES: dict[str, ErrorCode] = {
    # the request cannot be read
    "MALFORMED_JSON": ErrorCode(400, "The body is not the JSON it should be."),
    "MALFORMED_NDJSON": ErrorCode(400, "The first line of the NDJSON body, the blast, is missing or no JSON object."),
    "MALFORMED_CSV": ErrorCode(400, "The CSV cannot be read: no header row, an unknown encoding, or a broken quote."),
    "MALFORMED_MULTIPART": ErrorCode(400, "The multipart body cannot be read, or a part is missing or unknown."),
    "MALFORMED_REQUEST": ErrorCode(400, "The HTTP request itself cannot be read."),
    "INVALID_QUERY": ErrorCode(400, "A query parameter is unknown or has a value it cannot have."),
    "INVALID_CURSOR": ErrorCode(400, "The cursor was not given out by this API."),
    "INVALID_IDEMPOTENCY_KEY": ErrorCode(400, "The Idempotency-Key is empty, too long or not printable ASCII."),
    "INVALID_TOKEN": ErrorCode(400, "The unsubscribe link is not one that this system has signed."),
    # who asks
    "UNAUTHORIZED": ErrorCode(401, "No API key was given, or it is not known."),
    "MISSING_SCOPE": ErrorCode(403, "The API key lacks the scope that this call needs."),
    "SENDER_NOT_ALLOWED": ErrorCode(403, "The API key may not send from this address."),
    "LOOPBACK_ONLY": ErrorCode(403, "No API key is configured, so only direct calls from this machine are served."),
    # what is asked for
    "NOT_FOUND": ErrorCode(404, "There is nothing at this path."),
    "TEMPLATE_NOT_FOUND": ErrorCode(404, "There is no template with this id."),
    "BLAST_NOT_FOUND": ErrorCode(404, "There is no blast with this id."),
    "JOB_NOT_FOUND": ErrorCode(404, "There is no job with this id."),
    "CHANNEL_NOT_FOUND": ErrorCode(404, "There is no channel of this name."),
    "SUPPRESSION_NOT_FOUND": ErrorCode(404, "There is no suppression with this id."),
    "METHOD_NOT_ALLOWED": ErrorCode(405, "This path does not answer this method; see the Allow header."),
    "REQUEST_TIMEOUT": ErrorCode(408, "The body did not arrive in time."),
    "IDEMPOTENCY_IN_PROGRESS": ErrorCode(409, "A request with this Idempotency-Key is still running."),
    "BLAST_ENDED": ErrorCode(409, "The blast has ended, so this can no longer be done to it."),
    "JOB_ENDED": ErrorCode(409, "The job has ended, so it cannot be cancelled."),
    "JOB_PROCESSING": ErrorCode(409, "The job is being sent at this moment."),
    "JOB_NOT_RETRYABLE": ErrorCode(409, "The job did not fail, or may have been delivered; there is nothing to retry."),
    "TEMPLATE_EXISTS": ErrorCode(409, "A template with this id exists already; PUT changes it."),
    "CONFIRMATION_MISMATCH": ErrorCode(409, "`confirm` is not the number of what matches; nothing was done."),
    "BODY_TOO_LARGE": ErrorCode(413, "The body, or one line of it, is larger than allowed."),
    "UNSUPPORTED_MEDIA_TYPE": ErrorCode(415, "The Content-Type is not one that this call reads, or not UTF-8."),
    "UNSUPPORTED_ENCODING": ErrorCode(415, "The Content-Encoding is not one that this API reads: gzip or deflate."),
    # the request can be read but not done
    "VALIDATION_FAILED": ErrorCode(422, "The request has problems of several kinds; `errors` lists them."),
    "IDEMPOTENCY_KEY_REUSED": ErrorCode(422, "This Idempotency-Key was used for a different request."),
    "REQUIRED": ErrorCode(422, "A required field is missing or empty."),
    "INVALID_TYPE": ErrorCode(422, "The value has the wrong type."),
    "INVALID_VALUE": ErrorCode(422, "The value is not one that this field can have."),
    "UNKNOWN_FIELD": ErrorCode(422, "There is no such field."),
    "TOO_LONG": ErrorCode(422, "The value is longer than allowed."),
    "INVALID_CHARACTERS": ErrorCode(422, "The value contains line breaks or control characters."),
    "NO_RECIPIENTS": ErrorCode(422, "There is no recipient."),
    "TOO_MANY_RECIPIENTS": ErrorCode(422, "There are more recipients than this call takes."),
    "MISSING_EMAIL": ErrorCode(422, "The email channel is asked for, but the recipient has no email address."),
    "MISSING_PHONE": ErrorCode(422, "A phone channel is asked for, but the recipient has no phone number."),
    "INVALID_EMAIL": ErrorCode(422, "This is not an email address."),
    "INVALID_PHONE": ErrorCode(422, "This is not one phone number, or none that can exist; the message says why."),
    "DUPLICATE_RECIPIENT": ErrorCode(422, "An earlier recipient of this blast has the same address."),
    "UNKNOWN_TEMPLATE": ErrorCode(422, "There is no template with this id."),
    "UNKNOWN_CHANNEL": ErrorCode(422, "There is no channel of this name."),
    "CHANNEL_NOT_CONFIGURED": ErrorCode(422, "No provider is configured for this channel."),
    "CHANNEL_NOT_SUPPORTED": ErrorCode(422, "The template does not serve this channel."),
    "PUBLIC_URL_REQUIRED": ErrorCode(
        422, "Marketing mail needs a link to unsubscribe by one click, and KURIR_PUBLIC_URL is not a public https URL."
    ),
    "MISSING_REQUIRED_VARIABLE": ErrorCode(422, "A variable that the template requires has no value."),
    "INVALID_VARIABLE": ErrorCode(422, "A variable's value does not fit its declared type."),
    "PARAMETER_COUNT_MISMATCH": ErrorCode(422, "The WhatsApp parameters do not fit the template's."),
    "INVALID_TEMPLATE": ErrorCode(422, "The template cannot be compiled, or does not fit its channels."),
    "RENDER_FAILED": ErrorCode(422, "The template cannot be rendered with these values."),
    "PRIORITY_NOT_ALLOWED": ErrorCode(422, "A blast of this size may not have priority 0."),
    "TIME_IN_PAST": ErrorCode(422, "The time has passed already."),
    "TIME_TOO_FAR": ErrorCode(422, "The time is too far away."),
    "EXPIRES_BEFORE_START": ErrorCode(422, "expiresAt is not after scheduledAt."),
    "ATTACHMENTS_TOO_LARGE": ErrorCode(422, "The attachments of one message are larger than 10 MB in all."),
    "MISSING_ATTACHMENT": ErrorCode(422, "The html shows an attachment by its contentId that no attachment has."),
    # not now
    "RATE_LIMITED": ErrorCode(429, "Too many requests; see Retry-After and the RateLimit headers."),
    "BACKLOG_FULL": ErrorCode(429, "Too much is waiting to be sent; see Retry-After."),
    "INTERNAL_ERROR": ErrorCode(500, "Something went wrong inside; the request id finds it in the logs."),
    "QUEUE_UNAVAILABLE": ErrorCode(503, "Redis cannot be reached; nothing was lost, try again."),
    "LOGGER_UNAVAILABLE": ErrorCode(503, "The logger cannot be reached; try again."),
    "SENDER_UNAVAILABLE": ErrorCode(503, "The sender of this channel cannot be reached; try again."),
    "STORAGE_UNAVAILABLE": ErrorCode(503, "The disk for incoming requests is full or cannot be written."),
}


class ApiError(KurirError):
    """A request that ends with an error answer of this code; raised anywhere below the handlers."""

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


def invalid(problems: Sequence[Problem], total: int = 0) -> ApiError:
    """Make the 422 answer for these problems; its code is theirs where all share one, else VALIDATION_FAILED.

    `total` is how many were found, where that is more than are listed.
    """
    codes = {problem.code for problem in problems}
    code = codes.pop() if len(codes) == 1 else "VALIDATION_FAILED"
    count = max(total, len(problems))
    told = f"more than {MAX_PROBLEMS}" if count > MAX_PROBLEMS else str(count)
    message = problems[0].message if count == 1 else f"{told} problems; the first: {problems[0].message}"
    return ApiError(code, message, problems)
