"""Checks one recipient: its addresses, variables and attachments; all its problems are reported together.

This runs for each of a million recipients, so the constructor computes once everything that depends on the blast only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from services.ingest.blasts.addresses import normal_phone
from services.ingest.blasts.attachments import attachments_of, shown_content_ids
from services.ingest.blasts.csv_columns import matched_columns
from services.ingest.blasts.csv_header import Header
from services.ingest.blasts.csv_rows import CsvRow
from services.ingest.blasts.recipients import OWN, Accepted, Checked, Rules, printed_names
from services.ingest.blasts.variables import Check, UnknownNames, ValueProblem, check_of, text_value
from services.ingest.http.decoding import UNREADABLE, json_decoder, problem_of, problems_of, read_object, words_of
from services.ingest.http.errors import ApiError, Problem
from services.ingest.http.requests import AttachmentRequest, RecipientRequest
from shared.addresses import BLANK, AddressError
from shared.channels import CHANNELS
from shared.jobs import Attachment
from shared.mailboxes import normal_email
from shared.nearest import Hints
from shared.rendering import CompiledTemplate, RenderError, compile_template, merge_variables
from shared.rendering.whatsapp import MEDIA, Component, split_media
from shared.sealing import sensitive_names
from shared.spreadsheets import broken_cell, may_be_broken

_LINK = re.compile(r"https?://[^\s/?#]+\S*\Z", re.IGNORECASE)
_TEST_RENDERS = 3
_UNFIT_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PHONE_RULE = "Write the phone number as a string, in quotes: a JSON number cannot begin with 0 or +."
_decoder = json_decoder(RecipientRequest)


@dataclass(frozen=True, slots=True)
class _VariableRule:
    """The check of one variable; `needed`: it is required and has neither a default nor a global value."""

    name: str
    check: Check
    needed: bool


class _Draft(msgspec.Struct):
    """A recipient being checked."""

    index: int
    path: str
    name: str
    email: str
    phone: str
    reference: str
    variables: dict[str, Any] = {}
    attachments: list[Attachment] = []
    addresses: list[str] = []
    problems: list[Problem] = []
    refused: bool = False

    def problem(self, field: str, code: str, message: str, *, refuse: bool = True) -> None:
        self.problems.append(Problem(f"{self.path}.{field}", code, message))
        self.refused = self.refused or refuse


class RecipientChecker:
    """Checks the recipients of one blast; raises ApiError if the template cannot be compiled."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._channels = [CHANNELS[name] for name in rules.channels]
        self._variables = _variable_rules(rules)
        self._own = _own_rules(rules)
        self._sensitive = sensitive_names(rules.template)
        try:
            self._compiled = compile_template(rules.template)
        except RenderError as error:
            raise ApiError("INVALID_TEMPLATE", str(error)) from error
        self._renders_left = _TEST_RENDERS if "email" in rules.channels else 0
        self._unsure = self._compiled.computed.unsure(rules.template, rules.global_variables)
        self._watched = "email" in rules.channels and (self._unsure.unknown or bool(self._unsure.names))
        self._whatsapp = "whatsapp" in rules.channels and rules.template.whatsapp is not None
        self._medium = _medium_of(rules) if self._whatsapp else ""
        self._borrowed = _borrowed_addresses(rules, self._compiled)
        self._printed = printed_names(rules)
        self._columns: Header | None = None
        self._hints = Hints()
        self.unknown = UnknownNames(rules.template)
        shown: frozenset[str] = frozenset()
        if "email" in rules.channels and rules.attachments is not None:
            shown = shown_content_ids(rules.template.html)
        self._shown = shown - {one.content_id for one in rules.attachments or ()}

    def read_columns(self, header: Header) -> Header:
        """Set the columns of the rows that follow; return them with the template's names.

        Raises ApiError MALFORMED_CSV where they do not fit the template.
        """
        self._columns = matched_columns(header, self._rules)
        self.unknown.note_columns(self._columns)
        return self._columns

    def check_json(self, raw: bytes | msgspec.Raw, index: int, path: str = "", *, describe: bool = True) -> Checked:
        """Check a recipient in JSON; `path` is its JSON path, `recipients[<index>]` by default.

        Without `describe`, a recipient whose JSON does not fit gets only one problem.
        """
        path = path or f"recipients[{index}]"
        try:
            request = _decoder.decode(raw)
        except msgspec.ValidationError as error:
            every = self._decode_problems(bytes(raw), path) if describe else []
            return Checked(None, every or [problem_of(error, path)])
        except UNREADABLE as error:
            what = f"a recipient must be a JSON object: {words_of(error)}"
            return Checked(None, [Problem(path, "INVALID_TYPE", what)])
        return self._check(request, index, path)

    def check_row(self, row: CsvRow, index: int) -> Checked:
        """Check a recipient in a CSV row."""
        path = f"recipients[{index}]"
        try:
            fields = (self._columns or row.header).fields(row.cells)
            request = msgspec.convert(fields, RecipientRequest)
        except msgspec.ValidationError as error:
            return Checked(None, problems_of(fields, RecipientRequest, path, self._hints) or [problem_of(error, path)])
        checked = self._check(request, index, path)
        if may_be_broken(row.cells) and (broken := self._broken_cells(fields, path)):
            named = {one.field for one in checked.problems}
            return Checked(None, [*checked.problems, *(one for one in broken if one.field not in named)])
        return checked

    def _broken_cells(self, fields: Mapping[str, Any], path: str) -> list[Problem]:
        """Return a problem for each cell, of those that the message or the log shows, that a spreadsheet has broken."""
        known = self.unknown.known(fields["variables"])
        used = {name: fields[name] for name in ("name", "reference") if name in fields}
        used |= {f"variables.{name}": fields["variables"][name] for name in known}
        found = []
        for field, text in used.items():
            if what := broken_cell(text):
                name = field.removeprefix("variables.")
                # a shortened number has most digits of a code
                shown = "" if name in self._sensitive and name != field else f"{text.strip()!r}, "
                found.append(Problem(f"{path}.{field}", "INVALID_VALUE", f"{name} is {shown}{what}"))
        return found

    def _decode_problems(self, raw: bytes, path: str) -> list[Problem]:
        try:
            value = read_object(raw)
        except UNREADABLE:
            value = None
        if value is None:
            return [Problem(path, "INVALID_TYPE", "a recipient must be a JSON object")]
        return [_named(problem, value) for problem in problems_of(value, RecipientRequest, path, self._hints)]

    def _check(self, request: RecipientRequest, index: int, path: str) -> Checked:
        name = request.name.strip() if request.name.strip(BLANK) else ""
        draft = _Draft(index, path, name, request.email or "", request.phone or "", request.reference)
        if not (draft.name.isprintable() and draft.reference.isprintable()):
            self._check_lines(draft)
        self._check_addresses(draft)
        if request.variables:
            self.unknown.note(request.variables, f"{path}.variables")
        self._check_variables(draft, request.variables)
        if self._printed:
            self._check_printed(draft)
        if request.attachments:
            self._check_attachments(draft, request.attachments)
        if self._shown:
            self._check_shown(draft)
        if not draft.refused and self._whatsapp:
            self._check_parameters(draft)
        if not draft.refused and (self._renders_left or self._watched):
            self._try_rendering(draft)
        if draft.refused or not any(draft.addresses):
            return Checked(None, draft.problems)
        accepted = Accepted(index, draft.name, draft.addresses, draft.variables, draft.reference, draft.attachments)
        return Checked(accepted, draft.problems)

    def _check_lines(self, draft: _Draft) -> None:
        for field, value in (("name", draft.name), ("reference", draft.reference)):
            if _UNFIT_LINE.search(value):
                draft.problem(field, "INVALID_CHARACTERS", f"{field} contains line breaks or control characters")

    def _check_addresses(self, draft: _Draft) -> None:
        for channel in self._channels:
            draft.addresses.append(self._address(draft, channel.address_field))

    def _address(self, draft: _Draft, field: str) -> str:
        """Return the normal form of a channel's address field, "" where it is missing or invalid."""
        strict = not self._rules.permissive
        try:
            if field == "email":
                if draft.email.strip():
                    return normal_email(draft.email)
            elif draft.phone.strip():
                return normal_phone(draft.phone, self._rules.region)
        except AddressError as error:
            draft.problem(field, f"INVALID_{field.upper()}", str(error), refuse=strict)
            return ""
        draft.problem(field, f"MISSING_{field.upper()}", f"this recipient has no {field}", refuse=strict)
        return ""

    def _check_variables(self, draft: _Draft, given: Mapping[str, Any]) -> None:
        rules = self._variables
        if not OWN.isdisjoint(given):
            rules = rules + [rule for rule in self._own if rule.name in given]
        for rule in rules:
            value = given.get(rule.name)
            # `is_nothing` inlined: a call for each of a million values costs too much
            if value is None or (value.__class__ is str and not value.strip(BLANK)):
                if rule.needed and not _has_own(draft, rule.name):
                    self._miss(draft, rule.name, given)
                continue
            try:
                draft.variables[rule.name] = rule.check(value)
            except ValueProblem as problem:
                draft.problem(f"variables.{rule.name}", problem.code, f"{rule.name} {problem}")
        for name in self._borrowed:
            if name not in draft.variables and (address := getattr(draft, name).strip()):
                draft.variables[name] = address

    def _miss(self, draft: _Draft, name: str, given: Mapping[str, Any]) -> None:
        field = name if name in OWN else f"variables.{name}"
        near = self._hints.nearest(name, self.unknown.among(given))
        hint = f"; {near!r} was given, but the template does not use it" if near else ""
        what = f"the template requires the variable {name!r}{hint}"
        draft.problem(field, "MISSING_REQUIRED_VARIABLE", what)

    def _check_printed(self, draft: _Draft) -> None:
        """Check that the recipient has every field that a channel's content prints without a guard."""
        lacking: dict[str, list[int]] = {}
        for place, names in self._printed:
            for name in names:
                if name not in draft.variables and not getattr(draft, name).strip():
                    lacking.setdefault(name, []).append(place)
        for name, places in lacking.items():
            what = f"the template prints {name!r}, but this recipient has none"
            draft.problem(name, "MISSING_REQUIRED_VARIABLE", what, refuse=not self._rules.permissive)
            for place in places:
                draft.addresses[place] = ""

    def _check_attachments(self, draft: _Draft, requests: list[AttachmentRequest]) -> None:
        draft.attachments, problems = attachments_of(requests, f"{draft.path}.", self._rules.attachments or ())
        draft.problems += problems
        draft.refused = draft.refused or bool(problems)

    def _check_shown(self, draft: _Draft) -> None:
        """Check that every image in the html is attached to the blast or to the recipient."""
        for content_id in self._shown - {one.content_id for one in draft.attachments}:
            what = f"the html shows cid:{content_id}, but no attachment has the contentId {content_id!r}"
            draft.problem("attachments", "MISSING_ATTACHMENT", what)

    def _check_parameters(self, draft: _Draft) -> None:
        place = self._rules.channels.index("whatsapp")
        if not draft.addresses[place]:
            return
        try:
            components = self._compiled.components(self._values(draft))
            if self._medium:
                _check_link(components, self._medium)
        except RenderError as error:
            field = f"variables.{error.variable}" if error.variable else "variables"
            draft.problem(field, "INVALID_VARIABLE", str(error), refuse=not self._rules.permissive)
            draft.addresses[place] = ""

    def _try_rendering(self, draft: _Draft) -> None:
        """Render the first recipients and those with doubtful values, so that rendering does not fail in a sender."""
        values = self._values(draft)
        if self._renders_left:
            self._renders_left -= 1
        elif self._unsure.fits(values):
            return
        try:
            self._compiled.render(values)
        except RenderError as error:
            blamed = error.variable or self._unfit(values)
            draft.problem(f"variables.{blamed}" if blamed else "variables", "RENDER_FAILED", str(error))

    def _unfit(self, values: Mapping[str, Any]) -> str:
        """Return the name of the only doubtful value, "" where there is not exactly one."""
        every = self._unsure
        unfit = [name for name in every.names if not every.only(name).fits(values)]
        return unfit[0] if len(unfit) == 1 else ""

    def _values(self, draft: _Draft) -> dict[str, Any]:
        return merge_variables(self._rules.template, self._rules.global_variables, draft)


def _variable_rules(rules: Rules) -> list[_VariableRule]:
    """Return a rule for each declared variable."""
    return [
        _VariableRule(
            variable.name,
            check_of(variable, rules.region),
            variable.required and variable.default is None and variable.name not in rules.global_variables,
        )
        for variable in rules.template.variables
    ]


def _own_rules(rules: Rules) -> list[_VariableRule]:
    """Return rules for undeclared variables that override a recipient's own fields."""
    declared = {variable.name for variable in rules.template.variables}
    return [_VariableRule(name, text_value, needed=False) for name in sorted(OWN - declared)]


def _borrowed_addresses(rules: Rules, compiled: CompiledTemplate) -> list[str]:
    """Return the address fields that one channel's content uses and that belong to another channel.

    A job carries only the address of its own channel, so these become variables of the job.
    """
    parameters = compiled.whatsapp.variables if compiled.whatsapp is not None else frozenset()
    needed = [
        ("phone", "email" in rules.channels and "phone" in compiled.variables),
        ("email", "whatsapp" in rules.channels and "email" in parameters),
    ]
    return [name for name, uses in needed if uses and name not in rules.global_variables]


def _medium_of(rules: Rules) -> str:
    """Return the variable or expression whose value is the link of the header's medium, "" for a header of text."""
    content = rules.template.whatsapp
    headers = [split_media(written) for written in content.header_variables] if content is not None else []
    return next((written for medium, written in headers if medium in MEDIA), "")


def _check_link(components: Sequence[Component], written: str) -> None:
    """Raise RenderError unless the header's medium has a link: the provider would refuse each such message."""
    for one in components:
        for parameter in one["parameters"]:
            medium = parameter["type"] if one["type"] == "header" else ""
            if medium in MEDIA and not _LINK.match(parameter[medium]["link"]):
                name = written if written.isidentifier() else ""
                what = f"whatsapp: the header's {medium} needs a link such as https://example.com/file"
                raise RenderError(what, variable=name)


def _has_own(draft: _Draft, name: str) -> bool:
    """Return whether the recipient's own name, email or phone can fill the variable of that name."""
    return name in OWN and bool(getattr(draft, name).strip())


def _named(problem: Problem, value: Mapping[str, Any]) -> Problem:
    """Return the problem, with a more helpful message for a phone number that is a JSON number."""
    if problem.field.endswith(".phone") and isinstance(value.get("phone"), (int, float)):
        return Problem(problem.field, problem.code, _PHONE_RULE)
    return problem
