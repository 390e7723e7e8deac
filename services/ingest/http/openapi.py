"""The document: `openapi.json` (OpenAPI 3.1), built from the table of operations and their types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from services.ingest.http.bodies import READING_ERRORS
from services.ingest.http.errors import ERROR_CODES
from services.ingest.http.operation import JSON, Operation, Parameter
from services.ingest.http.requests import BlastHead, RecipientRequest, Request
from services.ingest.http.responses import ErrorAnswer

_REF = "#/components/schemas/{name}"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# types that descriptions mention although no schema refers to them
_SPOKEN_OF: tuple[type, ...] = (BlastHead, RecipientRequest)
_ALWAYS = ("INTERNAL_ERROR",)
_DESCRIPTION = """\
A self-hosted messaging gateway: one blast in, one email or WhatsApp message per recipient out, and the history of each.

Errors are `{"success": false, "code", "message", "errors"}`; each call lists the values that `code` can have.
Every path is served under both `/api/v1` and `/api`.
"""

Schema = dict[str, Any]


def make_document(operations: Iterable[Operation]) -> Schema:
    """Build the document of these operations."""
    table = list(operations)
    refs, components = _schemas(table)
    paths: dict[str, Schema] = {}
    for operation in table:
        path = operation.path if operation.rooted else f"/api/v1{operation.path}"
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kurir", "version": version("kurir"), "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
    }


def _schemas(operations: Sequence[Operation]) -> tuple[dict[type, Schema], Schema]:
    """Return a reference for each type that the operations name, and all schemas by name."""
    bodies = [content for one in operations if one.body for content in one.body.contents.values()]
    kinds = [kind for kind in [*bodies, *(one.answer for one in operations), ErrorAnswer] if isinstance(kind, type)]
    unique = list(dict.fromkeys([*kinds, *_SPOKEN_OF]))
    found, components = msgspec.json.schema_components(unique, ref_template=_REF)
    for kind in unique:
        if issubclass(kind, Request):
            _put_required_first(components[kind.__name__])
    return dict(zip(unique, found, strict=True)), _with_recipients(components)


def _put_required_first(schema: Schema) -> None:
    """List the required fields of a body before the others; those of a base class come first otherwise."""
    required = schema.get("required", ())
    schema["properties"] = dict(sorted(schema["properties"].items(), key=lambda field: field[0] not in required))


def _with_recipients(components: Schema) -> Schema:
    """Add the schema of recipients, which a body keeps raw so that each is decoded and reported separately."""
    recipient = {"$ref": _REF.format(name="RecipientRequest")}
    for schema in components.values():
        properties = schema.get("properties", {})
        if properties.get("recipients", {}).get("type") == "array":
            properties["recipients"]["items"] = recipient
        if "recipient" in properties:
            properties["recipient"] = recipient
    return components


def _operation(operation: Operation, refs: dict[type, Schema]) -> Schema:
    shown: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *map(_parameter, operation.parameters)],
        "responses": _responses(operation, refs),
        "tags": [_tag(operation)],
    }
    if operation.body is not None:
        contents = {kind: {"schema": _schema(content, refs)} for kind, content in operation.body.contents.items()}
        shown["requestBody"] = {"content": contents, "required": operation.body.required}
    if operation.scope is not None:
        shown["security"] = [{"key": []}, {}]
        shown["description"] = f"Needs the scope `{operation.scope}` where API keys are configured."
    return shown


def _tag(operation: Operation) -> str:
    return operation.path.split("/")[1].partition("{")[0] if not operation.rooted else "service"


def _schema(content: type[msgspec.Struct] | Schema, refs: dict[type, Schema]) -> Schema:
    return refs[content] if isinstance(content, type) else content


def _path_parameters(operation: Operation) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PLACEHOLDER.findall(operation.path)
    ]


def _parameter(parameter: Parameter) -> Schema:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _responses(operation: Operation, refs: dict[type, Schema]) -> Schema:
    good: Schema = {"description": operation.summary}
    if operation.answer is not None:
        good["content"] = {JSON: {"schema": refs[operation.answer]}}
        good["content"] |= {kind: {"schema": {"type": "string"}} for kind in operation.content_types if kind != JSON}
    else:
        good["content"] = {
            kind: {"schema": {} if kind == JSON else {"type": "string"}} for kind in operation.content_types
        }
    responses: Schema = {str(status): good for status in operation.statuses}
    for code in error_codes(operation):
        status = str(ERROR_CODES[code].status)
        if int(status) in operation.statuses:
            continue
        shown = responses.setdefault(status, _error_response(refs, operation))
        shown["description"] += f"{', ' if shown['description'] else ''}`{code}`"
    return responses


def _error_response(refs: dict[type, Schema], operation: Operation) -> Schema:
    content: Schema = {JSON: {"schema": refs[ErrorAnswer]}}
    if "text/html" in operation.content_types:
        content["text/html"] = {"schema": {"type": "string"}}
    return {"description": "", "content": content}


def error_codes(operation: Operation) -> list[str]:
    """Return every code that an operation may answer with; VALIDATION_FAILED covers the other 422 codes."""
    codes = [*operation.errors, *(("RECEIPTS_NOT_TAKEN",) if operation.hook else _ALWAYS)]
    if not operation.open_query:
        codes.append("INVALID_QUERY")
    if operation.body is None and not operation.rooted:
        codes += ["MALFORMED_JSON", "VALIDATION_FAILED", *READING_ERRORS]
    if operation.scope is not None:
        codes += ["UNAUTHORIZED", "MISSING_SCOPE", "FOREIGN_PAGE", "LOOPBACK_ONLY"]
    if operation.limited:
        codes.append("RATE_LIMITED")
    if operation.queue:
        codes.append("QUEUE_UNAVAILABLE")
    return list(dict.fromkeys(codes))
