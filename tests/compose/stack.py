"""A whole compose project, started from a copy of the repository, observed only through its API and `exec`.

`$COMPOSE` is the program that runs it, `docker compose` by default, by its name or by its path from the root.
`$COMPOSE_SKIP` lists services to skip, separated by commas, if their images are not available.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
_NOT_COPIED = (".git", ".venv", "data", "secrets", ".env", "dist", "build", "node_modules", "__pycache__", ".*_cache")
_COMMAND_TIMEOUT_S = 1200


class Stack:
    """One project with its own name, on free ports; `down` keeps its volumes, `destroy` does not."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder = folder / "kurir"
        self.port = free_port()
        self._name = f"kurir-test-{os.getpid()}"
        self._env = {**_clean_environment(), "INGEST_PORT": str(self.port), "GRAFANA_PORT": str(free_port())}
        self._own_files = ["docker-compose.yml", *overrides]
        self._files = list(self._own_files)
        self.profiles = ["sandbox"]
        shutil.copytree(ROOT, self.folder, ignore=shutil.ignore_patterns(*_NOT_COPIED))

    @property
    def services(self) -> list[str]:
        """Return the services of the project's files that the profiles start and that are available here."""
        declared: dict[str, dict[str, Any]] = {}
        for file in self._own_files:
            for name, one in yaml.safe_load((self.folder / file).read_text())["services"].items():
                declared[name] = {**declared.get(name, {}), **one}
        wanted = [name for name, one in declared.items() if {*one.get("profiles", self.profiles)} & {*self.profiles}]
        return [name for name in wanted if is_available(name)]

    def set(self, name: str, value: str) -> None:
        """Set a variable for all services, as a user does in `.env`; call it before `up`."""
        with (self.folder / "deploy" / "sandbox.env").open("a") as settings:
            settings.write(f"{name}={value}\n")

    def add_service(self, name: str, service: Mapping[str, Any]) -> None:
        """Add a service of the user's own to the project and start it, in a file beside the compose file."""
        self._files.append(f"{name}.yml")
        (self.folder / self._files[-1]).write_text(yaml.safe_dump({"services": {name: dict(service)}}))
        self.compose("up", "-d", name)

    def make_secrets(self) -> None:
        """Create the secrets as a user does."""
        subprocess.run(["sh", "deploy/make-secrets.sh"], cwd=self.folder, check=True, capture_output=True)

    def compose(self, *words: str, check: bool = True) -> str:
        """Run a compose command with the sandbox's settings and return its output."""
        program, *arguments = shlex.split(os.environ.get("COMPOSE", "docker compose"))
        # the project is started from a copy in another folder
        program = str(ROOT / program) if "/" in program else program
        options = ["-p", self._name, "--env-file", "deploy/sandbox.env"]
        options += [word for profile in self.profiles for word in ("--profile", profile)]
        options += [word for file in self._files for word in ("-f", file)]
        ran = subprocess.run(
            [program, *arguments, *options, *words],
            cwd=self.folder, env=self._env, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_COMMAND_TIMEOUT_S,
        )  # fmt: skip
        if check and ran.returncode != 0:
            logs = self.compose("logs", "--tail", "10", check=False)[-8000:] if words[0] == "up" else ""
            pytest.fail(f"compose {shlex.join(words)} exited with {ran.returncode}:\n{ran.stdout[-4000:]}\n{logs}")
        return ran.stdout

    def up(self, *, email_senders: int, build: bool = False, recreate: bool = False) -> None:
        """Start everything and wait until it is healthy and the API answers.

        `recreate` replaces all containers: some compose programs do not notice a change in a file of variables.
        """
        options = ["--build"] * build + ["--force-recreate"] * recreate
        self.compose("up", "-d", *options, "--scale", f"email_sender={email_senders}", *self.services)
        self.wait(self.is_healthy, 120, "the API to be healthy")

    def down(self) -> None:
        """Stop and remove the containers, but keep the volumes."""
        self.compose("down")

    def destroy(self) -> None:
        """Remove everything, including the volumes."""
        self.compose("down", "-v", check=False)

    def execute(self, service: str, *words: str, index: int = 1, check: bool = True) -> str:
        """Run a command in a container of a service and return its output."""
        return self.compose("exec", "-T", "--index", str(index), service, *words, check=check)

    def is_healthy(self) -> bool:
        """Return whether the published API answers 200 to its health check."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call the API with the key from make-secrets.sh; repeat the call after a 503, as clients do."""
        key = (self.folder / "secrets" / "api_keys").read_text().split(":")[1]
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        request.add_header("Authorization", f"Bearer {key}")
        request.add_header("Content-Type", "application/json")
        request.add_header("Idempotency-Key", secrets.token_hex(16))
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as refused:
                if refused.code != 503 or time.monotonic() > deadline:
                    refused.add_note(refused.read().decode(errors="replace"))
                    raise
                time.sleep(1)

    def query(self, expression: str) -> dict[str, float]:
        """Query Prometheus, which is not published, and return the values by instance."""
        url = f"http://127.0.0.1:9090/api/v1/query?query={urllib.parse.quote(expression)}"
        result = json.loads(self.execute("prometheus", "wget", "-q", "-O", "-", url))["data"]["result"]
        return {row["metric"].get("instance", ""): float(row["value"][1]) for row in result}

    def delivered(self) -> list[dict[str, Any]]:
        """Return the messages that the sandbox has accepted, in order."""
        text = self.execute("sandbox", "cat", "/var/lib/kurir/sandbox/delivered.ndjson")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait(self, predicate: Any, timeout_s: float, what: str) -> Any:
        """Poll until the predicate is true and return its value; on timeout fail with the ends of the logs."""
        deadline = time.monotonic() + timeout_s
        while not (value := predicate()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s} s: {what}\n{self.compose('logs', check=False)[-6000:]}")
            time.sleep(0.5)
        return value


def is_available(service: str) -> bool:
    """Return whether a service is not one that `$COMPOSE_SKIP` lists."""
    return service not in os.environ.get("COMPOSE_SKIP", "").split(",")


def _clean_environment() -> dict[str, str]:
    """Return the environment without the settings of the user who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("KURIR_", "COMPOSE_"))}
