"""The envelope's sender: with a bounce domain, each message has a return path that names its job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.email_sender.message import Frame
from services.email_sender.settings import MailSettings, read_settings
from shared.errors import SettingsError
from shared.receipts import RETURN_PREFIX, read_return_token
from tests.integration.email_sender.mails import MAIL, make_blast, make_job
from tests.unit.email_sender.test_settings import ENV

BOUNCING = replace(MAIL, bounce_domain="bounces.example.com")
INGESTED: dict[str, Any] = {"blast_id": "06fv3k9qz1m2n4p7", "index": 4_294_967}


def sender_of(mail: MailSettings = BOUNCING, **job: Any) -> str:
    return Frame(make_blast(), mail).fill(make_job(**job)).envelope.sender


@pytest.mark.parametrize("change", [str, str.lower, str.upper, str.title])
def test_return_path_names_the_job_in_any_case(change: Callable[[str], str]) -> None:
    """A local part of at most 64 octets gives the job's id back, whatever servers do to its case."""
    local, _, domain = sender_of(**INGESTED).partition("@")
    assert domain == "bounces.example.com"
    assert len(local) <= 64
    assert local == local.lower()
    changed = change(local)
    assert changed[: len(RETURN_PREFIX)].lower() == RETURN_PREFIX
    assert read_return_token(changed[len(RETURN_PREFIX) :], MAIL.secret) == "06fv3k9qz1m2n4p7:4294967:email"


def test_each_job_has_its_own() -> None:
    """Two jobs of one blast have two return paths, and every run of one job the same."""
    assert len({sender_of(index=index) for index in range(100)}) == 100
    assert sender_of(run=1) == sender_of(run=2)


def test_without_a_bounce_domain_the_sender_stays() -> None:
    """It is the return path of the settings, else the address of From."""
    assert sender_of(MAIL) == "shop@example.com"
    assert sender_of(replace(MAIL, return_path="bounces@example.com")) == "bounces@example.com"


def test_job_id_that_does_not_fit_is_sent_all_the_same() -> None:
    """An id that is too long for a return path leaves the message its usual sender."""
    assert sender_of(blast_id="x" * 60) == "shop@example.com"


@pytest.mark.cost
def test_return_path_costs_microseconds() -> None:
    """At thousands of messages a second it takes less than a hundredth of a sender's time."""
    frame, jobs = Frame(make_blast(), BOUNCING), [make_job(index=index) for index in range(1000)]
    began = time.thread_time()
    for job in jobs:
        frame._return_path(job)
    assert (time.thread_time() - began) / len(jobs) < 50e-6


def test_settings_take_the_domain() -> None:
    """The domain is in lower case, and the status shows the form of the return paths, which SPF is checked by."""
    settings = read_settings({**ENV, "KURIR_BOUNCE_DOMAIN": "Bounces.Example.com."})
    assert settings.mail.bounce_domain == "bounces.example.com"
    assert settings.identity.describe()["returnPath"] == "b-<token>@bounces.example.com"
    assert settings.identity.spf_aligned("example.com")
    assert not settings.identity.spf_aligned("example.org")


@pytest.mark.parametrize(
    "given", ["bounces", "münchen.example", "a b.example", "bounces@example.com", "x." * 120 + "example"]
)
def test_domain_that_cannot_be_one_is_a_problem(given: str) -> None:
    """A name without a dot, beyond ASCII, with an @, or too long is reported."""
    with pytest.raises(SettingsError, match="KURIR_BOUNCE_DOMAIN"):
        read_settings({**ENV, "KURIR_BOUNCE_DOMAIN": given})
