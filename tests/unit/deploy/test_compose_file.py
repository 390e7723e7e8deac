"""The compose file is valid by the specification's schema and keeps its promises for every service."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from services.email_sender.settings import Timeouts
from services.webhook_sender.connector import Connection as WebhookConnection
from services.whatsapp_sender.settings import Connection
from shared.settings import parse_seconds

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"ingest", "email_sender", "whatsapp_sender", "webhook_sender", "logger", "receipts", "sandbox"}
SENDERS = {"email_sender", "whatsapp_sender", "webhook_sender"}
_DEFAULTED = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")


def test_the_compose_file_is_valid() -> None:
    """The compose specification's own schema accepts it, and refuses a misspelt field."""
    schema = get_builtin_schema("vendor.compose-spec")
    jsonschema.validate(COMPOSE, schema)
    broken = json.loads(json.dumps(COMPOSE))
    broken["services"]["redis"]["restrat"] = "always"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_few_ports_are_published_and_on_loopback() -> None:
    """The API, Grafana and the port for bounce mail are; nothing listens on the network unless BIND_ADDRESS says so."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"ingest", "grafana", "receipts"}
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for ports in published.values() for port in ports)


def test_redis_and_the_logger_are_cut_off_from_outside() -> None:
    """They are only on the internal network."""
    assert COMPOSE["networks"]["backend"]["internal"] is True
    for name in ("redis", "logger", "postgres", "sandbox", "prometheus"):
        assert SERVICES[name]["networks"] == ["backend"], name


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_locked_down(name: str) -> None:
    """It is read-only, cannot gain privileges, has limited memory and processes, and is restarted when it dies."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name in {"check-secrets", "check-postgres-secret"}:
        return
    assert service["restart"] == "unless-stopped"
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert limits["pids"]
    assert "disable" not in service["healthcheck"]


def test_the_services_are_one_image() -> None:
    """They share one build and differ only in their command."""
    built = {name: (SERVICES[name]["image"], json.dumps(SERVICES[name]["build"])) for name in OURS}
    assert len(set(built.values())) == 1
    for name in OURS:
        assert SERVICES[name]["command"] == ["python", "-m", f"services.{name}"]


def test_the_start_is_gated_by_health() -> None:
    """A service waits until those it depends on are healthy, and everything waits for the secrets."""
    for name in OURS - {"sandbox"}:
        assert SERVICES[name]["depends_on"]["redis"]["condition"] == "service_healthy"
    for name in SENDERS | {"ingest"}:
        assert SERVICES[name]["depends_on"]["logger"]["condition"] == "service_healthy"
    for name in ("redis", "sandbox", "prometheus", "alertmanager", "grafana"):
        assert SERVICES[name]["depends_on"]["check-secrets"]["condition"] == "service_completed_successfully"


def test_a_sender_has_time_to_finish_messages_in_flight() -> None:
    """Its grace exceeds the sum of a send's timeouts, and compose waits longer than that."""
    smtp, whatsapp, webhook = Timeouts(), Connection(), WebhookConnection()
    # the greeting, TLS and the log-in have one timeout each; so do the answers to MAIL, RCPT and DATA
    smtp_s = 3 * smtp.connect_s + 3 * smtp.command_s + smtp.data_s
    longest_s = max(smtp_s, *(http.connect_s + http.answer_s for http in (whatsapp, webhook)))
    for name in SENDERS:
        grace_s = parse_seconds(_default(SERVICES[name]["environment"]["KURIR_GRACE"]))
        stop_s = parse_seconds(_default(SERVICES[name]["stop_grace_period"]))
        assert longest_s < grace_s < stop_s, name


def _default(text: str) -> str:
    match = _DEFAULTED.fullmatch(text)
    assert match is not None, text
    return match[2]


def test_secrets_are_files_and_have_no_default() -> None:
    """The file contains no secret, and no secret has a default."""
    text = (ROOT / "docker-compose.yml").read_text()
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    values = re.findall(r"^ +(\w*(?:PASSWORD|SECRET|API_KEY)\w*): (.*)$", text, re.MULTILINE)
    assert values
    assert all(name.endswith("_FILE") and value.startswith("/run/secrets/") for name, value in values), values
    checked = set(SERVICES["check-secrets"]["secrets"])
    assert set(COMPOSE["secrets"]) - checked == {
        "smtp_url",
        "qiscus_secret_key",
        "meta_access_token",
        "dkim_private_key",
        "postgres_password",
    }
    script = (ROOT / "deploy" / "check-secrets.sh").read_text()
    assert all(name in script for name in checked)


def test_each_secret_is_created_and_mounted_where_it_is_read(tmp_path: Path) -> None:
    """make-secrets.sh creates every mounted file once; only a provider's sender gets its credentials."""
    command = ["sh", str(ROOT / "deploy" / "make-secrets.sh"), str(tmp_path / "secrets")]
    subprocess.run(command, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert len(set(made.values())) == len(made) - 3  # the four from a provider are empty
    subprocess.run(command, check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    owners = {
        "smtp_url": "email_sender",
        **dict.fromkeys(("qiscus_secret_key", "meta_access_token"), "whatsapp_sender"),
    }
    for secret, owner in owners.items():
        assert [name for name, service in SERVICES.items() if secret in service.get("secrets", ())] == [owner]


def test_volumes_that_must_survive_have_names() -> None:
    """Redis, the databases and the metrics are on named volumes."""
    mounted = {name: [str(volume) for volume in service.get("volumes", ())] for name, service in SERVICES.items()}
    targets = {
        "redis": "/data", "logger": "/var/lib/kurir", "postgres": "/var/lib/postgresql/data",
        "prometheus": "/prometheus",
    }  # fmt: skip
    for name, target in targets.items():
        (source,) = [volume.split(":")[0] for volume in mounted[name] if volume.split(":")[1] == target]
        assert source in COMPOSE["volumes"]


def test_postgresql_starts_only_with_its_profile() -> None:
    """The logger waits for it then. Without the profile nothing is needed of it, not even the file of its password."""
    started = {name for name, service in SERVICES.items() if service.get("profiles") == ["postgres"]}
    assert started == {"postgres", "check-postgres-secret"}
    assert SERVICES["logger"]["depends_on"]["postgres"] == {"condition": "service_healthy", "required": False}
    readers = {name for name, service in SERVICES.items() if "postgres_password" in service.get("secrets", ())}
    assert readers == {"logger", *started}
    assert _default(COMPOSE["secrets"]["postgres_password"]["file"]) == "/dev/null"


def test_the_password_of_postgresql_is_checked_with_its_profile() -> None:
    """The same script checks it, by its name alone, before PostgreSQL starts."""
    command = SERVICES["check-postgres-secret"]["command"]
    assert command == [*SERVICES["check-secrets"]["command"], "postgres_password"]
    condition = {"check-postgres-secret": {"condition": "service_completed_successfully"}}
    assert SERVICES["postgres"]["depends_on"] == condition


def test_containers_write_each_line_once() -> None:
    """To stdout, which the logging driver keeps; no service has log files or a volume for them."""
    for name in OURS:
        assert SERVICES[name]["environment"]["KURIR_LOG_DIR"] == "off"
        assert SERVICES[name]["environment"]["KURIR_ENV"] == "production"
        assert not any("/var/log" in str(volume) for volume in SERVICES[name].get("volumes", ()))


def test_prometheus_scrapes_the_services() -> None:
    """Each job resolves a service of the compose file by DNS and uses that service's port."""
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    asked = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs if "dns_sd_configs" in job}
    assert set(asked) == OURS - {"sandbox"}
    for name, discovery in asked.items():
        assert discovery["names"] == [name]
        assert discovery["port"] == SERVICES[name]["environment"]["KURIR_PORT"]


def test_redis_loses_nothing() -> None:
    """Every write is on disk before its reply, and nothing is evicted."""
    lines = (ROOT / "deploy" / "redis" / "redis.conf").read_text().splitlines()
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= set(lines)
    assert "--maxmemory" in (ROOT / "deploy" / "redis" / "start.sh").read_text()
