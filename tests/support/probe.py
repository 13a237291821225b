"""The probe daemon (probe_daemon.py) as a process."""

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .process import DaemonProcess

SCRIPT = Path(__file__).with_name("probe_daemon.py")


def probe(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    listener: socket.socket | None = None,
) -> DaemonProcess:
    """A probe daemon in `folder`; not started yet."""
    return DaemonProcess(folder, "probe", settings, command=[sys.executable, str(SCRIPT)], env=env, listener=listener)
