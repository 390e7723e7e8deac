"""What of the bodies of a blast no struct describes: NDJSON, CSV and multipart, as the document shows them."""

from __future__ import annotations

from typing import Any

from services.ingest.call import Parameter

NDJSON_SCHEMA: dict[str, Any] = {
    "type": "string",
    "description": "First line: the blast (a BlastHead). Each further line: a recipient (a RecipientRequest).",
    "example": '{"templateId":"otp","channels":["email"]}\n'
    '{"name":"Siti","email":"siti@example.com","variables":{"code":"482913"}}\n',
}
CSV_SCHEMA: dict[str, Any] = {
    "type": "string",
    "description": "A header row, then a recipient a row. Columns name, email, phone and reference are the "
    "recipient's own, every other column is a variable. UTF-8; comma, semicolon or tab. The blast stands in the "
    "query parameters.",
    "example": "name,email,code\nSiti,siti@example.com,482913\n",
}
MULTIPART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "blast": {"type": "string", "description": "The blast (a BlastHead) as JSON; comes first."},
        "recipients": {"type": "string", "format": "binary", "description": "The CSV (or NDJSON) file."},
    },
    "required": ["blast", "recipients"],
}

_BOOLEAN = {"type": "boolean"}
_TIME = {"type": "string", "format": "date-time"}
_ONLY_CSV = "With text/csv alone: "
QUERY_OF_HEAD = tuple(
    Parameter(name, _ONLY_CSV + description, schema)
    for name, description, schema in (
        ("templateId", "the template.", {"type": "string", "maxLength": 100}),
        ("channels", "the channels, by commas.", {"type": "string"}),
        ("globalVariables", "an object as JSON.", {"type": "string"}),
        ("globalVariables.<name>", "one global variable.", {"type": "string"}),
        ("from", "a mailbox to send from.", {"type": "string", "maxLength": 500}),
        ("replyTo", "where answers go.", {"type": "string", "maxLength": 320}),
        ("priority", "0 first, 1 the default, 2 bulk.", {"type": "integer", "minimum": 0, "maximum": 2}),
        ("scheduledAt", "when to send.", _TIME),
        ("expiresAt", "when not to send any more.", _TIME),
        ("reference", "your own name for the blast.", {"type": "string", "maxLength": 200}),
        ("metadata", "an object as JSON.", {"type": "string"}),
        ("metadata.<name>", "one entry of the metadata.", {"type": "string"}),
        ("validation", "strict or permissive.", {"type": "string", "enum": ["strict", "permissive"]}),
        ("onDuplicate", "collapse or error.", {"type": "string", "enum": ["collapse", "error"]}),
        ("dryRun", "check everything, send nothing.", _BOOLEAN),
    )
)
