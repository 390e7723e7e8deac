"""The path of one POST through the code, as listed in `docs/architecture.md`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.integration.ingest.running import Api, RunningIngest, person
from tests.integration.ingest.test_blasts import BLAST

ROOT = Path(__file__).resolve().parents[3]
# where the request enters each file; `main` ran when ingest started, and the script runs in Redis
ENTRIES = {
    "services/ingest/http/app.py": "_Router.resolve",
    "services/ingest/http/middleware.py": "ApiMiddleware._enter",
    "services/ingest/api/blasts.py": "_post_blast",
    "services/ingest/blasts/submission.py": "Submission.run",
    "services/ingest/blasts/enqueueing.py": "Enqueueing.run",
    "shared/queue/producer.py": "Producer.enqueue",
}


def _listed() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("crosses eight files:\n")[2].partition("\n\n\n")[0].partition("The words of ingest")[0]
    return re.findall(r"^\| `([\w/.]+)` \|", table, re.MULTILINE)


async def test_a_post_crosses_the_files_that_the_document_lists(ingest: RunningIngest, api: Api) -> None:
    """It crosses eight files from `main` to the enqueue script, in the listed order."""
    listed = _listed()
    assert (len(listed), listed[0], listed[-1]) == (8, "services/ingest/main.py", "shared/queue/lua/enqueue.lua")
    wanted = {(str(ROOT / path), entry): path for path, entry in ENTRIES.items()}
    entered: dict[str, None] = {}

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        path = wanted.get((frame.f_code.co_filename, frame.f_code.co_qualname)) if event == "call" else None
        if path is not None:
            entered.setdefault(path)

    await ingest.call_in_loop(lambda: sys.setprofile(note))
    try:
        reply = await api.post(BLAST, {"templateId": "otp", "channels": ["email"], "recipients": [person(1)]})
    finally:
        await ingest.call_in_loop(lambda: sys.setprofile(None))
    assert reply.status == 202, reply.text
    assert list(entered) == listed[1:-1]
    assert '"enqueue"' in (ROOT / listed[-2]).read_text()
