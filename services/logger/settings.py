"""The logger's settings: the database's folder, retention, reader threads, and the backup folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, quote

from shared.settings import CommonSettings, EnvReader, is_file, read_common, read_internal_secret, read_region
from shared.urls import split_url

DEFAULT_PORT = 3030
_SCHEMES = ("postgresql", "postgres")
_FORM = "postgresql://user@host:port/database, or nothing for the SQLite file"
# without this check a missing file would count as a server that is away
_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})


@dataclass(frozen=True, slots=True)
class LoggerSettings:
    """The logger's settings from the environment; `readers` threads answer queries.

    `region` is the country of phone numbers without a country code. `webhook_recipients` is whether events for webhooks
    have the recipients' addresses. `database_url` is that of PostgreSQL, "" for the SQLite file.
    """

    common: CommonSettings
    retention_days: int
    readers: int
    internal_secret: str = field(repr=False)
    region: str = "ID"
    backup_dir: Path | None = None
    webhook_recipients: bool = False
    database_url: str = field(default="", repr=False)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.common.data_dir / "logs.db"

    @property
    def backup_places(self) -> tuple[Path, ...]:
        """The folders that may hold backups; a bare file name means the first."""
        return (self.backup_dir, self.common.data_dir) if self.backup_dir else (self.common.data_dir,)


def read_settings(env: Mapping[str, str]) -> LoggerSettings:
    """Read the settings; raises SettingsError with all problems."""
    reader = EnvReader(env)
    settings = LoggerSettings(
        common=read_common(reader, DEFAULT_PORT),
        retention_days=reader.integer("KURIR_RETENTION_DAYS", 30, minimum=1, maximum=36_500),
        readers=reader.integer("KURIR_LOGGER_READERS", 3, minimum=1, maximum=32),
        internal_secret=read_internal_secret(reader),
        region=read_region(reader),
        backup_dir=_backup_dir(reader),
        webhook_recipients=reader.flag("KURIR_WEBHOOK_RECIPIENTS", default=False),
        database_url=read_database_url(reader),
    )
    reader.finish()
    return settings


def read_database_url(reader: EnvReader) -> str:
    """Return the URL of PostgreSQL with the password that may be set separately, "" for the SQLite file."""
    url, password = reader.text("KURIR_DATABASE_URL", ""), reader.text("KURIR_DATABASE_PASSWORD", "")
    if not url:
        return ""
    try:
        parts = split_url(url, _SCHEMES, _FORM)
    except ValueError as error:
        reader.problem(f"KURIR_DATABASE_URL: {error}")
        return url
    if not parts.path.strip("/"):
        reader.problem(f"KURIR_DATABASE_URL: it must be {_FORM}")
    if find_spec("asyncpg") is None:
        reader.problem("KURIR_DATABASE_URL needs the extra `postgres`: pip install 'kurir[postgres]'")
    for name, path in parse_qsl(parts.query):
        if name in _FILES and not is_file(path):
            what = "which does not exist or cannot be read"
            reader.problem(f"KURIR_DATABASE_URL: {name} names the file {path}, {what}")
    if password and parts.password is None:
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}").geturl()
    # as it is: put together again, a URL without a host would lose its slashes
    return url


def _backup_dir(reader: EnvReader) -> Path | None:
    text = reader.text("KURIR_BACKUP_DIR", "")
    try:
        if text and not Path(text).is_dir():
            reader.problem(f"KURIR_BACKUP_DIR: {text} is not a folder")
    except OSError as error:
        reader.problem(f"KURIR_BACKUP_DIR: {text[:200]}: {error.strerror}")
        return None
    return Path(text).resolve() if text else None
