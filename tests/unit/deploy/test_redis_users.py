"""Redis's users: they may run exactly the commands that the code sends."""

from __future__ import annotations

from pathlib import Path

from deploy.make_redis_rights import commands, rights

ROOT = Path(__file__).resolve().parents[3]
ACL = ROOT / "deploy" / "redis" / "users.acl"


def _rules(user: str) -> list[str]:
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith(f"user {user} ")]
    return line.split()


def test_each_right_is_needed_and_none_is_missing() -> None:
    """The line grants exactly the commands that scripts and clients send."""
    granted = {rule.removeprefix("+") for rule in _rules("kurir") if rule.startswith("+")}
    assert granted == commands(), "run make docs"


def test_commands_are_found_in_scripts_and_in_clients() -> None:
    """Commands are found in scripts, in clients, as subcommands, and for transactions."""
    found = commands()
    assert {"xclaim", "xread", "xgroup|create", "multi", "exec", "evalsha", "eval"} <= found
    assert not {"xgroup", "flushall", "keys", "config|set", "pipeline", "aclose"} & found


def test_kurir_sees_only_its_own_keys() -> None:
    """Kurir's user has no access to other keys or to channels, and the default user is off."""
    assert _rules("default")[2] == "off"
    rules = _rules("kurir")
    assert rules[2] == "reset"  # it removes every right, so the rest of the line is all that is granted
    assert not {"nopass", "allkeys", "~*", "&*", "+@all", "allcommands"} & set(rules)


def test_the_docs_show_the_line_as_it_is() -> None:
    """Operators of their own Redis copy it from docs/operations.md."""
    assert rights() in (ROOT / "docs" / "operations.md").read_text(), "run make docs"
