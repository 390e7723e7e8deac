"""`kurir templates`, `kurir preview`: manages templates, and shows a rendered message."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
import yaml
from rich.table import Table

from services.cli.api_client import DEFAULT_URL, Answer, ApiClient, AsJson, RefusedError, Url, call_api, within
from services.cli.terminal import existing_file, print_json, print_warnings, stdout, usage_error
from shared.numbers import json_number
from shared.template_yaml import load_template

_console = stdout()
_HEADERS = {"Content-Type": "application/json"}


def templates(
    context: typer.Context,
    template: Annotated[str, typer.Argument(help="A template's id; without one, all templates.")] = "",
    put: Annotated[Path | None, typer.Option(help="Create or change a template from a YAML file.")] = None,
    delete: Annotated[bool, typer.Option(help="Delete the template.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the templates, or show what one of them requires."""
    if put is not None:
        content = _read(context, put)
        answer = call_api(context, url, lambda api: _put(api, content))
    elif delete:
        if not template:
            raise usage_error(context, "--delete needs a template's id")
        answer = call_api(context, url, lambda api: api.call("DELETE", within("/api/v1/templates", template)))
    elif template:
        answer = call_api(context, url, lambda api: api.get(within("/api/v1/templates", template, "requirements")))
    else:
        answer = call_api(context, url, lambda api: api.get("/api/v1/templates"))
    if put is not None:
        print_warnings(answer)
    if as_json or put is not None or delete or template:
        print_json(answer)
    else:
        _console.print(_table(answer))


def _read(context: typer.Context, path: Path) -> dict[str, object]:
    try:
        content = load_template(existing_file(context, path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise usage_error(context, f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("id"), str):
        raise usage_error(context, f"{path} is not a template: it has no id")
    return content


async def _put(api: ApiClient, content: dict[str, object]) -> Answer:
    body = {name: value for name, value in content.items() if name != "id"}
    try:
        return await api.call(
            "PUT", within("/api/v1/templates", str(content["id"])), data=_json(body), headers=_HEADERS
        )
    except RefusedError as error:
        if error.status != 404:
            raise
    return await api.call("POST", "/api/v1/templates", data=_json(content), headers=_HEADERS)


def _json(content: dict[str, object]) -> bytes:
    return msgspec.json.encode(content, enc_hook=json_number)


def _table(answer: Answer) -> Table:
    table = Table("id", "name", "channels", "category", "version", "variables")
    for one in answer["templates"]:
        variables = ", ".join(
            variable["name"] + ("" if variable.get("required", True) else "?") for variable in one.get("variables", [])
        )
        table.add_row(
            one["id"],
            one["name"],
            ", ".join(one["channels"]),
            one.get("category", "transactional"),
            str(one.get("version", 1)),
            variables,
        )
    return table


def preview(
    context: typer.Context,
    template: Annotated[str, typer.Option("--template", "-t", help="The template's id.")],
    channel: Annotated[str, typer.Option("--channel", "-c", help="A channel.")] = "email",
    name: Annotated[str, typer.Option(help="The recipient's name.")] = "",
    email: Annotated[str, typer.Option(help="The recipient's email address.")] = "",
    phone: Annotated[str, typer.Option(help="The recipient's phone number.")] = "",
    var: Annotated[list[str] | None, typer.Option(help="A variable: name=value.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Render one message and show it; nothing is sent."""
    variables = dict(text.partition("=")[::2] for text in var or [])
    recipient = {"name": name, "email": email or None, "phone": phone or None, "variables": variables}
    body = {"templateId": template, "channel": channel, "recipient": recipient}
    answer = call_api(context, url, lambda api: api.post("/api/v1/messages/preview", body))
    if as_json:
        print_json(answer)
        return
    print_warnings(answer)
    rendered = answer.get("preview", answer)
    for part in ("subject", "text", "html"):
        if rendered.get(part):
            _console.print(f"[bold]{part}[/bold]")
            _console.print(rendered[part], markup=False, soft_wrap=True)
    if rendered.get("components") is not None:
        print_json(rendered["components"])
