"""`kurir --version`: what is installed, as the first thing that a report of a problem has to say."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from services.cli.main import app


@pytest.mark.parametrize("words", [["--version"], ["--version", "status"], ["--version", "no-such-command"]])
def test_the_version_is_shown_whatever_follows(words: list[str]) -> None:
    """It needs no service and no setting, and is the version that the API and the metrics report."""
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"kurir {version('kurir')}\n", "")


def test_help_shows_the_option_and_the_commands() -> None:
    """The option takes nothing from the help of the whole command."""
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "--version" in shown
    assert "Kurir, a self-hosted messaging gateway" in shown
    assert "doctor" in shown
