"""Rows: suppressions in files, from our own exports or other systems; a row may hold one or two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from services.ingest.blasts.addresses import normal_address
from services.ingest.blasts.csv_header import Header, read_header
from services.ingest.blasts.csv_rows import CsvRow
from services.ingest.http.errors import ApiError, Problem
from shared.channels import CHANNELS
from shared.spreadsheets import unguarded
from shared.suppressions import SCOPES, SOURCES, Scope, Source, Suppression, scope_of

# usual names of columns, without case, spaces and punctuation
_ALIASES: Mapping[str, str] = {
    alias: field
    for field, aliases in {
        "address": "address recipient recipientaddress contact to",
        "email": "email emailaddress mail mailaddress emailid recipientemail",
        "phone": "phone phonenumber mobile mobilephone mobilenumber msisdn number whatsapp whatsappnumber waid nohp"
        " nomorhp telepon",
        "channel": "channel",
        "scope": "scope",
        "source": "source type suppressionreason",
        "reason": "reason error description comment note details",
        "createdAt": "createdat created createdon createddate date dateadded addedat suppressedat timestamp time",
        "expiresAt": "expiresat expires expireson expiry expirydate until validuntil",
        "jobId": "jobid",
        "words": "words evidence response smtpresponse",
        "by": "by addedby createdby",
    }.items()
    for alias in aliases.split()
}
_SOURCES: Mapping[str, Source] = {
    alias: source
    for source, aliases in cast(
        "dict[Source, str]",
        {
            "api": "api manual manualsuppression admin customer",
            "bounce": "bounce bounces bounced hardbounce hardbounces permanent invalid",
            "complaint": "complaint complaints complained spam spamcomplaint spamreport spamreports abuse",
            "import": "import imported",
            "opt_out": "optout optedout stop",
            "unsubscribe": "unsubscribe unsubscribes unsubscribed unsubscription",
        },
    ).items()
    for alias in aliases.split()
}
_LONGEST = {"reason": 200, "jobId": 200, "words": 1000, "by": 200}
_EPOCH = re.compile(r"[0-9]{9,10}|[0-9]{12,13}")


@dataclass(frozen=True, slots=True)
class Defaults:
    """The values for fields that a row leaves out."""

    region: str
    now_ms: int
    channel: str = ""
    scope: Scope | None = None
    source: Source = "import"
    reason: str = "imported"
    by: str = ""


Entry = tuple[str, str, Suppression]


class RowReader:
    """Reads one file: first its header, then its rows."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._places: dict[str, int] = {}
        self.ignored: list[str] = []

    def read_columns(self, cells: Sequence[str]) -> Header:
        """Read the header row; raises ApiError if it has no column for addresses."""
        header = read_header(cells, recipients=False)
        self._learn(header)
        return header

    def read(self, row: CsvRow, index: int) -> list[Entry] | list[Problem]:
        """Return the suppressions of a row (channel, address, suppression), or its problems."""
        path, line = f"rows[{index}]", f"line {row.line}: "
        cells = {field: text for field, place in self._places.items() if (text := _text(row.cells[place]))}
        found = self._suppression(cells)
        problems = found if isinstance(found, list) else []
        addresses = self._addresses(cells)
        problems += [one for one in addresses if isinstance(one, Problem)]
        if problems or isinstance(found, list):
            return [Problem(f"{path}.{one.field}", one.code, line + one.message) for one in problems]
        return [(*one, found) for one in addresses if not isinstance(one, Problem)]

    def _learn(self, header: Header) -> None:
        # columns recognised as a recipient's own come first; each is listed among the variables as well
        for name, place in (*header.own, *header.variables):
            field = _ALIASES.get(_plain(name), "")
            if place in self._places.values():
                continue
            if not field or field in self._places:
                self.ignored.append(name[:100])
            else:
                self._places[field] = place
        if not {"address", "email", "phone"} & self._places.keys():
            raise ApiError("MALFORMED_CSV", "no column is named address, email or phone")

    def _addresses(self, cells: Mapping[str, str]) -> list[tuple[str, str] | Problem]:
        given = [(field, cells[field]) for field in ("address", "email", "phone") if field in cells]
        if not given:
            return [Problem("address", "REQUIRED", "the row has no address")]
        return [self._address(field, text, cells.get("channel", "").lower()) for field, text in given]

    def _address(self, field: str, text: str, channel: str) -> tuple[str, str] | Problem:
        kind = field if field != "address" else "email" if "@" in text else "phone"
        fitting = [name for name, one in CHANNELS.items() if one.address_field == kind]
        wanted = channel or (self._defaults.channel if self._defaults.channel in fitting else fitting[0])
        if wanted not in CHANNELS:
            what = f"there is no channel {wanted[:60]!r}: use {' or '.join(CHANNELS)}"
            return Problem("channel", "UNKNOWN_CHANNEL", what)
        found = normal_address(wanted, text, self._defaults.region, field)
        return found if isinstance(found, Problem) else (wanted, found)

    def _suppression(self, cells: Mapping[str, str]) -> Suppression | list[Problem]:
        problems = [
            Problem(name, "TOO_LONG", f"{name} is longer than {most} characters")
            for name, most in _LONGEST.items()
            if len(cells.get(name, "")) > most
        ]
        source = _SOURCES.get(_plain(cells["source"])) if "source" in cells else self._defaults.source
        if source is None:
            what = f"the source {cells['source'][:60]!r} is unknown: use {', '.join(SOURCES)}"
            problems.append(Problem("source", "INVALID_VALUE", what))
            source = "import"
        scope = cells.get("scope", "").lower() or self._defaults.scope or scope_of(source)
        if scope not in SCOPES:
            problems.append(
                Problem("scope", "INVALID_VALUE", f"scope cannot be {scope[:60]!r}: use {' or '.join(SCOPES)}")
            )
        times = {name: self._time(cells, name, problems) for name in ("createdAt", "expiresAt")}
        if problems:
            return problems
        now_ms, created_ms = self._defaults.now_ms, times["createdAt"]
        return Suppression(
            cast("Scope", scope),
            source,
            cells.get("reason") or self._defaults.reason,
            min(created_ms, now_ms) if created_ms else now_ms,
            times["expiresAt"],
            cells.get("jobId", ""),
            cells.get("words", ""),
            cells.get("by", "") if "by" in self._places else self._defaults.by,
        )

    def _time(self, cells: Mapping[str, str], name: str, problems: list[Problem]) -> int:
        """Return a time in ms since the epoch, 0 where none is given."""
        text = cells.get(name, "")
        if not text:
            return 0
        if _EPOCH.fullmatch(text):
            return int(text) * (1 if len(text) > 10 else 1000)
        try:
            at = datetime.fromisoformat(text.removesuffix(" UTC"))
            return max(1, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
        except (ValueError, OverflowError):
            what = f"{text[:60]!r} is not a time such as 2026-01-31T12:00:00Z"
            problems.append(Problem(name, "INVALID_VALUE", what))
            return 0


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _text(cell: str) -> str:
    return unguarded(cell.strip())
