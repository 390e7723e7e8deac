"""Redis's users: the right to each command that the code sends, and to no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ACL = ROOT / "deploy" / "redis" / "users.acl"
CONTAINERS = {"XGROUP", "XINFO", "SCRIPT", "CLIENT", "OBJECT", "MEMORY", "CONFIG", "ACL"}
# what the driver sends by itself, or for a method of another name; None for what never leaves the process
METHODS = {
    "aclose": (), "close": (), "execute_command": (), "pipeline": (), "disconnect": (),
    "execute": ("multi", "exec"), "xgroup_create": ("xgroup|create",),
    "sentinel_get_master_addr_by_name": (),  # asked of a Sentinel, not of Redis
}  # fmt: skip
DRIVERS_OWN = {"ping", "select"}


def _granted(user: str) -> list[str]:
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith(f"user {user} ")]
    return line.split()


def _sent() -> set[str]:
    found: set[str] = set(DRIVERS_OWN)
    for source in (
        *ROOT.glob("shared/queue/**/*.py"),
        *ROOT.glob("services/**/*.py"),
        *ROOT.glob("shared/queue/lua/*"),
    ):
        if source.is_file() and source.suffix in {".py", ".lua"}:
            found |= _of_scripts(source.read_text()) | _of_methods(source)
    return found


def _of_scripts(text: str) -> set[str]:
    calls = re.findall(r"redis\.p?call\('([A-Z]+)'(?:,\s*'([A-Z]+)')?", text)
    return {f"{name}|{sub}".lower() if name in CONTAINERS else name.lower() for name, sub in calls}


def _of_methods(source: Path) -> set[str]:
    text = source.read_text()
    if not re.search(r"^from redis", text, re.MULTILINE):
        return set()
    found: set[str] = set(re.findall(r'execute_command\("([A-Z]+)"', text))
    for method in re.findall(r"\b_?(?:redis|pipe|client)\.([a-z_]+)\(", text):
        found |= set(METHODS.get(method, (method,)))
    return {name.lower() for name in found if name not in {"from_pool", "from_url", "call", "pcall"}}


def test_each_right_is_needed_and_none_is_missing() -> None:
    """The line grants exactly what the scripts and the clients in the code send."""
    granted = {right.removeprefix("+") for right in _granted("kurir") if right.startswith("+")}
    assert granted == _sent()


def test_kurir_sees_its_own_keys_alone() -> None:
    """Kurir's user may neither see other keys nor listen to channels, and the nameless user is off."""
    assert _granted("default")[2] == "off"
    rules = _granted("kurir")
    assert rules[2] == "reset"  # it takes every right away: what follows is all
    assert not {"nopass", "allkeys", "~*", "&*", "+@all", "allcommands"} & set(rules)


def test_the_docs_show_the_line_as_it_is() -> None:
    """Whoever runs a Redis of their own copies it from docs/operations.md."""
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith("user kurir")]
    rights = line.partition("#KURIR_SHA256 ")[2]
    assert rights in (ROOT / "docs" / "operations.md").read_text()
