"""`kurir pause`, `resume`, `cancel`, `retry` given the wrong kind of thing: the answer says what to do."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from services.cli.main import app


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["cancel", "email"], "email is a channel, which cannot be cancelled: give the id of a blast or a message"),
        (["cancel", "whatsapp"], "or stop the channel with `kurir pause whatsapp`"),
        (["retry", "email"], "email is a channel, which cannot be retried: give the id of a blast or a message"),
        (["retry", "4f1c9a:17:email", "--error-class", "permanent"], "choose among the messages of a blast"),
        (["pause", "4f1c9a:17:email"], "cancel it with `kurir cancel 4f1c9a:17:email`, or pause its blast"),
        (["retry-matching"], "give at least one filter"),
        (["resume", "4f1c9a:17:email"], "one message cannot be resumed: give its blast or its channel"),
    ],
)
def test_the_wrong_kind_of_target_is_refused_with_advice(words: list[str], advice: str) -> None:
    """It used to be a bare 404 of the API; now nothing is asked, and the exit code is that of a usage error."""
    done = CliRunner().invoke(app, [*words, "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 2
    assert advice in done.stderr
