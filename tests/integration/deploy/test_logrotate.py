"""deploy/logrotate.conf with the real program: it rotates the services' logs, and they continue in the new file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.log_sinks import LogFile

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / "tests" / ".cache" / "logrotate"


def _program() -> tuple[str, dict[str, str]]:
    """Return logrotate from PATH, else from Debian's packages, and its environment; fail in CI without it."""
    installed = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin:/sbin")
    if installed:
        return installed, {}
    binary = CACHE / "usr" / "sbin" / "logrotate"
    try:
        if not binary.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            fetch = ["apt-get", "download", "logrotate", "libpopt0"]
            subprocess.run(fetch, cwd=CACHE, check=True, capture_output=True, timeout=60)
            for package in CACHE.glob("*.deb"):
                subprocess.run(["dpkg", "-x", str(package), str(CACHE)], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"no logrotate on PATH, and it cannot be unpacked: {error}")
        pytest.skip(f"no logrotate: {error}")
    (library,) = {str(path.parent) for path in CACHE.glob("usr/lib/**/libpopt.so.0")} or {""}
    return str(binary), {"LD_LIBRARY_PATH": library}


def test_services_follow_a_rotation(tmp_path: Path) -> None:
    """Lines from before the rotation are in the rotated file, later lines in the new one, and none is lost."""
    program, environment = _program()
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    log = LogFile(folder / "combined.log")
    log.add([b"before\n"])
    log.flush()
    text = (ROOT / "deploy" / "logrotate.conf").read_text()
    text = re.sub(r"(?m)^/.*\*\.log\n", "", text)
    text = text.replace("10001 10001", f"{os.geteuid()} {os.getegid()}")
    (tmp_path / "conf").write_text(f"{folder}/*.log\n{text[text.index('{') :]}")
    (tmp_path / "conf").chmod(0o644)
    command = [program, "--force", "--verbose", "--state", str(tmp_path / "state"), str(tmp_path / "conf")]
    ran = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "error" not in ran.stdout.lower(), ran.stdout
    log.add([b"after\n"])
    log.close()
    rotated = sorted(path.name for path in folder.iterdir())
    assert rotated == ["combined.log", "combined.log.1"], ran.stdout
    assert (folder / "combined.log.1").read_text() == "before\n"
    assert (folder / "combined.log").read_text() == "after\n"
