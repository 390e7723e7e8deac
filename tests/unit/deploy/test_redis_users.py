"""Redis's users: the right to each command that the code sends, and to no other."""

from __future__ import annotations

from pathlib import Path

from deploy.make_redis_rights import commands, rights

ROOT = Path(__file__).resolve().parents[3]
ACL = ROOT / "deploy" / "redis" / "users.acl"


def _rules(user: str) -> list[str]:
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith(f"user {user} ")]
    return line.split()


def test_each_right_is_needed_and_none_is_missing() -> None:
    """The line grants exactly what the scripts and the clients in the code send."""
    granted = {rule.removeprefix("+") for rule in _rules("kurir") if rule.startswith("+")}
    assert granted == commands(), "run make docs"


def test_commands_are_found_in_scripts_and_in_clients() -> None:
    """What only a script sends, what only a client sends, a subcommand, and what a transaction needs."""
    found = commands()
    assert {"xclaim", "xread", "xgroup|create", "multi", "exec", "evalsha", "eval"} <= found
    assert not {"xgroup", "flushall", "keys", "config|set", "pipeline", "aclose"} & found


def test_kurir_sees_its_own_keys_alone() -> None:
    """Kurir's user may neither see other keys nor listen to channels, and the nameless user is off."""
    assert _rules("default")[2] == "off"
    rules = _rules("kurir")
    assert rules[2] == "reset"  # it takes every right away: what follows is all
    assert not {"nopass", "allkeys", "~*", "&*", "+@all", "allcommands"} & set(rules)


def test_the_docs_show_the_line_as_it_is() -> None:
    """Whoever runs a Redis of their own copies it from docs/operations.md."""
    assert rights() in (ROOT / "docs" / "operations.md").read_text(), "run make docs"
