"""Generate the rights of Redis's user `kurir`: exactly the commands that the code sends.

They are found in the source: the calls in the scripts, and the driver's methods in the modules that have a
connection. The rights are written to deploy/redis/users.acl and docs/operations.md.

python deploy/make_redis_rights.py             write both
python deploy/make_redis_rights.py --check     exit 1 if either is stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ACL = ROOT / "deploy" / "redis" / "users.acl"
GUIDE = ROOT / "docs" / "operations.md"
KEYS = (
    "~{email}* ~{email.*}* ~{whatsapp}* ~{whatsapp.*}* ~{webhook.* ~blast:* ~template* ~{templates}* ~idempotency:*"
    " ~ratelimit:* ~gateway:* ~ingest:* ~receipts ~{receipts}:* ~webhooks"
)

_CONTAINERS = {"ACL", "CLIENT", "CLUSTER", "CONFIG", "MEMORY", "OBJECT", "SCRIPT", "XGROUP", "XINFO"}
# methods whose commands differ from their names; an empty tuple for methods that send nothing
_METHODS = {
    "aclose": (), "close": (), "disconnect": (), "execute_command": (), "from_pool": (), "from_url": (), "pipeline": (),
    "every_node": (), "node_of": (), "together": (),  # of the queue's own client
    "execute": ("multi", "exec"),
    "hscan_iter": ("hscan",), "scan_iter": ("scan",), "sscan_iter": ("sscan",), "zscan_iter": ("zscan",),
    "xgroup_create": ("xgroup|create",), "xinfo_groups": ("xinfo|groups",), "xinfo_consumers": ("xinfo|consumers",),
    "xinfo_stream": ("xinfo|stream",),
    "xpending_range": ("xpending",), "config_get": ("config|get",), "script_load": ("script|load",),
    "memory_usage": ("memory|usage",),
    "call": (), "pcall": (),  # Lua inside Python
}  # fmt: skip
_DRIVERS_OWN = {"ping", "select"}
# modules with a connection: they import the driver, or a partition that holds one
_SENDS = re.compile(r"^(?:from|import) redis|^from shared\.queue\.partitions import", re.MULTILINE)
# sent only as the user `default`: it shows all settings, including passwords
_OPTIONAL = {"config|get"}


def commands() -> set[str]:
    """Return the commands that the code sends, with subcommands as `xgroup|create`."""
    found: set[str] = set(_DRIVERS_OWN)
    for source in (
        *ROOT.glob("shared/queue/lua/**/*.lua"),
        *ROOT.glob("shared/**/*.py"),
        *ROOT.glob("services/**/*.py"),
    ):
        text = source.read_text("utf-8")
        found |= _of_scripts(text)
        if _SENDS.search(text):
            found |= _of_methods(text)
    return found - _OPTIONAL


def _of_scripts(text: str) -> set[str]:
    return _named(re.findall(r"redis\.p?call\('([A-Z]+)'(?:,\s*'([A-Z]+)')?", text))


def _named(calls: Iterable[tuple[str, str]]) -> set[str]:
    return {f"{name}|{sub}".lower() if name in _CONTAINERS else name.lower() for name, sub in calls}


def _of_methods(text: str) -> set[str]:
    found = _named(re.findall(r'execute_command\(\s*"([A-Z]+)"(?:,\s*"([A-Z]+)")?', text))
    for method in re.findall(r"\b_?(?:redis|pipe|client|server)\.([a-z_]+)\(", text):
        found |= set(_METHODS.get(method, (method,)))
    return found


def rights() -> str:
    """Return the rules of the user `kurir` that follow its password."""
    return f"{KEYS} {' '.join(f'+{command}' for command in sorted(commands()))}"


def _rewritten(path: Path) -> str:
    """Return the file with an updated line for the user."""
    return re.sub(
        r"(?m)^(user kurir reset on \S+) .*$", lambda found: f"{found[1]} {rights()}", path.read_text("utf-8")
    )


def main(arguments: list[str]) -> int:
    """Write the line, or check that it is fresh; return the exit code."""
    stale = [path for path in (ACL, GUIDE) if path.read_text("utf-8") != _rewritten(path)]
    for path in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run make docs\n")
        else:
            path.write_text(_rewritten(path), "utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
