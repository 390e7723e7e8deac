"""Hooks: where providers report deliveries, bounces, complaints and opt-outs.

Nothing is done with a body but to check who sent it and to add it, whole, to the stream of receipts. Providers want an
answer within milliseconds, and what cannot be read must not be lost. They drop receipts, or switch a hook off, on
answers other than 2xx and 429, so everything that may pass is a 429 (`as_not_taken`).
"""

from __future__ import annotations

from aiohttp import web

from services.ingest.hooks.certificates import AmazonError
from services.ingest.hooks.checking import PROVIDERS, Genuine
from services.ingest.hooks.signatures import Delivery, SignatureError
from services.ingest.http.bodies import READING_ERRORS, read_whole
from services.ingest.http.errors import ApiError, as_not_taken
from services.ingest.http.operation import JSON, Body, Call, Operation, Parameter
from services.ingest.http.ready_answer import plain_answer
from services.ingest.http.responses import Answer
from shared.errors import QueueFullError, QueueUnavailableError

# Meta sends up to 3 MB
MOST_BYTES = 5 * 1024 * 1024
_LONGEST_CHALLENGE = 1000
_TRY_AGAIN_S = 10


async def _take(call: Call) -> web.StreamResponse:
    provider = _provider(call)
    call.note_no_more()
    outcome = "not_taken"
    try:
        outcome = await _keep(call, provider)
    except ApiError as error:
        outcome = "not_taken" if as_not_taken(error).code == "RECEIPTS_NOT_TAKEN" else "refused"
        raise
    finally:
        call.gateway.metrics.hook(provider, outcome)
    return plain_answer(call)


async def _keep(call: Call, provider: str) -> str:
    """Add a genuine request to the stream of receipts; return the outcome; raises ApiError."""
    gateway = call.gateway
    if not gateway.records.watch.available:
        raise _not_taken(gateway.records.watch.why)
    body = await read_whole(call, MOST_BYTES)
    genuine = await _check(call, provider, body)
    if not genuine.keep:
        return "taken"
    try:
        return "taken" if await gateway.queue.receipts.add(provider, body, genuine.once) else "repeated"
    except QueueFullError as full:
        raise _not_taken(full.reason, full.retry_after_s) from full
    except QueueUnavailableError as away:
        raise _not_taken(away.why) from away


def _not_taken(why: str, retry_after_s: int = _TRY_AGAIN_S) -> ApiError:
    return ApiError(
        "RECEIPTS_NOT_TAKEN", f"the receipts were not taken: {why}", headers={"Retry-After": str(retry_after_s)}
    )


def _provider(call: Call) -> str:
    """Return the provider that a URL names; a wrong token gets 404, before anything is read."""
    found = call.request.match_info
    if not call.gateway.hooks.admits(found["token"]) or found["provider"] not in PROVIDERS:
        raise ApiError("NOT_FOUND")
    return found["provider"]


async def _check(call: Call, provider: str, body: bytes) -> Genuine:
    """Return what to do with a genuine request, and show in the health what should be fixed; raises ApiError."""
    gateway = call.gateway
    delivery = Delivery(call.request.headers, body, gateway.clock.now_ms() / 1000)
    try:
        genuine = await gateway.hooks.check(provider, delivery)
    except SignatureError as error:
        gateway.health.warn(f"hook_{provider}", f"a request of {provider} was refused: {error}")
        headers = {"WWW-Authenticate": 'Basic realm="kurir"'} if error.basic else {}
        raise ApiError("INVALID_SIGNATURE", f"the request is refused: {error}", headers=headers) from error
    except AmazonError as error:
        raise _not_taken(str(error)) from error
    missing = gateway.hooks.unchecked(provider)
    gateway.health.warn(f"hook_{provider}", _unchecked(provider, missing) if missing else None)
    return genuine


def _unchecked(provider: str, missing: str) -> str:
    return f"anyone who knows the hook's URL can send receipts as {provider}; set {missing} to check signatures"


async def _answer_challenge(call: Call) -> web.Response:
    query = call.request.query
    challenge = query.get("hub.challenge", "")
    if not call.gateway.hooks.admits(call.request.match_info["token"]):
        raise ApiError("NOT_FOUND")
    if not call.gateway.hooks.admits_meta(query.get("hub.verify_token", "")):
        raise ApiError("INVALID_SIGNATURE", "hub.verify_token is not KURIR_META_VERIFY_TOKEN")
    if query.get("hub.mode") != "subscribe" or not 0 < len(challenge) <= _LONGEST_CHALLENGE:
        raise ApiError("INVALID_QUERY", "hub.mode must be subscribe, and hub.challenge is required")
    return web.Response(text=challenge, content_type="text/plain", charset="utf-8")


OPERATIONS = [
    Operation("POST", "/hooks/{provider}/{token}", "takeReceipts",
              f"Take what a provider reports about messages; providers: {', '.join(PROVIDERS)}",
              _take, None, Answer, rooted=True, limited=False, queue=False, open_query=True, hook=True,
              errors=("NOT_FOUND", "INVALID_SIGNATURE", *(one for one in READING_ERRORS if one != "REQUEST_TIMEOUT")),
              body=Body({JSON: {}, "text/plain": {"type": "string"}})),
    Operation("GET", "/hooks/meta/{token}", "verifyMetaHook", "Answer the challenge that Meta sends to verify the URL",
              _answer_challenge, None, rooted=True, limited=False, queue=False, open_query=True, hook=True,
              errors=("NOT_FOUND", "INVALID_SIGNATURE", "INVALID_QUERY"), content_types=("text/plain",),
              parameters=(
                  Parameter("hub.mode", "Always `subscribe`."),
                  Parameter("hub.challenge", "The text to answer with."),
                  Parameter("hub.verify_token", "KURIR_META_VERIFY_TOKEN, as it was entered at Meta."),
              )),
]  # fmt: skip
