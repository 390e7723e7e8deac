"""Recipients: from JSON values, NDJSON lines or CSV rows to checked recipients, every problem with its JSON path.

    values, problems = check_global_variables(template, request.global_variables, region)
    rules = Rules(template, tuple(channels), values, region, permissive=…, attachments=…)
    checker = RecipientChecker(rules)               # ApiError(INVALID_TEMPLATE) if it does not compile
    checked = checker.check_json(raw, index)        # bytes or msgspec.Raw; path "recipients[<index>]"
    checked = checker.check_json(raw, 0, path="recipient")
    checked.accepted                                # Accepted, or None: this recipient must not be queued
    checked.problems                                # with permissive rules there may be both

    async for lines in ndjson_lines(chunks, limit): # lists of bytes, blank lines left out; ApiError 400/413
    async for rows in csv_rows(chunks, limit):      # lists of CsvRow; the first list comes once the header is read
        header = checker.read_columns(row.header)   # once, before the first row: the template's names of its columns
        missing_columns(header, rules)              # what is wrong with the file as a whole, once
        checked = checker.check_row(row, index)     # columns name, email, phone, reference; others are variables

    found = FoundProblems()                         # keeps the first 100 and counts the rest
    found.add(checked.problems)

Strict or permissive: the caller refuses everything if there is any problem, or queues what was accepted. With
permissive rules a missing or invalid address, or a WhatsApp parameter that does not fit, drops that channel only
(its place in `Accepted.addresses` is empty); with strict rules each of these is a problem of the recipient. Accepted
addresses are in normal form. Variables that the template does not know are dropped, and told once each in
`checker.unknown.warnings`.
"""

from __future__ import annotations

from services.ingest.recipients.accepted import Accepted
from services.ingest.recipients.checking import RecipientChecker
from services.ingest.recipients.columns import UnfitRows, missing_columns
from services.ingest.recipients.csv_rows import CsvRow, csv_rows
from services.ingest.recipients.csv_text import codec_of
from services.ingest.recipients.ndjson import ndjson_lines
from services.ingest.recipients.outcome import Checked, FoundProblems
from services.ingest.recipients.rules import Rules
from services.ingest.recipients.typed_values import check_global_variables
from services.ingest.recipients.unknown_names import unknown_globals

__all__ = [
    "Accepted",
    "Checked",
    "CsvRow",
    "FoundProblems",
    "RecipientChecker",
    "Rules",
    "UnfitRows",
    "check_global_variables",
    "codec_of",
    "csv_rows",
    "missing_columns",
    "ndjson_lines",
    "unknown_globals",
]
