"""Endpoints as rows: what the client configures, its secrets, and whether Kurir delivers to it.

Ingest has checked every value. A row is marked `unsynced` with each change that senders must know; `sync` writes it to
Redis and clears the mark. A deleted endpoint stays as a row until nothing of it is left in Redis.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import orjson

from services.logger.database import Database
from services.logger.filters import InvalidQueryError
from services.logger.webhooks.journal import Entry, decode_config, write_entries
from shared.clock import rfc3339
from shared.errors import KurirError
from shared.sealing import Seal
from shared.webhooks import (
    MOST_ENDPOINTS,
    WEBHOOK_DISABLED,
    WEBHOOK_TEST,
    Endpoint,
    EndpointConfig,
    make_secret,
    seal_secret,
)

DISABLED = "disabled"
"""The reason of the pauses that follow from a disabled endpoint, rather than lead to one."""
BY_CLIENT = "disabled by the client"
KEEP_SECRET_MS = 24 * 3_600_000
"""How long the former secret still signs after a rotation."""
_MOST_SECRETS = 10

COLUMNS = (
    "number, endpoint_id, config, secrets, enabled, disabled_reason, created_at_ms, updated_at_ms, enabled_at_ms,"
    " failing_since_ms, delivered_at_ms, cursor, next_n, unsynced, deleted"
)
EVERY = f"SELECT {COLUMNS} FROM webhook_endpoints ORDER BY number"  # noqa: S608 -- this module's own words
_ONE = f"SELECT {COLUMNS} FROM webhook_endpoints WHERE endpoint_id = ? AND NOT deleted"  # noqa: S608 -- own words
_INSERT = """
INSERT INTO webhook_endpoints (endpoint_id, config, secrets, enabled, disabled_reason, created_at_ms, updated_at_ms,
    enabled_at_ms, cursor)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(id), 0) FROM webhook_events))
"""
_CONFIGURE = "UPDATE webhook_endpoints SET config = ?, updated_at_ms = ?, unsynced = true WHERE number = ?"
_ENABLE = """
UPDATE webhook_endpoints SET enabled = true, disabled_reason = '', enabled_at_ms = ?, failing_since_ms = 0,
    unsynced = true
WHERE number = ?
"""
_DISABLE = "UPDATE webhook_endpoints SET enabled = false, disabled_reason = ?, unsynced = true WHERE number = ?"
_ROTATE = "UPDATE webhook_endpoints SET secrets = ?, updated_at_ms = ?, unsynced = true WHERE number = ?"
_DELETE = "UPDATE webhook_endpoints SET deleted = true, enabled = false, unsynced = true WHERE number = ?"
_CHANGEABLE = frozenset(field.encode_name for field in msgspec.structs.fields(EndpointConfig))


class UnknownWebhookError(KurirError):
    """No webhook has this id."""


class TooManyWebhooksError(KurirError):
    """There are as many webhooks as there may be."""


class WebhookDisabledError(KurirError):
    """The webhook is disabled, so nothing can be sent to it now."""


class SecretOf(msgspec.Struct, frozen=True, array_like=True):
    """A sealed secret, and until when it signs in ms, 0 for no end."""

    sealed: str
    ends_ms: int = 0


class Rotation(NamedTuple):
    """A rotation at `now_ms`: the new secret, "" to make one, and until when the former ones sign."""

    secret: str
    until_ms: int
    now_ms: int


class Row(NamedTuple):
    """An endpoint's row."""

    number: int
    endpoint_id: str
    config_text: str
    secrets_text: str
    enabled: int
    disabled_reason: str
    created_at_ms: int
    updated_at_ms: int
    enabled_at_ms: int
    failing_since_ms: int
    delivered_at_ms: int
    cursor: int
    next_n: int
    unsynced: int
    deleted: int

    @property
    def config(self) -> EndpointConfig:
        """What the client configured; `enabled` is Kurir's, which may have disabled it."""
        return decode_config(self.config_text)

    @property
    def is_fed(self) -> bool:
        """Whether the endpoint gets deliveries now: senders know it as it is here, and it is enabled."""
        return bool(self.enabled) and not self.unsynced and not self.deleted

    def endpoint(self) -> Endpoint:
        """Return what senders have to know."""
        found = _secrets.decode(self.secrets_text)
        return Endpoint(
            endpoint_id=self.endpoint_id,
            number=self.number,
            url=self.config.url,
            enabled=bool(self.enabled),
            secrets=[one.sealed for one in found],
            secret_ends_ms=[one.ends_ms for one in found],
        )


_secrets = msgspec.json.Decoder(list[SecretOf])


def _pack_secrets(every: list[SecretOf]) -> str:
    return msgspec.json.encode(every).decode()


def read_rows(connection: Database) -> list[Row]:
    """Return all endpoints, deleted ones too whose partition is not deleted yet."""
    return [Row._make(row) for row in connection.execute(EVERY)]


def find(connection: Database, endpoint_id: str) -> Row:
    """Return an endpoint; raises UnknownWebhookError."""
    row = connection.execute(_ONE, (endpoint_id,)).fetchone()
    if row is None:
        raise UnknownWebhookError("no webhook has this id")
    return Row._make(row)


def create(connection: Database, wanted: Mapping[str, Any], seal: Seal, now_ms: int) -> tuple[Row, str]:
    """Add an endpoint, which gets events from now on; return it and its secret, which is shown once.

    Raises InvalidQueryError and TooManyWebhooksError.
    """
    config = _config_of(wanted)
    if connection.execute("SELECT count(*) FROM webhook_endpoints WHERE NOT deleted").fetchone()[0] >= MOST_ENDPOINTS:
        raise TooManyWebhooksError(f"there are {MOST_ENDPOINTS} webhooks, the most that there may be")
    secret = str(wanted.get("secret") or make_secret())
    endpoint_id = "wh_" + secrets.token_hex(8)
    packed = _pack_secrets([SecretOf(seal_secret(secret, seal))])
    reason = "" if config.enabled else BY_CLIENT
    row = (endpoint_id, _text_of(config), packed, config.enabled, reason, now_ms, now_ms, now_ms)
    connection.execute(_INSERT, row)
    return find(connection, endpoint_id), secret


def change(connection: Database, endpoint_id: str, wanted: Mapping[str, Any], now_ms: int) -> Row:
    """Change the given fields of an endpoint; raises UnknownWebhookError and InvalidQueryError.

    Enabling it again forgives its failures, and it gets all that happened meanwhile.
    """
    row = find(connection, endpoint_id)
    if unknown := wanted.keys() - _CHANGEABLE:
        raise InvalidQueryError(f"{min(unknown)} is not a field that can be changed")
    before = msgspec.to_builtins(row.config)
    config = _config_of({**before, "enabled": bool(row.enabled), **wanted})
    connection.execute(_CONFIGURE, (_text_of(config), now_ms, row.number))
    if config.enabled and not row.enabled:
        connection.execute(_ENABLE, (now_ms, row.number))
    elif row.enabled and not config.enabled:
        connection.execute(_DISABLE, (BY_CLIENT, row.number))
    return find(connection, endpoint_id)


def rotate(connection: Database, endpoint_id: str, rotation: Rotation, seal: Seal) -> str:
    """Give an endpoint another secret and return it; raises UnknownWebhookError.

    At most ten sign: all signatures are in one header line, and receivers take lines of a few kilobytes.
    """
    row = find(connection, endpoint_id)
    secret, until_ms = rotation.secret or make_secret(), rotation.until_ms
    former = [
        SecretOf(one.sealed, min(one.ends_ms or until_ms, until_ms))
        for one in _secrets.decode(row.secrets_text)
        if not one.ends_ms or one.ends_ms > rotation.now_ms
    ]
    packed = _pack_secrets([SecretOf(seal_secret(secret, seal)), *former[: _MOST_SECRETS - 1]])
    connection.execute(_ROTATE, (packed, rotation.now_ms, row.number))
    return secret


def delete(connection: Database, endpoint_id: str) -> int:
    """Delete an endpoint; return its number. Its rows go once nothing of it is left in Redis.

    Raises UnknownWebhookError.
    """
    row = find(connection, endpoint_id)
    connection.execute(_DELETE, (row.number,))
    return row.number


def disable(connection: Database, number: int, reason: str, now_ms: int) -> None:
    """Disable an endpoint for a reason, and journal it for the others; once, within a transaction."""
    query = f"SELECT {COLUMNS} FROM webhook_endpoints WHERE number = ?"  # noqa: S608 -- this module's own words
    row = Row._make(connection.execute(query, (number,)).fetchone())
    connection.execute(_DISABLE, (reason, number))
    data: dict[str, Any] = {"webhookId": row.endpoint_id, "url": _origin(row.config.url), "reason": reason}
    if row.failing_since_ms:
        data["failingSince"] = rfc3339(row.failing_since_ms)
    entry = Entry(WEBHOOK_DISABLED, row.endpoint_id, str(now_ms), "", now_ms, data)
    write_entries(connection, [entry], now_ms)


def journal_test(connection: Database, row: Row, now_ms: int) -> int:
    """Journal a test event of an endpoint and return its id; raises WebhookDisabledError."""
    if not row.enabled:
        raise WebhookDisabledError("the webhook is disabled; enable it first")
    mark = f"{now_ms} {secrets.token_hex(4)}"
    entry = Entry(WEBHOOK_TEST, row.endpoint_id, mark, "", now_ms, {"webhookId": row.endpoint_id})
    write_entries(connection, [entry], now_ms)
    return int(connection.execute("SELECT max(id) FROM webhook_events").fetchone()[0])


def _origin(url: str) -> str:
    """Return a URL without its path and query: to other webhooks these are secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _config_of(wanted: Mapping[str, Any]) -> EndpointConfig:
    fields = {name: value for name, value in wanted.items() if name in _CHANGEABLE}
    try:
        return msgspec.convert(fields, EndpointConfig)
    except msgspec.ValidationError as error:
        raise InvalidQueryError(str(error)) from error


def _text_of(config: EndpointConfig) -> str:
    return orjson.dumps(msgspec.to_builtins(config)).decode()
