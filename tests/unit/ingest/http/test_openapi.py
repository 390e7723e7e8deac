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
