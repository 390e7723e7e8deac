"""The limit that applies to a job."""

from __future__ import annotations

from shared.jobs import Job, Recipient
from shared.queue.control import gap_us
from shared.sending.job_limits import JobLimit, domain_limits, pair_limit
from shared.settings import Rate


def job_to(address: str) -> Job:
    return Job("b", 0, "email", "normal", Recipient(address, "R"), 0)


def test_a_named_domain_comes_before_all_others() -> None:
    """gmail.com has its own limit in any spelling; `*` gives every other domain one of its own."""
    gmail, others = Rate(20, 1.0), Rate(50, 1.0)
    limit_of = domain_limits({"gmail.com": gmail, "*": others})
    assert limit_of(job_to("a@GMail.com")) == JobLimit("gmail.com", gap_us(gmail), starts=20)
    assert limit_of(job_to("a@example.org")) == JobLimit("example.org", gap_us(others), starts=50)


def test_a_domain_is_limited_in_any_form() -> None:
    """Unicode and ASCII name one domain, in the setting as in the address."""
    for named in ("münchen.de", "xn--mnchen-3ya.de"):
        limit_of = domain_limits({named: Rate(20, 1.0)})
        for domain in ("münchen.de", "xn--mnchen-3ya.de", "MÜNCHEN.DE"):
            found = limit_of(job_to(f"a@{domain}"))
            assert found == JobLimit("xn--mnchen-3ya.de", gap_us(Rate(20, 1.0)), starts=20)


def test_a_recipient_is_limited_in_any_spelling() -> None:
    """Two spellings of one number share the limit of a pair."""
    limit_of = pair_limit(Rate(1, 6.0), 45)
    assert limit_of(job_to("558187654321")) == limit_of(job_to("5581987654321"))


def test_domains_without_a_limit() -> None:
    """Without `*` a domain that is not named has no limit; without any rate none has."""
    assert domain_limits({"gmail.com": Rate(20, 1.0)})(job_to("a@example.org")) is None
    assert domain_limits({})(job_to("a@example.org")) is None


def test_a_pair_is_limited_by_its_recipient() -> None:
    """One message per 6 s to one number after a burst of 45; the name does not reveal the number; `off` is no limit."""
    rate = Rate(1, 6.0)
    limit_of = pair_limit(rate, 45)
    first, again, other = (limit_of(job_to(number)) for number in ("6281234567890", "6281234567890", "6281234567891"))
    assert first is not None
    assert first == again != other
    assert (first.gap_us, first.burst, first.starts) == (gap_us(rate), 45, 1)
    assert "6281234567890" not in first.name
    assert pair_limit(None, 45)(job_to("6281234567890")) is None
