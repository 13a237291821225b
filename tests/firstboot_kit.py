"""A machine's files below a folder, as the packages leave them, and first boot on them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dux_setup.paths import DAEMONS, Paths

ROOT = Path(__file__).resolve().parent.parent
PASSWD = """root:x:0:0:root:/root:/bin/bash
service:x:1000:1000::/:/usr/sbin/nologin
ann:x:1001:1001::/home/ann:/bin/bash
bob:x:1002:1002::/home/bob:/bin/bash
"""
GROUPS = "root:x:0:\nann:x:1001:\nbob:x:1002:\nduxnet:x:900:\ndux-spend:x:901:\n"


def needs_credentials() -> None:
    """Skip a test where systemd has no tool for credentials."""
    if shutil.which("systemd-creds") is None:
        pytest.skip("not run: needs systemd-creds (Debian package systemd)")
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")


def lay_out(root: Path) -> Paths:
    """Folders, configuration and users as on a machine whose packages were just installed."""
    paths = Paths(root)
    for daemon in (*DAEMONS, "devchain"):
        paths.state(daemon).mkdir(parents=True, mode=0o700)
        (root / "var/log/duxnet" / daemon).mkdir(parents=True)
    for folder in (paths.etc, paths.run, paths.setup, paths.credential.parent, paths.host_key.parent, root / "blobs"):
        folder.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "etc-duxnet").glob("*.yaml"):
        text = re.sub(r'"(/(?:etc|var)/)', rf'"{root}\1', source.read_text())
        (paths.etc / source.name).write_text(text)
    for daemon in DAEMONS:
        # Not by the conffiles' own commented lines: those are the machine's, and stay as they are.
        own = {"run_dir": str(paths.run), "network": str(paths.network)}
        if daemon in ("registryd", "taskd", "sandbox"):
            own["blobs_dir"] = str(root / "blobs")
        (paths.etc / f"{daemon}.d").mkdir()
        (paths.etc / f"{daemon}.d" / "50-test.yaml").write_text(yaml.safe_dump(own))
    for name, text in (("passwd", PASSWD), ("group", GROUPS), ("shadow", ""), ("gshadow", "")):
        (root / "etc" / name).write_text(text)
    return paths


def first_boot(paths: Paths, *, failpoint: str = "", before: str = "") -> subprocess.CompletedProcess[str]:
    """Run it as its unit does. `before` are shell commands, run in a mount namespace that only this run sees."""
    command = [sys.executable, "-I", "-m", "dux_setup.firstboot", "--root", str(paths.root)]
    if before:
        command = ["unshare", "--mount", "sh", "-ec", f'{before}\nexec "$@"', "sh", *command]
    env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "DUXNET_FAILPOINT": failpoint}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/", env=env)


def everything(paths: Paths) -> dict[str, tuple[int, bytes]]:
    """All files with mode and content."""
    found = (path for path in paths.root.rglob("*") if path.is_file())
    return {str(path.relative_to(paths.root)): (path.stat().st_mode, path.read_bytes()) for path in found}
