"""The plan of a system: derives its processes from the options and the environment. Pure functions.

All ports are derived from one: ingest N, email senders N+10 …, WhatsApp senders N+20 …, logger N+30, receipts N+40,
its listener for bounce mail N+41, webhook senders N+50 …, the embedded server N+79, the sandbox N+90 and N+91.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.cli.data_secrets import HOOKS, INTERNAL, LINKS, REDIS_PASSWORD, SERVER_CONFIG
from services.cli.embedded import MEMORY, ServerBinary, server_command
from services.cli.supervisor import ChildSpec
from shared.channels import CHANNELS, SANDBOX_HOST, WEBHOOK, Channel
from shared.errors import SettingsError
from shared.settings import INTERNAL_SECRET, EnvReader, read_log_dir, read_redis_url

LOGGER_OFFSET = 30
RECEIPTS_OFFSET = 40
BOUNCE_SMTP_OFFSET = 41
SERVER_OFFSET = 79
SANDBOX_OFFSET = 90
SANDBOX_SMTP_OFFSET = 91
MOST_SENDERS = 10
_LOOPBACK = "127.0.0.1"
_STAGE_SENDING, _STAGE_RECORDING, _STAGE_DATA = 0, 1, 2

# the services get a complete URL: a password for another server must not reach the embedded one
_MADE_INTO_THE_REDIS_URL = (
    *("KURIR_REDIS_URL_FILE", "KURIR_REDIS_PASSWORD", "KURIR_REDIS_PASSWORD_FILE"),
    *("KURIR_REDIS_CA_FILE", "KURIR_REDIS_CA_FILE_FILE"),
)


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `kurir up`; `sandbox` None means every provider that is not configured."""

    port: int = 3000
    data_dir: Path = Path("data")
    redis_url: str | None = None
    sandbox: bool | None = None
    senders: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes of a system in the order of their start, and their folders; `log_dir` None means no log files."""

    options: UpOptions
    data_dir: Path
    log_dir: Path | None
    grace_s: float
    host: str
    server: ChildSpec | None
    services: list[ChildSpec]
    ports: dict[int, str]
    sandboxed: list[str]
    unconfigured: list[str]

    @property
    def url(self) -> str:
        """The API's URL on this machine."""
        return f"http://{_LOOPBACK}:{self.options.port}"

    @property
    def redis_url(self) -> str:
        """The URL of the queue's Redis."""
        return self.options.redis_url or f"redis://{_LOOPBACK}:{self.options.port + SERVER_OFFSET}/0"

    @property
    def server_log(self) -> Path:
        """The embedded server's own log, which says why it did not start."""
        return server_log(self.data_dir, self.log_dir)

    @property
    def server_port(self) -> int:
        """The embedded server's port."""
        return self.options.port + SERVER_OFFSET

    @property
    def health_urls(self) -> dict[str, str]:
        """The URLs of the services' health checks, by name."""
        service_ports = {name: port for port, name in self.ports.items() if " " not in name and name != "redis"}
        return {name: f"http://{_LOOPBACK}:{port}/health" for name, port in service_ports.items()}


def with_redis(options: UpOptions, env: Mapping[str, str]) -> UpOptions:
    """Return the options with the external server's complete URL, if any; raises SettingsError."""
    given = {"KURIR_REDIS_URL": options.redis_url, "KURIR_REDIS_URL_FILE": ""} if options.redis_url else {}
    found = {**env, **given}
    if not found.get("KURIR_REDIS_URL") and not found.get("KURIR_REDIS_URL_FILE"):
        return options
    reader = EnvReader(found)
    url = read_redis_url(reader)
    reader.finish()
    return replace(options, redis_url=url)


def make_plan(options: UpOptions, env: Mapping[str, str], server: ServerBinary | None) -> Plan:
    """Plan the processes; `server` is the embedded one, None with a `redis_url`. Raises SettingsError."""
    data_dir = options.data_dir.resolve()
    reader = EnvReader(env)
    grace_s = reader.seconds("KURIR_GRACE", 8.0)
    log_dir = read_log_dir(reader, data_dir)
    log_dir = log_dir.resolve() if log_dir is not None else None
    host = reader.text("KURIR_HOST", _LOOPBACK)
    reader.finish()
    sandboxed, unconfigured = _choose_providers(options.sandbox, env)
    ports = _ports(options, sandboxed, unconfigured)
    shared_env = _shared_env(options, env, data_dir, log_dir) | _provider_env(options.port, sandboxed, env)
    if _listens_for_bounces({**env, **shared_env}):
        ports[options.port + BOUNCE_SMTP_OFFSET] = "receipts SMTP"
    server_spec = _server_spec(options, server, data_dir, log_dir, env) if server else None
    return Plan(
        options=options,
        data_dir=data_dir,
        log_dir=log_dir,
        grace_s=grace_s,
        host=host,
        server=server_spec,
        services=_services(ports, {**env, **shared_env}, host),
        ports=ports | ({options.port + SERVER_OFFSET: "redis"} if server else {}),
        sandboxed=sandboxed,
        unconfigured=unconfigured,
    )


def _choose_providers(sandbox: bool | None, env: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the channels that the sandbox serves, and those without a provider."""
    missing = [channel.name for channel in CHANNELS.values() if not channel.is_configured(env)]
    served = [channel.name for channel in CHANNELS.values() if channel.sandboxed]
    if sandbox:
        return served, [name for name in missing if name not in served]
    if sandbox is None:
        return [name for name in missing if name in served], [name for name in missing if name not in served]
    if len(missing) == len(CHANNELS):
        wanted = " or ".join(channel.provider_variables[0] for channel in CHANNELS.values())
        raise SettingsError([f"--no-sandbox needs a configured provider: set {wanted}"])
    return [], missing


def _ports(options: UpOptions, sandboxed: list[str], unconfigured: list[str]) -> dict[int, str]:
    ports = {
        options.port: "ingest",
        options.port + LOGGER_OFFSET: "logger",
        options.port + RECEIPTS_OFFSET: "receipts",
    }
    for channel in (*CHANNELS.values(), WEBHOOK):
        if channel.name in unconfigured:
            continue
        for number in range(_sender_count(options, channel)):
            name = channel.service if number == 0 else f"{channel.service}-{number + 1}"
            ports[options.port + channel.port_offset + number] = name
    if sandboxed:
        ports[options.port + SANDBOX_OFFSET] = "sandbox"
        ports[options.port + SANDBOX_SMTP_OFFSET] = "sandbox SMTP"
    return ports


def _listens_for_bounces(env: Mapping[str, str]) -> bool:
    """Return whether bounces come in by SMTP on a port of the plan; one from the settings takes precedence."""
    port = env.get("KURIR_BOUNCE_SMTP_PORT", "").strip() or env.get("KURIR_BOUNCE_SMTP_PORT_FILE", "").strip()
    return bool(env.get("KURIR_BOUNCE_DOMAIN", "").strip()) and not port


def _sender_count(options: UpOptions, channel: Channel) -> int:
    count = options.senders.get(channel.name, 1)
    if not 1 <= count <= MOST_SENDERS:
        raise SettingsError([f"{channel.name} senders: {count} must be from 1 to {MOST_SENDERS}"])
    return count


def _shared_env(options: UpOptions, env: Mapping[str, str], data_dir: Path, log_dir: Path | None) -> dict[str, str]:
    found = {
        "KURIR_REDIS_URL": options.redis_url or f"redis://{_LOOPBACK}:{options.port + SERVER_OFFSET}/0",
        **dict.fromkeys(_MADE_INTO_THE_REDIS_URL, ""),
        "KURIR_DATA_DIR": str(data_dir),
        "KURIR_LOG_DIR": str(log_dir or "off"),
        "KURIR_LOGGER_URL": f"http://{_LOOPBACK}:{options.port + LOGGER_OFFSET}",
        "KURIR_PUBLIC_URL": env.get("KURIR_PUBLIC_URL") or f"http://{_LOOPBACK}:{options.port}",
    }
    for channel in CHANNELS.values():
        port = options.port + channel.port_offset
        found[f"KURIR_{channel.service.upper()}_URL"] = f"http://{_LOOPBACK}:{port}"
    if options.redis_url is None:
        found["KURIR_REDIS_PASSWORD_FILE"] = str(data_dir / REDIS_PASSWORD)
    for name, file in (("KURIR_SECRET", LINKS), (INTERNAL_SECRET, INTERNAL), ("KURIR_HOOK_TOKEN", HOOKS)):
        if not env.get(name) and not env.get(f"{name}_FILE"):
            found[f"{name}_FILE"] = str(data_dir / file)
    if not env.get("KURIR_TEMPLATES_DIR"):
        found["KURIR_TEMPLATES_DIR"] = str(find_shipped("templates"))
    return found


def _provider_env(port: int, sandboxed: list[str], env: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that make the sandbox a channel's provider, which also reports the outcome of messages."""
    found = {"KURIR_SANDBOXED": ",".join(sandboxed)}
    if "email" in sandboxed:
        found |= {"KURIR_SMTP_URL": f"smtp://{_LOOPBACK}:{port + SANDBOX_SMTP_OFFSET}", "KURIR_SMTP_SERVERS": ""}
        found["KURIR_EMAIL_FROM"] = env.get("KURIR_EMAIL_FROM") or "Kurir <kurir@example.com>"
        # a real mailbox is left to the system that sends real mail
        found |= {
            "KURIR_BOUNCE_DOMAIN": f"bounces.{SANDBOX_HOST}",
            **dict.fromkeys(("KURIR_BOUNCE_SMTP_PORT", "KURIR_BOUNCE_IMAP_URL"), ""),
            "KURIR_SANDBOX_BOUNCES_URL": f"smtp://{_LOOPBACK}:{port + BOUNCE_SMTP_OFFSET}",
        }
    if "whatsapp" in sandboxed:
        found |= _whatsapp_env(f"http://{_LOOPBACK}:{port + SANDBOX_OFFSET}", env)
        found["KURIR_SANDBOX_HOOKS_URL"] = f"http://{_LOOPBACK}:{port}"
    # a sandboxed provider's real secrets must not reach the sandbox or clash with the values above
    return found | {f"{name}_FILE": "" for name in found}


def _whatsapp_env(url: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of both providers, of which the chosen one is the sandbox and the other is not set."""
    meta = env.get("KURIR_WHATSAPP_PROVIDER", "").strip().lower() == "meta"
    return {
        "KURIR_WHATSAPP_PROVIDER": "meta" if meta else "qiscus",
        "KURIR_QISCUS_URL": "" if meta else url,
        "KURIR_QISCUS_APP_CODE": "" if meta else "sandbox",
        "KURIR_QISCUS_CHANNEL_ID": "" if meta else "1",
        "KURIR_QISCUS_SECRET_KEY": "" if meta else "sandbox",
        "KURIR_QISCUS_HOOK_SECRET": "" if meta else "sandbox",
        "KURIR_META_URL": f"{url}/v23.0" if meta else "",
        "KURIR_META_PHONE_NUMBER_ID": "1" if meta else "",
        "KURIR_META_ACCESS_TOKEN": "sandbox" if meta else "",
        "KURIR_META_APP_SECRET": "sandbox" if meta else "",
    }


def _services(ports: Mapping[int, str], env: Mapping[str, str], host: str) -> list[ChildSpec]:
    """Return the services in the order of their start: those that others call first."""
    order = {"sandbox": 0, "logger": 1, "ingest": 3}
    specs = []
    for port, name in sorted(ports.items(), key=lambda item: (order.get(item[1], 2), item[0])):
        if " " in name:  # a second port of a service, not a service
            continue
        package = name.partition("-")[0]
        own = {"KURIR_PORT": str(port), "KURIR_HOST": host if package == "ingest" else _LOOPBACK}
        if package == "sandbox":
            own["KURIR_SMTP_PORT"] = str(port + SANDBOX_SMTP_OFFSET - SANDBOX_OFFSET)
        if package == "receipts" and port + BOUNCE_SMTP_OFFSET - RECEIPTS_OFFSET in ports:
            own["KURIR_BOUNCE_SMTP_PORT"] = str(port + BOUNCE_SMTP_OFFSET - RECEIPTS_OFFSET)
        stage = _STAGE_RECORDING if package in {"logger", "sandbox"} else _STAGE_SENDING
        specs.append(ChildSpec(name, [sys.executable, "-P", "-m", f"services.{package}"], {**env, **own}, stage))
    return specs


def _server_spec(
    options: UpOptions, server: ServerBinary, data_dir: Path, log_dir: Path | None, env: Mapping[str, str]
) -> ChildSpec:
    port = options.port + SERVER_OFFSET
    log = server_log(data_dir, log_dir)
    command = server_command(server, port, data_dir / "redis", data_dir / SERVER_CONFIG, log)
    return ChildSpec("redis", command, {**MEMORY, **env}, _STAGE_DATA)


def server_log(data_dir: Path, log_dir: Path | None) -> Path:
    """Return the embedded server's log file: beside the services' logs, or in its own folder if they write none."""
    return (log_dir or data_dir / "redis") / "redis.log"


def find_shipped(name: str) -> Path:
    """Return a file or folder that ships with Kurir: from the working folder, the wheel, or the source tree."""
    here = Path(__file__).resolve().parent
    places = [Path.cwd() / name, here / "bundled" / Path(name).name, here.parents[1] / name]
    return next((place for place in places if place.exists()), places[-1])
