"""Logs: JSON lines in rotating files, a rate-limited console, and masked, rate-limited warnings."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import DecodeError, SettingsError
from shared.events import SystemEvent, pack_event
from shared.jobs import unpack_job
from shared.logs import LogPipeline, _render, configure_logging, flush_logs, get_logger, note
from shared.masking import mask
from shared.settings import CommonSettings, EnvReader, read_common
from tests.servers import wait_for

Configure = Callable[..., list[SystemEvent]]


def _settings(folder: Path, **env: str) -> CommonSettings:
    return read_common(EnvReader({"KURIR_LOG_DIR": str(folder), **env}), 0)


@pytest.fixture
def configure(tmp_path: Path) -> Iterator[Configure]:
    """Return a function that configures logging into the test's folder and returns the shipped events."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, LogPipeline.current)

    def run(**env: str) -> list[SystemEvent]:
        shipped: list[SystemEvent] = []
        configure_logging("thing", _settings(tmp_path, **env), shipped.append)
        return shipped

    yield run
    if LogPipeline.current is not None and LogPipeline.current is not before[2]:
        LogPipeline.current.close()
        # loggers that keep this pipeline would open the files again with their next line
        LogPipeline.current._combined = LogPipeline.current._errors = None
    root.handlers[:], root.level, LogPipeline.current = before
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def _lines(path: Path) -> list[dict[str, Any]]:
    flush_logs()
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_note_writes_the_same_line(configure: Configure, tmp_path: Path) -> None:
    """`note` writes the same line as the logger, at a lower cost."""
    configure()
    get_logger().info("attempt", job_id="b:0:email", attempt=1)
    note("attempt", job_id="b:0:email", attempt=1)
    flush_logs()
    lines = (tmp_path / "combined.log").read_bytes().splitlines()
    usual, short = (line.partition(b'"level"')[2] for line in lines)
    assert usual == short


_TEXTS = st.text('a"\\%\n\0\x7f\u2028é€😀\ud800\udcff', max_size=4)
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS | st.just(ValueError("x"))
_VALUES = _PLAIN | st.lists(_PLAIN, max_size=2) | st.dictionaries(_TEXTS | st.integers(), _PLAIN, max_size=2)
_TIMES = st.floats(min_value=0, max_value=4e9) | st.sampled_from([0.0, 0.999, 1769817600.0, 1769817600.9999999])


@given(_TIMES, st.dictionaries(st.sampled_from(["job_id", "%s", "é", "at", "level", "service"]), _VALUES))
@example(1.5, {"\ud800": "\udcff", "big": 2**70})
def test_note_writes_any_value_as_the_logger_does(now: float, fields: dict[str, Any]) -> None:
    """The line of `note` is byte for byte that of any other logger call, at any time of a second."""
    pipeline = LogPipeline('a "100 %" service', read_common(EnvReader({"KURIR_LOG_DIR": "off"}), 0), None)
    fields["event"] = "attempt"
    for moment in (now, now + 0.1234):
        line = _render(moment, "info", 'a "100 %" service', fields)
        assert pipeline._note_lines([(moment, fields)] * 2) == [line] * 2


async def test_a_thread_that_logs_loses_no_line_of_note(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that another thread logs in the middle of `note` writes those before it, and the noted one follows."""
    configure()
    note("before")
    aside = threading.Thread(target=get_logger().info, args=("aside",))

    def read_clock() -> float:
        if aside.ident is None:
            aside.start()
            aside.join()
        return 0.0

    monkeypatch.setattr("shared.logs.time", SimpleNamespace(time=read_clock))
    note("after")
    assert [line["event"] for line in _lines(tmp_path / "combined.log")] == ["before", "aside", "after"]


def test_note_respects_the_level(configure: Configure, tmp_path: Path) -> None:
    """A system that logs only warnings gets no info line from `note` either."""
    configure(KURIR_LOG_LEVEL="warning")
    note("attempt", attempt=1)
    assert _lines(tmp_path / "combined.log") == []


def test_a_line_is_json_with_time_level_and_service(configure: Configure, tmp_path: Path) -> None:
    """The fields of the call follow the fields of every line."""
    configure()
    get_logger().info("attempt", job_id="b:0:email", attempt=1, duration_ms=3)
    (line,) = _lines(tmp_path / "combined.log")
    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "info",
        "service": "thing",
        "event": "attempt",
        "job_id": "b:0:email",
        "attempt": 1,
        "duration_ms": 3,
    }


def test_only_errors_go_to_error_log(configure: Configure, tmp_path: Path) -> None:
    """combined.log has all lines, error.log only errors."""
    configure()
    log = get_logger()
    log.info("a")
    log.warning("b")
    log.error("c")
    assert [line["event"] for line in _lines(tmp_path / "combined.log")] == ["a", "b", "c"]
    assert [line["event"] for line in _lines(tmp_path / "error.log")] == ["c"]


def test_lines_below_the_level_are_dropped(configure: Configure, tmp_path: Path) -> None:
    """KURIR_LOG_LEVEL=warning drops info lines."""
    configure(KURIR_LOG_LEVEL="warning")
    get_logger().info("quiet")
    get_logger().warning("loud")
    assert [line["event"] for line in _lines(tmp_path / "combined.log")] == ["loud"]


def test_a_traceback_is_kept_and_masked(configure: Configure, tmp_path: Path) -> None:
    """exception() writes the traceback with addresses masked."""
    configure()
    try:
        int("siti@example.com or 6281234567890")
    except ValueError:
        get_logger().exception("crash", job_id="62812345678901:0:email")
    (line,) = _lines(tmp_path / "error.log")
    assert "base 10: '<address> or <phone>'" in line["exception"]
    assert line["job_id"] == "62812345678901:0:email"


def test_a_rotated_file_is_followed(configure: Configure, tmp_path: Path) -> None:
    """After logrotate has moved the file, lines go to a new file with the old name."""
    configure()
    get_logger().warning("before")
    (tmp_path / "combined.log").rename(tmp_path / "combined.log.1")
    get_logger().warning("after")
    assert [line["event"] for line in _lines(tmp_path / "combined.log")] == ["after"]
    assert [line["event"] for line in _lines(tmp_path / "combined.log.1")] == ["before"]


async def test_informational_lines_are_written_within_moments(configure: Configure, tmp_path: Path) -> None:
    """Lines are batched, but appear without a call of `flush_logs`."""
    configure()
    get_logger().info("soon")
    path = tmp_path / "combined.log"
    await wait_for(lambda: b"soon" in path.read_bytes(), what="the buffered line in the file")


def test_warnings_and_errors_are_shipped(configure: Configure) -> None:
    """Each becomes a SystemEvent with plain, masked metadata; info lines are not shipped."""
    shipped = configure()
    get_logger().info("step")
    get_logger().error("broken", reason=OSError("for siti@example.com"), path=Path("/x"))
    (event,) = shipped
    assert (event.level, event.message, event.service) == ("error", "broken", "thing")
    assert event.metadata == {"reason": "OSError: for <address>", "path": "/x"}


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all lines of a test be of one moment, however long they take."""
    monkeypatch.setattr("shared.log_sinks.time", SimpleNamespace(monotonic=lambda: 1000.0))


@pytest.mark.usefixtures("moment")
def test_a_storm_of_errors_is_shipped_in_part(configure: Configure) -> None:
    """Only a burst of twenty is shipped."""
    shipped = configure()
    for _ in range(500):
        get_logger().error("storm")
    assert len(shipped) == 20


def test_lines_logged_by_ship_are_not_shipped(configure: Configure, tmp_path: Path) -> None:
    """A failing sink that logs its failure neither calls itself endlessly nor fails the caller."""

    def ship(_event: SystemEvent) -> None:
        get_logger().error("cannot ship")
        raise RuntimeError("sink is gone")

    configure()
    configure_logging("thing", _settings(tmp_path), ship)
    get_logger().error("first")
    assert [line["event"] for line in _lines(tmp_path / "error.log")] == ["first", "cannot ship"]


def test_library_logs_use_the_same_sinks(configure: Configure, tmp_path: Path) -> None:
    """Warnings of aiohttp or asyncio are written to the same file, with their logger's name."""
    configure()
    logging.getLogger("asyncio").warning("Task exception of %s", "somebody")
    (line,) = _lines(tmp_path / "combined.log")
    assert (line["event"], line["logger"]) == ("Task exception of somebody", "asyncio")


def test_values_that_json_has_no_form_for_are_written(configure: Configure, tmp_path: Path) -> None:
    """Paths, sets, invalid text and huge numbers never make a log call raise."""
    configure()
    get_logger().info("odd", path=Path("/x"), parts={1}, text="\udcff", n=2**70)
    (line,) = _lines(tmp_path / "combined.log")
    assert line["event"].strip("'") == "odd"


@pytest.mark.usefixtures("moment")
def test_a_flood_is_shortened_on_the_console(configure: Configure, capfd: pytest.CaptureFixture[str]) -> None:
    """The console shows only some lines of a flood, but always warnings."""
    configure()
    for _ in range(2000):
        get_logger().info("attempt")
    get_logger().warning("late but shown")
    shown = capfd.readouterr().err
    assert shown.count("attempt") < 500
    assert "late but shown" in shown


def test_production_writes_json_to_stdout(configure: Configure, capfd: pytest.CaptureFixture[str]) -> None:
    """KURIR_ENV=production writes no coloured console."""
    configure(KURIR_ENV="production")
    get_logger().info("attempt", attempt=2)
    captured = capfd.readouterr()
    assert orjson.loads(captured.out)["attempt"] == 2
    assert captured.err == ""


def test_without_a_log_folder_each_line_is_written_once(
    configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`KURIR_LOG_DIR=off`: a production system writes to stdout alone, and still ships what is notable."""
    monkeypatch.chdir(tmp_path)
    shipped = configure(KURIR_ENV="production", KURIR_LOG_DIR="off")
    get_logger().info("attempt", attempt=1)
    note("attempt", attempt=2)
    get_logger().error("broken")
    flush_logs()
    captured = capfd.readouterr()
    assert [orjson.loads(line)["event"] for line in captured.out.splitlines()] == ["attempt", "attempt", "broken"]
    assert captured.err == ""
    assert [event.message for event in shipped] == ["broken"]
    assert list(tmp_path.iterdir()) == []


def test_a_log_folder_that_cannot_be_made_is_a_settings_error(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write the log file .*combined\.log"):
        configure_logging("thing", _settings(tmp_path / "file" / "logs"))


def test_a_file_that_cannot_be_written_does_not_fail_the_caller(
    configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """If the log file cannot be opened again, lines are lost and stderr reports it."""
    configure()
    (tmp_path / "combined.log").unlink()
    (tmp_path / "combined.log").mkdir()
    get_logger().warning("lost")
    assert "1 log lines lost" in capfd.readouterr().err


def test_a_file_that_can_be_written_again_gets_the_next_lines(
    configure: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the lines of the time between are lost; the file is for its owner and group alone."""
    configure()
    path = tmp_path / "combined.log"
    path.unlink()
    path.mkdir()
    get_logger().warning("lost")
    get_logger().warning("lost too")
    path.rmdir()
    get_logger().warning("written")
    assert capfd.readouterr().err.count("1 log lines lost") == 2
    assert [line["event"] for line in _lines(path)] == ["written"]
    assert path.stat().st_mode & 0o777 == 0o640


async def test_a_line_costs_microseconds(configure: Configure) -> None:
    """A line takes less than 100 µs of processor time (measured: 6 µs)."""
    configure(KURIR_LOG_CONSOLE="off")
    log = get_logger()
    began = time.thread_time()
    for number in range(10_000):
        log.info("attempt", job_id="b:0:email", blast_id="b", channel="email", attempt=number, duration_ms=3)
    spent = time.thread_time() - began
    await asyncio.sleep(0)
    assert spent / 10_000 < 100e-6, f"{spent * 100:.1f} µs a line"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("550 5.1.1 <a.b+c@example.co.id> unknown", "550 5.1.1 <<address>> unknown"),
        ("to +6281234567890 failed", "to <phone> failed"),
        ("nobody has 6281234567890.", "nobody has <phone>."),
        ("at 1769817600.25 in 1769817600000-0", "at 1769817600.25 in 1769817600000-0"),
        ("error 131026 after 2 attempts in 20260131", "error 131026 after 2 attempts in 20260131"),
    ],
)
def test_addresses_and_phone_numbers_are_masked(text: str, masked: str) -> None:
    """Codes and dates stay readable."""
    assert mask(text) == masked


def test_bytes_that_cannot_be_decoded_are_not_logged() -> None:
    """A corrupt job may begin with a name, and its error is logged; so the message does not quote the bytes."""
    raw = b"\xc1Xiomara Quetzalcoatl"
    with pytest.raises(DecodeError) as caught:
        unpack_job(raw)
    assert "Xiomara" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.raw == raw


def test_foreign_text_is_logged_and_shipped_legibly(configure: Configure, tmp_path: Path) -> None:
    """Lone surrogates in a value, a name or an exception lose neither the line nor the types of other values."""
    shipped = configure()
    try:
        int("f\udcfcr \ud800")
    except ValueError:
        get_logger().exception("f\udcfcr", count=3, words="sp\udce4ter \x1b[31m", **{"k\udcfc": True})
    line = _lines(tmp_path / "combined.log")[-1]
    assert (line["event"], line["count"], line["kü"]) == ("für", 3, True)
    assert "ValueError: invalid literal" in line["exception"]
    (event,) = shipped
    assert pack_event(event)
    assert (event.message, event.metadata["words"]) == ("für", "später \ufffd[31m")
