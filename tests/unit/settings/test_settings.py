"""Settings: typed values from an environment, and all its problems together."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError
from shared.settings import EnvReader, Rate, parse_seconds, read_common, read_redis_url


@pytest.mark.parametrize(
    ("text", "seconds"), [("8s", 8.0), ("250ms", 0.25), ("1m", 60.0), ("2h", 7200.0), ("1d", 86400.0), ("1.5", 1.5)]
)
def test_durations_are_read_with_their_units(text: str, seconds: float) -> None:
    """A duration may have the unit ms, s, m, h or d; a plain number is seconds."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "fast", "-1s", "1 week", "8 s s", "1e3"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    """Any other text raises a ValueError."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("10/1s", Rate(10, 1.0)), ("1000/1m", Rate(1000, 60.0)), ("5/s", Rate(5, 1.0)), ("off", None)]
)
def test_rates_are_read(text: str, rate: Rate | None) -> None:
    """A rate is a count per period, or off."""
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "10", "0/1s", "-3/1s", "10/0s", "ten/1s", "10/1y", "1.5/1s", "٣/1s"])
def test_what_is_not_a_rate_is_refused(text: str) -> None:
    """Any other text raises a ValueError with examples of rates."""
    with pytest.raises(ValueError, match="is not a rate such as 10/1s"):
        Rate.parse(text)


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_a_rate_reads_back_what_it_writes(count: int, period_s: int) -> None:
    """`parse` reads the text of `str()`."""
    rate = Rate(count, float(period_s))
    assert Rate.parse(str(rate)) == rate


def test_every_problem_is_reported_at_once() -> None:
    """One SettingsError names all invalid and missing variables."""
    env = EnvReader({"A": "x", "B": "99", "C": "maybe", "D": "red", "E": "soon", "F": "much"})
    env.integer("A", 1)
    env.integer("B", 1, maximum=10)
    env.flag("C", default=True)
    env.choice("D", ("green", "blue"), "green")
    env.seconds("E", 1)
    env.rate("F", "off")
    env.text("G")
    with pytest.raises(SettingsError) as raised:
        env.finish()
    assert [problem[:1] for problem in raised.value.problems] == list("ABCDEFG")


def test_unset_variables_have_defaults() -> None:
    """Unset and empty variables get their defaults, without a problem."""
    env = EnvReader({"EMPTY": "  "})
    values = (env.text("EMPTY", "x"), env.integer("N", 3), env.seconds("S", 0.5), env.flag("F", default=True))
    assert values == ("x", 3, 0.5, True)
    assert env.rate("R", "10/1s") == Rate(10, 1.0)
    assert env.items("I", "a, b") == ["a", "b"]
    env.finish()


def test_items_are_stripped() -> None:
    """A list is split at commas, and empty items are dropped."""
    assert EnvReader({"I": " a ,, b,"}).items("I") == ["a", "b"]


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    """`<name>_FILE` names a file whose stripped content is the value."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    env = EnvReader({"KEY_FILE": str(secret)})
    assert env.text("KEY") == "s3cret"
    env.finish()


def test_a_secret_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file is a problem; the default is not used silently."""
    env = EnvReader({"KEY_FILE": str(tmp_path / "none")})
    env.text("KEY", "default")
    with pytest.raises(SettingsError, match="KEY_FILE: cannot read"):
        env.finish()


def test_a_value_and_its_file_together_are_a_problem(tmp_path: Path) -> None:
    """Otherwise it would be unclear which of them applies."""
    env = EnvReader({"KEY": "a", "KEY_FILE": str(tmp_path)})
    env.text("KEY")
    with pytest.raises(SettingsError, match="both set"):
        env.finish()


def test_a_service_has_working_defaults() -> None:
    """With an empty environment a service listens on loopback and logs under the data folder."""
    env = EnvReader({})
    common = read_common(env, 3010)
    env.finish()
    assert (common.host, common.port, common.log_dir) == ("127.0.0.1", 3010, Path("data/logs"))
    assert not common.production


@pytest.mark.parametrize("word", ["off", "OFF", " off "])
def test_file_logging_can_be_turned_off(word: str) -> None:
    """`off` in any case names no folder, but ./off does."""
    assert read_common(EnvReader({"KURIR_LOG_DIR": word}), 1).log_dir is None
    assert read_common(EnvReader({"KURIR_LOG_DIR": "./off"}), 1).log_dir == Path("off")


def test_a_redis_url_without_its_scheme_is_refused() -> None:
    """The message lists the possible schemes."""
    env = EnvReader({"KURIR_REDIS_URL": "localhost:6379", "KURIR_TIME_SCALE": "0"})
    read_common(env, 3000)
    with pytest.raises(SettingsError, match="must begin with redis://") as raised:
        env.finish()
    assert len(raised.value.problems) == 2


def test_the_redis_password_may_be_separate_from_its_url(tmp_path: Path) -> None:
    """It comes from a file and may have any characters; a password in the URL takes precedence."""
    secret = tmp_path / "password"
    secret.write_text("p@ss:w/rd\n")
    apart = {"KURIR_REDIS_PASSWORD_FILE": str(secret), "KURIR_REDIS_URL": "redis://kurir@one:6379/0"}
    assert read_redis_url(EnvReader(apart)) == "redis://kurir:p%40ss%3Aw%2Frd@one:6379/0"
    within = {**apart, "KURIR_REDIS_URL": "redis://kurir:other@one:6379/0"}
    assert read_redis_url(EnvReader(within)) == "redis://kurir:other@one:6379/0"
    many = {**apart, "KURIR_REDIS_URL": "redis+sentinel://one,two:1/kurir"}
    assert read_redis_url(EnvReader(many)) == "redis+sentinel://:p%40ss%3Aw%2Frd@one,two:1/kurir"


def test_a_ca_file_needs_an_encrypted_url(tmp_path: Path) -> None:
    """The file is passed to the driver; an unencrypted URL would ignore it, so that is a problem."""
    path = tmp_path / "ca.pem"
    path.touch()
    encrypted = EnvReader(
        {"KURIR_REDIS_URL": "rediss://one/0?ssl_check_hostname=yes", "KURIR_REDIS_CA_FILE": str(path)}
    )
    assert read_redis_url(encrypted).endswith(f"ssl_check_hostname=yes&ssl_ca_certs={quote(str(path), safe='')}")
    encrypted.finish()
    for url, ca_file in (("redis://one/0", path), ("rediss://one/0", tmp_path / "missing.pem")):
        env = EnvReader({"KURIR_REDIS_URL": url, "KURIR_REDIS_CA_FILE": str(ca_file)})
        read_redis_url(env)
        with pytest.raises(SettingsError, match="KURIR_REDIS_CA_FILE"):
            env.finish()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"f\xfcr", "für"),
        ("für".encode(), "für"),
        ("für".encode("utf-8-sig"), "für"),
        ("für".encode("utf-16"), "für"),
        ("请使用".encode("gbk"), "请使用"),
    ],
)
def test_foreign_bytes_in_the_environment_and_in_files(raw: bytes, text: str, tmp_path: Path) -> None:
    """A value that is not UTF-8 is decoded with a guessed charset, and a byte order mark is removed."""
    path = tmp_path / "secret"
    path.write_bytes(raw)
    in_env = os.fsdecode(text.encode("utf-8") if raw.startswith((b"\xef", b"\xff")) else raw)
    env = EnvReader({"KURIR_X": in_env, "KURIR_Y_FILE": str(path)})
    assert [env.text("KURIR_X"), env.text("KURIR_Y")] == [text, text]
    env.finish()


def test_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    """A secret must be text, so that it can also be set elsewhere."""
    path = tmp_path / "secret"
    path.write_bytes(bytes(range(256)))
    env = EnvReader({"KURIR_Y_FILE": str(path)})
    env.text("KURIR_Y")
    with pytest.raises(SettingsError, match="is not a text file"):
        env.finish()


def test_path_keeps_its_bytes(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 is found under that name."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr"))
    folder.mkdir()
    common = read_common(EnvReader({"KURIR_DATA_DIR": str(folder)}), 1)
    assert common.data_dir.is_dir()
