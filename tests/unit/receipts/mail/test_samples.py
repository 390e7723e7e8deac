"""Bounces, complaints and automatic replies in the forms of many mail systems and languages."""

from __future__ import annotations

import pytest

from shared.receipts import Receipt
from tests.unit.receipts.mail.expected import IGNORED, JOB_ID, MESSAGE_ID, RECEIPTS, SET_ASIDE, Said
from tests.unit.receipts.mail.reading_samples import FOLDER, read, sample


def said(receipt: Receipt) -> Said:
    if receipt.message_id:
        assert (receipt.message_id, receipt.job_id, receipt.trusted) == (MESSAGE_ID, "", False)
        found_by = "message-id"
    else:
        assert receipt.job_id == JOB_ID
        found_by = "token" if receipt.trusted else "job-header"
    return Said(receipt.kind, receipt.severity, receipt.code, receipt.address, found_by)


@pytest.mark.parametrize("name", sorted(RECEIPTS))
def test_sample_gives_its_receipts(name: str) -> None:
    """Kind, severity, code, address and trust are as the table says, and the words are not empty for a failure."""
    reading = read(sample(name))
    assert [said(one) for one in reading.receipts] == RECEIPTS[name], [one.words for one in reading.receipts]
    assert reading.problem == ""
    assert all(one.source == "mail" for one in reading.receipts)
    assert all(one.words for one in reading.receipts if one.kind == "bounced")


@pytest.mark.parametrize("name", IGNORED)
def test_delay_or_automatic_reply_gives_no_receipt(name: str) -> None:
    """What settles nothing is counted as ignored and gives no receipt, whatever it quotes."""
    reading = read(sample(name))
    assert (list(reading.receipts), reading.problem) == ([], "")
    assert reading.ignored == 1


@pytest.mark.parametrize("name", SET_ASIDE)
def test_mail_that_names_none_of_ours_is_set_aside(name: str) -> None:
    """A foreign bounce, a person's mail and spam give no receipt and a reason, so that the entry is kept whole."""
    reading = read(sample(name))
    assert list(reading.receipts) == []
    assert reading.problem


def test_table_is_complete() -> None:
    """Every sample has an expected result, and at least sixty are bounces or complaints."""
    assert {path.stem for path in FOLDER.glob("*.eml")} == {*RECEIPTS, *IGNORED, *SET_ASIDE}
    assert len(RECEIPTS) >= 60
