"""Both drivers: a test that asks for an API runs once for each."""

from __future__ import annotations

import pytest

from tests.integration.whatsapp_sender.providers import APIS, Api


@pytest.fixture(params=APIS, ids=[api.name for api in APIS])
def api(request: pytest.FixtureRequest) -> Api:
    """Return one of the two drivers and its provider's API."""
    found: Api = request.param
    return found
