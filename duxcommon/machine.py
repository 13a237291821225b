"""What programs of an app meet on this machine: its architecture and the Python of the sandbox."""

import os
import platform
import re
from dataclasses import dataclass

SANDBOX_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Machine:
    """`arch` as in `uname -m`; `python` is a minor version such as `3.13`, empty where Debian has none."""

    arch: str
    python: str


def this_machine() -> Machine:
    """The machine that this process runs on."""
    return Machine(platform.machine(), sandbox_python())


def sandbox_python() -> str:
    """Minor version of /usr/bin/python3, which Debian keeps as a link to python3.N; empty where it is missing."""
    match = re.search(r"python(3\.\d+)$", os.path.realpath(SANDBOX_PYTHON))
    return match[1] if match else ""
