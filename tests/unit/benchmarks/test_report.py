"""The benchmarks' report: medians of rounds, ratios, goals, and the results in the README."""

from __future__ import annotations

import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from benchmarks import against, hook_load, report, scaling, signing, suite, workload
from benchmarks.measured import Measurement, Side, measured
from benchmarks.processes import BenchmarkError, Usage
from services.email_sender.dkim_keys import parse_key

ROOT = Path(__file__).parents[3]


def _round(side: Side, rate: float) -> Measurement:
    return Measurement("end-to-end", side, 1000, {"msg/s": rate}, {"valkey": 80.0}, {"valkey": 10.0})


def test_a_goal_is_checked_against_the_medians_of_its_rounds() -> None:
    """A single lucky round does not reach a goal, and a single bad one does not miss it."""
    found = [_round("peer", rate) for rate in (100, 110, 500)] + [_round("kurir", rate) for rate in (330, 340, 20)]
    row = report.goals_table(found)[2]
    assert "| 110 " in row
    assert "| 330 " in row
    assert row.endswith("| 3.00 × | ≥ 3 ×    | yes     |")


def test_signing_is_checked_within_each_round() -> None:
    """Other load during a round slows all kinds alike, so their shares stay comparable."""
    rates = {"unsigned": (1000, 100, 1000), "rsa-2048": (410, 45, 390), "ed25519": (790, 99, 700)}
    found = [Measurement(signing.name(kind), "kurir", 1000, {"msg/s": rate}) for kind in rates for rate in rates[kind]]
    _, _, unsigned, rsa, ed25519 = report.dkim_table(found)
    assert [cell.strip() for cell in unsigned.split("|")[1:-1]] == ["unsigned", "1,000", "100%", "", ""]
    assert [cell.strip() for cell in rsa.split("|")[1:-1]] == ["rsa-2048", "390", "41%", "≥ 40%", "yes"]
    assert [cell.strip() for cell in ed25519.split("|")[1:-1]] == ["ed25519", "700", "79%", "≥ 85%", "no"]
    assert report.scaling_table(found) == []


def test_versions_are_compared_round_by_round() -> None:
    """The ratio is the median of the rounds' own ratios, so that a slow round does not decide it."""
    before = [_round("before", rate) for rate in (100, 200, 50)]
    now = [_round("kurir", rate) for rate in (110, 220, 100)]
    found = [one for pair in zip(before, now, strict=True) for one in pair]
    found = [replace(one, figures={**one.figures, "logged msg/s": one.figures["msg/s"]}) for one in found]
    _, _, sent, _, processor = report.against_table(found)
    assert [cell.strip() for cell in sent.split("|")[1:-1]] == ["end-to-end", "msg/s", "100", "110", "1.10 ×"]
    assert processor.split("|")[-2].strip() == "1.00 ×"


def test_a_bound_may_be_absolute() -> None:
    """A rate for each core has to reach a number, however slow the peer is; a time must not exceed one."""
    figures = {"msg/s": 300.0, "msg/s a core": 374.0}
    found = [Measurement("large", side, 1000, figures) for side in ("peer", "kurir")]
    cells = [[cell.strip() for cell in row.split("|")[-3:-1]] for row in report.goals_table(found)[2:]]
    assert cells == [["≥ 2 ×", "no"], ["≥ 375", "no"]]


def test_runs_without_a_peer_are_compared_with_each_other() -> None:
    """Several senders with one, and a system with an endpoint with one without; hooks with what was asked for."""
    rates = {"1 senders": 1000, "4 senders": 1500, scaling.PINNED: 1800, scaling.WITHOUT: 1000, scaling.WITH: 910}
    found = [Measurement(work, "kurir", 10, {"msg/s": rate, "logged msg/s": rate}) for work, rate in rates.items()]
    cells = [row.split("|")[-2].strip() for row in report.scaling_table(found)[2:]]
    assert cells == ["", "1.50 × 1 senders", "1.20 × 4 senders", "", "0.91 × without an endpoint"]
    values = dict.fromkeys(hook_load.FIGURES, 0.5)
    assert report.hooks_table([Measurement(hook_load.WORK, "kurir", 1, values)])[2].count("0.50") == len(values)
    assert report.hooks_table(found) == []


def test_a_quick_run_is_smaller_and_otherwise_alike() -> None:
    """The peer gets fewer jobs where it is slower; size, signature and channel are the same for both sides."""
    [large] = [one for one in suite.CONTESTS if one.name == "large"]
    full = suite.Options(["large"], 3, quick=False, append_fsync="always")
    quick = replace(full, quick=True, append_fsync="no")
    assert (large.sized("peer", full).jobs, large.sized("kurir", full).jobs) == (1_500, 3_000)
    assert large.sized("kurir", quick) == replace(large.load, jobs=1_000, append_fsync="no")


def test_an_unknown_commit_is_named() -> None:
    """git's own words say what is wrong with it."""
    with pytest.raises(BenchmarkError, match="no-such-commit"), against.checked_out("no-such-commit", print):
        pass


def test_both_sides_run_with_one_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side is installed with this one's Python, not with the first on PATH."""
    ran: list[list[str]] = []

    def run(command: list[str], _folder: Path, _timeout_s: float) -> None:
        ran.append(command)
        if "archive" in command:
            with tarfile.open(command[command.index("--output") + 1], "w") as archive:
                archive.add(__file__, "Makefile")

    monkeypatch.setattr(against, "_do", run)
    with against.checked_out("HEAD", lambda _: None) as tree:
        assert (tree / "Makefile").exists()
    assert f"PYTHON={Path(sys.executable).resolve()}" in ran[-1]


@pytest.mark.parametrize("kind", ["rsa-2048", "ed25519"])
def test_kurir_accepts_the_benchmarks_key(kind: str, tmp_path: Path) -> None:
    """Only its owner can read it, and it is of the requested kind."""
    path = tmp_path / "dkim.pem"
    workload.write_key(kind, path)
    assert path.stat().st_mode & 0o077 == 0
    assert isinstance(parse_key(path.read_text()), RSAPrivateKey) == (kind == "rsa-2048")


def test_a_benchmark_of_only_one_side_is_not_compared() -> None:
    """Without the peer's figure there is no ratio and no row."""
    assert report.goals_table([_round("kurir", 1000)]) == []


def test_processor_time_is_per_thousand_messages() -> None:
    """Two seconds for 4,000 messages are 500 ms per thousand; earlier usage does not count."""
    used = Usage({"sender": 5.0}, {"sender": 60.0}).since(Usage({"sender": 3.0}, {"sender": 50.0}))
    one = measured("end-to-end", "kurir", 4000, {}, used)
    assert one.cpu_ms_per_thousand == {"sender": pytest.approx(500.0)}
    assert one.peak_mib == {"sender": 60.0}


def test_new_results_replace_the_previous_ones(tmp_path: Path) -> None:
    """Only the text between the marks is replaced."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n", encoding="utf-8")
    report.write_readme(readme, ["new"])
    assert readme.read_text(encoding="utf-8") == "before\n<!-- results -->\n\nnew\n\n<!-- end of results -->\nafter\n"


def test_both_sides_send_the_documented_body() -> None:
    """The HTML is 1.5 KB, and Kurir's template is the same text that the peer fills in."""
    assert len(workload.html()) == workload.HTML_BYTES == 1536
    assert workload.html().count("{{ name }}") == 2
    assert len(orjson.loads(workload.blast_body(7))["recipients"]) == 7


def test_the_peers_lock_pins_every_package_and_names_no_registry() -> None:
    """Each package has a hash; the machine's own npm chooses the registry."""
    lock = orjson.loads((ROOT / "benchmarks/peer/package-lock.json").read_bytes())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert {"node_modules/bullmq", "node_modules/nodemailer", "node_modules/undici"} <= packages.keys()
    assert all(entry.get("integrity", "").startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())


def test_the_peers_packages_are_not_in_the_repository() -> None:
    """Git ignores node_modules."""
    assert "/benchmarks/peer/node_modules/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
