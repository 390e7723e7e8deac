"""The plan of a system: which processes run with which environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.embedded import MEMORY, ServerBinary
from services.cli.plan import Plan, UpOptions, find_shipped, make_plan, with_redis
from services.cli.supervisor import ChildSpec
from shared.errors import SettingsError

_SERVER = ServerBinary(Path("/bin/valkey-server"), "valkey", (9, 1, 2))


def _service(plan: Plan, name: str) -> ChildSpec:
    return next(spec for spec in plan.services if spec.name == name)


def test_all_ports_follow_from_one() -> None:
    """With --port 4000 and two email and webhook senders, several systems can run side by side."""
    plan = make_plan(UpOptions(port=4000, senders={"email": 2, "webhook": 2}), {}, _SERVER)
    assert plan.ports == {
        4000: "ingest",
        4010: "email_sender",
        4011: "email_sender-2",
        4020: "whatsapp_sender",
        4030: "logger",
        4040: "receipts",
        4041: "receipts SMTP",
        4050: "webhook_sender",
        4051: "webhook_sender-2",
        4079: "redis",
        4090: "sandbox",
        4091: "sandbox SMTP",
    }
    assert _service(plan, "email_sender-2").env["KURIR_PORT"] == "4011"
    assert _service(plan, "logger").env["KURIR_REDIS_URL"] == "redis://127.0.0.1:4079/0"
    assert plan.health_urls["sandbox"] == "http://127.0.0.1:4090/health"
    assert "redis" not in plan.health_urls


def test_providers_that_are_not_configured_are_sandboxed() -> None:
    """SMTP is configured and Qiscus is not: only WhatsApp goes to the sandbox."""
    plan = make_plan(UpOptions(), {"KURIR_SMTP_URL": "smtp://mail.example.com"}, _SERVER)
    assert plan.sandboxed == ["whatsapp"]
    assert _service(plan, "email_sender").env["KURIR_SMTP_URL"] == "smtp://mail.example.com"
    assert _service(plan, "whatsapp_sender").env["KURIR_QISCUS_URL"] == "http://127.0.0.1:3090"


def test_a_secret_in_a_file_configures_a_provider() -> None:
    """KURIR_SMTP_URL_FILE has the same effect as KURIR_SMTP_URL."""
    assert make_plan(UpOptions(), {"KURIR_SMTP_URL_FILE": "/run/secrets/smtp"}, _SERVER).sandboxed == ["whatsapp"]


def test_sandbox_overrides_configured_providers() -> None:
    """--sandbox sends nothing to a real provider, whatever the environment says."""
    plan = make_plan(UpOptions(sandbox=True), {"KURIR_SMTP_URL_FILE": "/run/secrets/smtp"}, _SERVER)
    sender = _service(plan, "email_sender").env
    assert sender["KURIR_SMTP_URL"] == "smtp://127.0.0.1:3091"
    assert sender["KURIR_SMTP_URL_FILE"] == ""


def test_the_sandbox_plays_the_provider_that_is_chosen() -> None:
    """As Meta it has a version in its URL; real credentials of either provider reach no service."""
    env = {"KURIR_WHATSAPP_PROVIDER": "meta", "KURIR_META_ACCESS_TOKEN": "real", "KURIR_QISCUS_SECRET_KEY": "real"}
    plan = make_plan(UpOptions(sandbox=True), env, _SERVER)
    for name in ("whatsapp_sender", "ingest", "sandbox"):
        found = _service(plan, name).env
        assert found["KURIR_META_URL"] == "http://127.0.0.1:3090/v23.0"
        assert (found["KURIR_META_ACCESS_TOKEN"], found["KURIR_QISCUS_SECRET_KEY"]) == ("sandbox", "")
    assert make_plan(UpOptions(), env, _SERVER).sandboxed == ["email"]


def test_the_sandbox_reports_to_this_system() -> None:
    """It knows the API's hooks with the token of the data folder, and the listener for bounces. All secrets agree."""
    plan = make_plan(
        UpOptions(port=4000), {"KURIR_BOUNCE_IMAP_URL": "imaps://real", "KURIR_QISCUS_HOOK_SECRET": "x"}, _SERVER
    )
    sandbox, ingest, receipts = (_service(plan, name).env for name in ("sandbox", "ingest", "receipts"))
    assert sandbox["KURIR_SANDBOX_HOOKS_URL"] == "http://127.0.0.1:4000"
    assert sandbox["KURIR_HOOK_TOKEN_FILE"] == ingest["KURIR_HOOK_TOKEN_FILE"] == str(plan.data_dir / "hook_token")
    assert sandbox["KURIR_QISCUS_HOOK_SECRET"] == ingest["KURIR_QISCUS_HOOK_SECRET"] == "sandbox"
    assert sandbox["KURIR_SANDBOX_BOUNCES_URL"] == "smtp://127.0.0.1:4041"
    assert _service(plan, "email_sender").env["KURIR_BOUNCE_DOMAIN"] == "bounces.sandbox.kurir"
    assert (receipts["KURIR_BOUNCE_SMTP_PORT"], receipts["KURIR_BOUNCE_IMAP_URL"]) == ("4041", "")
    assert plan.ports[4041] == "receipts SMTP"


def test_a_real_provider_keeps_its_bounces_and_hooks() -> None:
    """Where nothing is sandboxed, the sandbox reports nothing and no setting is changed; a token is still there."""
    env = {"KURIR_SMTP_URL": "smtp://mail.example.com", "KURIR_BOUNCE_DOMAIN": "bounces.example.com"}
    found = _service(make_plan(UpOptions(sandbox=False), env, _SERVER), "ingest").env
    assert found["KURIR_BOUNCE_DOMAIN"] == "bounces.example.com"
    assert not {"KURIR_SANDBOX_HOOKS_URL", "KURIR_SANDBOX_BOUNCES_URL"} & found.keys()
    assert found["KURIR_HOOK_TOKEN_FILE"]
    given = make_plan(UpOptions(), {"KURIR_HOOK_TOKEN": "o" * 32}, _SERVER)
    assert "KURIR_HOOK_TOKEN_FILE" not in _service(given, "ingest").env


def test_services_know_which_channels_are_sandboxed() -> None:
    """Sandboxed marketing mail needs no public link; a real provider is never treated as sandboxed."""
    for sandbox, env, expected in (
        (None, {}, "email,whatsapp"),
        (None, {"KURIR_SMTP_URL": "smtp://mail.example.com", "KURIR_SANDBOXED": "email"}, "whatsapp"),
        (False, {"KURIR_SMTP_URL": "smtp://mail.example.com", "KURIR_SANDBOXED_FILE": "/x"}, ""),
    ):
        for name in ("ingest", "email_sender"):
            found = _service(make_plan(UpOptions(sandbox=sandbox), env, _SERVER), name).env
            assert (found["KURIR_SANDBOXED"], found["KURIR_SANDBOXED_FILE"]) == (expected, "")


@pytest.mark.parametrize("given", ["", "25"])
def test_bounce_domain_opens_the_listener_beside_receipts(given: str) -> None:
    """With a bounce domain the receipts service listens for bounce mail on N+41, unless the settings name a port."""
    real = {"KURIR_SMTP_URL": "smtp://mail.example.com"}
    env = {**real, "KURIR_BOUNCE_DOMAIN": "bounces.example.com", "KURIR_BOUNCE_SMTP_PORT": given}
    plan = make_plan(UpOptions(port=4000), env, _SERVER)
    assert _service(plan, "receipts").env["KURIR_BOUNCE_SMTP_PORT"] == (given or "4041")
    assert plan.ports.get(4041) == (None if given else "receipts SMTP")
    assert 4041 not in make_plan(UpOptions(port=4000), real, _SERVER).ports


def test_no_sandbox_runs_only_what_is_configured() -> None:
    """A channel without a provider has no sender, and the user is informed."""
    plan = make_plan(UpOptions(sandbox=False), {"KURIR_SMTP_URL": "smtp://mail.example.com"}, _SERVER)
    assert [spec.name for spec in plan.services] == ["logger", "email_sender", "receipts", "webhook_sender", "ingest"]
    assert plan.unconfigured == ["whatsapp"]


def test_no_sandbox_without_any_provider_is_refused() -> None:
    """A system that cannot send anything is a mistake."""
    with pytest.raises(SettingsError, match="set KURIR_SMTP_URL or KURIR_QISCUS_APP_CODE"):
        make_plan(UpOptions(sandbox=False), {}, _SERVER)


def test_only_the_api_listens_on_the_given_host() -> None:
    """KURIR_HOST exposes the API; senders, logger and sandbox stay on loopback."""
    plan = make_plan(UpOptions(), {"KURIR_HOST": "0.0.0.0"}, _SERVER)
    hosts = {spec.name: spec.env["KURIR_HOST"] for spec in plan.services}
    assert hosts.pop("ingest") == "0.0.0.0"
    assert set(hosts.values()) == {"127.0.0.1"}


def test_everything_else_passes_through() -> None:
    """A service's own settings reach it."""
    plan = make_plan(UpOptions(), {"KURIR_EMAIL_RATE": "off", "PATH": "/bin"}, _SERVER)
    sender = _service(plan, "email_sender").env
    assert (sender["KURIR_EMAIL_RATE"], sender["PATH"]) == ("off", "/bin")


def test_services_without_log_files() -> None:
    """`KURIR_LOG_DIR=off` reaches every service; the embedded server, which needs a file, logs beside its data."""
    plan = make_plan(UpOptions(), {"KURIR_LOG_DIR": "off"}, _SERVER)
    assert {spec.env["KURIR_LOG_DIR"] for spec in plan.services} == {"off"}
    assert plan.server_log == plan.data_dir / "redis" / "redis.log"
    assert plan.server is not None
    assert str(plan.server_log) in " ".join(map(str, plan.server.command))


def test_an_external_redis_replaces_the_embedded_one() -> None:
    """With --redis-url, no server is started."""
    plan = make_plan(UpOptions(redis_url="redis://cache:6379/1"), {}, None)
    assert plan.server is None
    assert _service(plan, "ingest").env["KURIR_REDIS_URL"] == "redis://cache:6379/1"


def test_the_server_keeps_free_memory_for_what_comes_next() -> None:
    """With the allocator's own defaults one deletion could hold it up for 29 ms; what the user sets is kept."""
    for own in ({}, {"MALLOC_MMAP_THRESHOLD_": "1"}):
        plan = make_plan(UpOptions(), own, _SERVER)
        assert plan.server is not None
        assert {name: plan.server.env[name] for name in MEMORY} == {**MEMORY, **own}


def test_the_servers_stop_after_the_senders() -> None:
    """Senders, receipts and API stop first, then logger and sandbox, the server last."""
    plan = make_plan(UpOptions(), {}, _SERVER)
    assert plan.server is not None
    stages = {spec.name: spec.stage for spec in [*plan.services, plan.server]}
    assert stages["email_sender"] < stages["logger"] < stages["redis"]
    assert stages["ingest"] == stages["email_sender"] == stages["receipts"]


def test_templates_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped folder is used from anywhere; one in the working folder comes first."""
    monkeypatch.chdir(tmp_path)
    assert find_shipped("templates").is_dir()
    (tmp_path / "templates").mkdir()
    assert find_shipped("templates") == tmp_path / "templates"


def test_a_wrong_number_of_senders_is_refused() -> None:
    """The ports of one channel must not overlap the next channel's."""
    with pytest.raises(SettingsError, match="email senders: 11 must be from 1 to 10"):
        make_plan(UpOptions(senders={"email": 11}), {}, _SERVER)


def test_an_external_server_is_completed_once(tmp_path: Path) -> None:
    """The URL and its password may come from files; services get the complete URL and none of its parts."""
    for name, text in (("url", "redis://kurir@queue:6379/1\n"), ("password", "s3cret\n")):
        (tmp_path / name).write_text(text)
    env = {"KURIR_REDIS_URL_FILE": str(tmp_path / "url"), "KURIR_REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    options = with_redis(UpOptions(), env)
    assert options.redis_url == "redis://kurir:s3cret@queue:6379/1"
    logger = _service(make_plan(options, env, None), "logger").env
    assert logger["KURIR_REDIS_URL"] == options.redis_url
    assert logger["KURIR_REDIS_URL_FILE"] == logger["KURIR_REDIS_PASSWORD_FILE"] == ""
    assert with_redis(UpOptions(redis_url="redis://other/0"), env).redis_url == "redis://:s3cret@other/0"


def test_a_password_alone_leaves_the_embedded_server_alone() -> None:
    """It belongs to another server: the embedded one has its own password, and would refuse it."""
    env = {"KURIR_REDIS_PASSWORD": "s3cret"}
    options = with_redis(UpOptions(), env)
    assert options.redis_url is None
    assert _service(make_plan(options, env, _SERVER), "logger").env["KURIR_REDIS_PASSWORD"] == ""
