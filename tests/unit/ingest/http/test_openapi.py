"""The API's document: the promises of its schemas."""

from __future__ import annotations

import pytest

from services.ingest.api.operations import OPERATIONS
from services.ingest.http.openapi import make_document
from tests.names import mixed

_SCHEMAS = make_document(OPERATIONS)["components"]["schemas"]


@pytest.mark.parametrize("name", sorted(_SCHEMAS))
def test_a_schema_has_one_spelling_of_its_names(name: str) -> None:
    """Every body and answer has camelCase field names."""
    assert mixed(dict.fromkeys(_SCHEMAS[name].get("properties", {}))) == set()
    assert not any("_" in one for one in _SCHEMAS[name].get("properties", {}))


@pytest.mark.parametrize("name", sorted(name for name in _SCHEMAS if name.endswith("Request")))
def test_required_fields_of_a_request_are_listed_first(name: str) -> None:
    """Readers of the document and of `/docs` see first what they must send, also where a base class has the field."""
    fields, required = list(_SCHEMAS[name]["properties"]), _SCHEMAS[name].get("required", [])
    assert set(fields[: len(required)]) == set(required)
