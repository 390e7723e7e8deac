"""Settings: a service's environment becomes a frozen dataclass, and all problems are reported together.

A variable is `KURIR_…`. If `<name>_FILE` is set instead, its value is the content of that file, so that secrets need
not be in the environment. An empty value counts as unset, since compose files pass empty values. Values and files that
are not UTF-8 are decoded with a guessed charset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, quote, urlencode

from shared.addresses import is_region
from shared.errors import SettingsError
from shared.foreign_text import decoded, valid
from shared.hosts import is_fully_qualified
from shared.urls import http_url, split_url

_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)")
_LONGEST_S = 366 * 86400.0
_LONGEST_TIME_OUT_S = 300
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_NumberT = TypeVar("_NumberT", int, float)
_REDIS_SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
INTERNAL_SECRET = "KURIR_INTERNAL_SECRET"  # noqa: S105 - the name of the variable, not its value
MOST_PARTITIONS = 64
_SHORTEST_SECRET = 16
# a path of an envelope has at most 256 octets (RFC 5321, 4.5.3.1.3), and the local part up to 64
_LONGEST_BOUNCE_DOMAIN = 180
LOG_LEVELS = ("debug", "info", "warning", "error")


def parse_seconds(text: str) -> float:
    """Read a duration ("8s", "250ms", "1m", "2h", "1d"; a plain number is seconds); raises ValueError."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 250ms, 8s, 1m or 2h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST_S:
        raise ValueError(f"{text[:40]!r} is longer than a year")
    return seconds


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` starts in any `period_s` seconds."""

    count: int
    period_s: float

    @classmethod
    def parse(cls, text: str) -> Rate | None:
        """Read "10/1s" or "1000/1m"; return None for "off". Raises ValueError with a message for the user."""
        if text.strip().lower() == "off":
            return None
        wanted = f"{text!r} is not a rate such as 10/1s, 1000/1m or off"
        count, slash, period = text.partition("/")
        if not slash or not re.fullmatch(r"\s*[0-9]{1,9}\s*", count):
            raise ValueError(wanted)
        try:
            period_s = parse_seconds(period)
        except ValueError:
            # "10/s" reads naturally as ten in one second
            try:
                period_s = parse_seconds(f"1{period.strip()}")
            except ValueError:
                raise ValueError(wanted) from None
        if int(count) < 1 or period_s <= 0:
            raise ValueError(wanted)
        return cls(int(count), period_s)

    def __str__(self) -> str:
        """Return the rate in the form that `parse` reads."""
        return f"{self.count}/{self.period_s:g}s"


class EnvReader:
    """Reads typed values from an environment and collects problems; `finish` raises them together."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._problems: list[str] = []

    def problem(self, text: str) -> None:
        """Add a problem, which `finish` raises."""
        self._problems.append(text)

    def finish(self) -> None:
        """Raise SettingsError if there are problems."""
        if self._problems:
            raise SettingsError(list(self._problems))

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text; without a default it is required. `<name>_FILE` names a file with the value."""
        value = self._raw(name)
        if value is not None:
            return value
        if default is None:
            self.problem(f"{name} is required")
            return ""
        return default

    def path(self, name: str, default: str) -> str:
        """Return a path unchanged from the environment: a file name may have bytes that are not valid text."""
        return self._env.get(name, "").strip() or default

    def integer(
        self, name: str, default: int | None = None, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """Return a whole number within its bounds."""
        value = self._raw(name)
        if value is None:
            return self._missing(name, default, 0)
        if re.fullmatch(r"[+-]?[0-9]{1,18}", value) is None:
            self.problem(f"{name}: {value!r} is not a whole number")
            return default or 0
        number = int(value)
        if minimum is not None and number < minimum:
            self.problem(f"{name}: {number} is below {minimum}")
        if maximum is not None and number > maximum:
            self.problem(f"{name}: {number} is above {maximum}")
        return number

    def seconds(self, name: str, default: float | None = None) -> float:
        """Return a duration in seconds ("8s", "250ms", "1m", "2h", or a plain number of seconds)."""
        value = self._raw(name)
        if value is None:
            return self._missing(name, default, 0.0)
        try:
            return parse_seconds(value)
        except ValueError as error:
            self.problem(f"{name}: {error}")
            return default or 0.0

    def span(self, name: str, default: float) -> float:
        """Return a duration in seconds above zero: where 0 would mean that everything takes too long."""
        seconds = self.seconds(name, default)
        if seconds <= 0:
            self.problem(f"{name}: it must be longer than 0 s, such as {default:g}s")
        return seconds

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean (1/0, true/false, yes/no, on/off)."""
        value = self._raw(name)
        if value is None:
            return default
        if value.lower() not in _TRUE | _FALSE:
            self.problem(f"{name}: {value!r} is not yes or no")
        return value.lower() in _TRUE

    def rate(self, name: str, default: str) -> Rate | None:
        """Return a rate ("10/1s"), or None for "off"."""
        try:
            return Rate.parse(self._raw(name) or default)
        except ValueError as error:
            self.problem(f"{name}: {error}")
            return None

    def items(self, name: str, default: str = "") -> list[str]:
        """Return a comma-separated list, stripped, without empty items."""
        value = self._raw(name)
        return [item.strip() for item in (default if value is None else value).split(",") if item.strip()]

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        """Return one of the options, in lower case."""
        value = self._raw(name)
        if value is None:
            return default
        if value.lower() not in options:
            self.problem(f"{name}: {value!r} is unknown; use {', '.join(options)}")
            return default
        return value.lower()

    def choices(self, name: str, options: Sequence[str]) -> list[str]:
        """Return a list of some of the options."""
        chosen = self.items(name)
        for one in chosen:
            if one not in options:
                self.problem(f"{name}: {one!r} is unknown; use {', '.join(options)}, or several of them")
        return chosen

    def file_of(self, name: str) -> str:
        """Return the path of the file that a variable's value is read from, "" if it comes from the environment."""
        return "" if self._env.get(name, "").strip() else self._env.get(f"{name}_FILE", "").strip()

    def _raw(self, name: str) -> str | None:
        value = valid(self._env.get(name, "")).strip()
        path = self._env.get(f"{name}_FILE", "").strip()
        if not path:
            return value or None
        if value:
            self.problem(f"{name} and {name}_FILE are both set: set only one")
            return value
        return self._content(name, path) or None

    def _content(self, name: str, path: str) -> str:
        try:
            content = decoded(Path(path).read_bytes()).strip()
        except OSError as error:
            self.problem(f"{name}_FILE: cannot read {valid(path)}: {error.strerror or error}")
            return ""
        if "\x00" in content:
            self.problem(f"{name}_FILE: {valid(path)} is not a text file")
        return content

    def _missing(self, name: str, default: _NumberT | None, zero: _NumberT) -> _NumberT:
        if default is None:
            self.problem(f"{name} is required")
            return zero
        return default


@dataclass(frozen=True, slots=True)
class CommonSettings:
    """The settings that every service has; `time_scale` multiplies all time constants of the queue.

    `log_dir` is None where no log files are written. `console` is the lowest level that the console of a development
    system shows, or `off`. `partitions` is the number of those of a channel's queue, `replicas`
    how many replicas of Redis must have a blast before it is accepted.
    """

    redis_url: str
    host: str
    port: int
    env: str
    log_level: str
    log_dir: Path | None
    data_dir: Path
    grace_s: float
    time_scale: float
    console: str = "info"
    partitions: int = 1
    replicas: int = 0

    @property
    def production(self) -> bool:
        """Whether this is a production system: JSON on stdout instead of a coloured console."""
        return self.env == "production"


def read_common(env: EnvReader, default_port: int) -> CommonSettings:
    """Read the settings that every service has; the reader's `finish` raises the problems."""
    data_dir = Path(env.path("KURIR_DATA_DIR", "./data"))
    return CommonSettings(
        redis_url=read_redis_url(env),
        host=env.text("KURIR_HOST", "127.0.0.1"),
        port=env.integer("KURIR_PORT", default_port, minimum=0, maximum=65535),
        env=env.choice("KURIR_ENV", ("development", "production"), "development"),
        log_level=env.choice("KURIR_LOG_LEVEL", LOG_LEVELS, "info"),
        log_dir=read_log_dir(env, data_dir),
        data_dir=data_dir,
        grace_s=env.seconds("KURIR_GRACE", 8.0),
        time_scale=_time_scale(env),
        console=env.choice("KURIR_LOG_CONSOLE", (*LOG_LEVELS, "off"), "info"),
        partitions=read_partitions(env),
        replicas=env.integer("KURIR_REDIS_REPLICAS", 0, minimum=0, maximum=5),
    )


def read_partitions(env: EnvReader) -> int:
    """Return the number of partitions of a channel's queue."""
    return env.integer("KURIR_PARTITIONS", 1, minimum=1, maximum=MOST_PARTITIONS)


def read_log_dir(env: EnvReader, data_dir: Path) -> Path | None:
    """Read the folder of the log files, None where there are to be none (`off`)."""
    folder = env.path("KURIR_LOG_DIR", str(data_dir / "logs"))
    return None if folder.lower() == "off" else Path(folder)


def read_time_out(env: EnvReader, name: str, default: float) -> float:
    """Read the bound of a wait for a provider in seconds."""
    seconds = env.seconds(name, default)
    if not 0 < seconds <= _LONGEST_TIME_OUT_S:
        env.problem(f"{name}: {seconds:g} s is out of range; it must be above 0 and at most {_LONGEST_TIME_OUT_S} s")
    return seconds


def read_region(env: EnvReader) -> str:
    """Read the two-letter country of phone numbers without a country code."""
    region = env.text("KURIR_DEFAULT_REGION", "ID").upper()
    if not is_region(region):
        hint = "; the United Kingdom is GB" if region == "UK" else ""
        env.problem(f"KURIR_DEFAULT_REGION: {region!r} is not a two-letter country code such as ID or SG{hint}")
    return region


def is_file(path: str) -> bool:
    """Return whether a path names a file: False also where it is too long, or its folder is closed to us."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def read_bounce_domain(env: EnvReader) -> str:
    """Return the domain of return paths, "" for none: bounces then go to KURIR_EMAIL_RETURN_PATH."""
    name = "KURIR_BOUNCE_DOMAIN"
    domain = env.text(name, "").lower().rstrip(".")
    if domain and not (is_fully_qualified(domain) and len(domain) <= _LONGEST_BOUNCE_DOMAIN):
        env.problem(f"{name}: {domain!r} is not a domain in ASCII such as bounces.example.com")
    return domain


def read_redis_url(env: EnvReader) -> str:
    """Return the URL of the queue: KURIR_REDIS_URL, with the password and the CA file that may be set separately.

    A password in the URL takes precedence, so that another URL can be used where a password file is always mounted.
    """
    url = env.text("KURIR_REDIS_URL", "redis://127.0.0.1:6379/0")
    password = env.text("KURIR_REDIS_PASSWORD", "")
    ca_file = env.path("KURIR_REDIS_CA_FILE", "")
    try:
        parts = split_redis_url(url)
    except ValueError as error:
        env.problem(f"KURIR_REDIS_URL: {error}")
        return url
    if password and parts.password is None and parts.scheme != "unix":
        hosts = parts.netloc.rpartition("@")[2]
        parts = parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{hosts}")
    if ca_file:
        if not parts.scheme.startswith("rediss"):
            env.problem("KURIR_REDIS_CA_FILE needs a KURIR_REDIS_URL that begins with rediss:// or rediss+sentinel://")
        elif not is_file(ca_file):
            env.problem(f"KURIR_REDIS_CA_FILE: the file {valid(ca_file)} does not exist or cannot be read")
        elif valid(ca_file) != ca_file:
            env.problem("KURIR_REDIS_CA_FILE: the file's name is not UTF-8: rename it")
        query = urlencode({"ssl_ca_certs": valid(ca_file)})
        parts = parts._replace(query=f"{parts.query}&{query}" if parts.query else query)
    return parts.geturl()


def split_redis_url(url: str) -> SplitResult:
    """Split the URL of a Redis or of its Sentinels; raises ValueError, which does not quote the URL."""
    schemes = ", ".join(f"{one}://" for one in _REDIS_SCHEMES)
    return split_url(url, _REDIS_SCHEMES, f"[user:password@]host[:port][/db] and must begin with {schemes}")


def read_http_url(env: EnvReader, name: str, default: str | None = None) -> str:
    """Return an http URL without a trailing slash; problems do not quote it, since it may have a password."""
    url = env.text(name, default)
    if not url:
        return url
    try:
        return http_url(url)
    except ValueError as error:
        env.problem(f"{name}: {error}")
        return url


def read_internal_secret(env: EnvReader) -> str:
    """Return the secret with which services authenticate to each other and seal sensitive values."""
    secret = env.text(INTERNAL_SECRET, "")
    if len(secret) < _SHORTEST_SECRET:
        problem = f"is shorter than {_SHORTEST_SECRET} characters" if secret else "is required"
        env.problem(
            f"{INTERNAL_SECRET} {problem}: set it, or {INTERNAL_SECRET}_FILE, to the same random text everywhere"
        )
    return secret


def _time_scale(env: EnvReader) -> float:
    value = env.text("KURIR_TIME_SCALE", "1")
    try:
        scale = float(value)
    except ValueError:
        scale = 0.0
    if not 0.01 <= scale <= 100:
        env.problem(f"KURIR_TIME_SCALE: {value!r} is not a number from 0.01 to 100")
        return 1.0
    return scale
