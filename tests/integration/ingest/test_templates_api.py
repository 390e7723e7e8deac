"""Templates over the API: versions, requirements, and hostile ones, which are refused in bounded time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis.asyncio import Redis

from services.ingest.storage.templates import TemplateStore
from services.ingest.templates.requests import TemplateRequest, template_of
from shared.queue.blasts import BlastStore
from tests.integration.ingest.provocations import template
from tests.integration.ingest.running import Api, person


async def test_shipped_templates_exist_and_are_complete(api: Api) -> None:
    """Every template of the folder has requirements from which a CSV header can be made."""
    listed = (await api.get("/api/templates")).body["templates"]
    assert [one["id"] for one in listed] == ["invoice_reminder", "newsletter", "otp", "welcome"]
    asked = (await api.get("/api/templates/invoice_reminder/requirements")).body["requirements"]
    assert asked["columns"] == ["name", "email", "phone", "order_number", "amount", "due_date"]
    assert asked["required"] == ["order_number", "amount", "due_date"]


async def test_each_change_of_a_template_is_a_version(api: Api, redis: Redis) -> None:
    """It is created, changed, deleted and created again; sent messages keep the version they were sent with."""
    made = await api.post("/api/templates", template())
    assert (made.status, made.body["template"].get("version", 1)) == (201, 1)
    sent = await api.blast(person(), templateId="note")
    changed = {name: value for name, value in template(text="y").items() if name != "id"}
    put = await api.call("PUT", "/api/templates/note", json=changed)
    assert (put.status, put.body["template"]["version"]) == (200, 2)
    assert (await api.get("/api/templates/note")).body["template"]["text"] == "y"
    blast = await BlastStore(redis, "test").load(sent.body["blastId"])
    assert blast is not None
    assert (blast.template.version, blast.template.text) == (1, "x")
    assert (await api.call("DELETE", "/api/templates/note")).status == 200
    assert (await api.get("/api/templates/note")).status == 404
    assert (await api.blast(person(), templateId="note")).body["code"] == "UNKNOWN_TEMPLATE"
    again = await api.call("PUT", "/api/templates/note", json=changed)
    assert (again.status, again.body["template"]["version"]) == (201, 3)


async def test_a_shipped_template_can_be_deleted_and_stays_so(api: Api) -> None:
    """Its file does not restore it."""
    assert (await api.call("DELETE", "/api/templates/welcome")).status == 200
    assert (await api.get("/api/templates/welcome")).status == 404
    assert "welcome" not in {one["id"] for one in (await api.get("/api/templates")).body["templates"]}


async def test_a_template_file_is_applied_once_per_change(redis: Redis) -> None:
    """Restarts add no version, a changed file adds one; until then, changes through the API remain."""
    store = TemplateStore(redis)
    content = TemplateRequest(id="note", name="Note", channels=["email"], subject="s", text="x")
    made = template_of("note", content)
    assert [await store.put(made, digest="a") for _ in range(3)] == [1, 0, 0]
    assert await store.put(made) == 2
    assert await store.put(made, digest="a") == 0
    assert await store.put(made, digest="b") == 3


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"id": "../etc"}, "id", "INVALID_VALUE"),
        ({"channels": ["pigeon"]}, "channels[0]", "UNKNOWN_CHANNEL"),
        ({"subject": ""}, "subject", "REQUIRED"),
        ({"text": ""}, "html", "REQUIRED"),
        ({"channels": ["whatsapp"]}, "whatsapp", "REQUIRED"),
        ({"text": "{{ amount }}"}, "variables", "INVALID_TEMPLATE"),
        ({"variables": [{"name": "x y"}]}, "variables[0].name", "INVALID_VALUE"),
        ({"variables": [{"name": "n", "type": "number", "example": "many"}]},
         "variables[0].example", "INVALID_VARIABLE"),
        ({"whatsapp": {"templateName": "t", "language": "en", "bodyVariables": ["nobody"]}},
         "whatsapp.bodyVariables[0]", "INVALID_TEMPLATE"),
        ({"subject": "{% if %}"}, "subject", "INVALID_TEMPLATE"),
        ({"variables": [{"name": "code", "sensitive": True, "default": "0000"}]},
         "variables[0].default", "INVALID_VALUE"),
    ],
)  # fmt: skip
async def test_an_invalid_template_is_refused(changes: dict[str, Any], field: str, code: str, api: Api) -> None:
    """The problem names the part of the template."""
    reply = await api.post("/api/templates", template(**changes))
    assert reply.status == 422, reply.text
    assert reply.problem(field) == code


HOSTILE = {
    "attribute walk": "{{ name.__class__.__mro__[1].__subclasses__() }}",
    "attribute walk by filter": "{{ name | attr('__class__') }}",
    "attribute walk by item": "{{ name['__class__']['__mro__'] }}",
    "globals": "{{ self._TemplateReference__context }}",
    "format": "{{ '{0.__class__}'.format(name) }}",
    "loop within loop": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "huge range": "{% for a in range(1000000000) %}x{% endfor %}",
    "huge text": "{{ 'x' * 1000000000 }}",
    "doubling": "{% set a = 'xxxxxxxx' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "padding": "{{ name | center(1000000000) }}",
    "recursive loop": "{% for a in range(2) recursive %}{{ loop(range(2)) }}{% endfor %}",
    "recursive macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "include": "{% include '/etc/passwd' %}",
    "deep nesting": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.timing
@pytest.mark.parametrize("name", sorted(HOSTILE))
async def test_a_hostile_template_ends_in_422_at_once(name: str, api: Api) -> None:
    """It reaches nothing and stalls nothing: the same service answers immediately afterwards."""
    # processor time of this process, in which ingest runs: a busy machine does not make it more
    began = time.process_time()
    reply = await api.post("/api/templates", template(text=HOSTILE[name]))
    assert reply.status == 422, reply.text
    assert reply.codes <= {"INVALID_TEMPLATE", "RENDER_FAILED"}
    assert (await api.get("/api/templates/otp")).status == 200
    assert time.process_time() - began < 5
