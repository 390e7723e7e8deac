"""Template files: YAML, one template per file, read and checked at startup."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import yaml

from services.ingest.http.decoding import convert
from services.ingest.storage.templates import TemplateFile
from services.ingest.templates.checking import check_template
from services.ingest.templates.requests import TemplateRequest, template_of
from shared.errors import SettingsError
from shared.numbers import json_number
from shared.template_yaml import load_template

_SUFFIXES = {".yaml", ".yml"}


def read_templates(folder: Path, region: str) -> dict[str, TemplateFile]:
    """Read every template file of a folder by template id; raises SettingsError with every problem of every file."""
    if not folder.is_dir():
        raise SettingsError([f"KURIR_TEMPLATES_DIR: the folder {folder} does not exist"])
    found: dict[str, TemplateFile] = {}
    problems: list[str] = []
    for path in sorted(one for one in folder.iterdir() if one.suffix.lower() in _SUFFIXES):
        try:
            file = _read(path, region)
        except SettingsError as error:
            problems += error.problems
            continue
        if file.template.id in found:
            problems.append(f"{path.name}: another file already defines the template {file.template.id}")
        found[file.template.id] = file
    if problems:
        raise SettingsError(problems)
    return found


def _read(path: Path, region: str) -> TemplateFile:
    try:
        raw = path.read_bytes()
        value = load_template(raw)
    except (yaml.reader.ReaderError, UnicodeDecodeError) as error:
        # a wrong guess at the encoding would reach every recipient: the author has to save the file again
        raise SettingsError([f"{path.name}: the file is not UTF-8, save it as UTF-8: {error}"]) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError([f"{path.name}: {error}"]) from error
    if not isinstance(value, dict):
        raise SettingsError([f"{path.name}: a template must be a YAML mapping"])
    request = convert(value, TemplateRequest)
    if isinstance(request, list):
        raise SettingsError([f"{path.name}: {one.field}: {one.message}" for one in request])
    template = template_of(request.id, request)
    if problems := check_template(template, region):
        raise SettingsError([f"{path.name}: {one.field}: {one.message}" for one in problems])
    return TemplateFile(template, hashlib.sha256(msgspec.json.encode(template, enc_hook=json_number)).hexdigest())
