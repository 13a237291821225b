"""The wallet's passphrase as a credential of systemd: encrypted for this machine, given to dux-flopd at its start."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import CredentialRefused, CredentialsMissing

NAME = "wallet"
"""What the credential is called, inside too: systemd refuses it under another name."""
WALLET = Path("/etc/credstore.encrypted/dux-flopd.wallet")
TOOL = "systemd-creds"
TIMEOUT_S = 60


def systemd_creds(
    arguments: Sequence[str], data: bytes = b"", *, host_key: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run systemd-creds with `data` on its standard input. Raises CredentialsMissing where it is not installed.

    `host_key` is the file with the machine's key, where it is not systemd's own.
    """
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    if host_key is not None:
        env["SYSTEMD_CREDENTIAL_SECRET"] = str(host_key)
    try:
        return subprocess.run(
            [TOOL, *arguments], input=data, capture_output=True, timeout=TIMEOUT_S, check=False, env=env
        )
    except FileNotFoundError:
        raise CredentialsMissing(f"{TOOL} is not installed, so the wallet's passphrase can't be encrypted") from None
    except subprocess.TimeoutExpired:
        raise CredentialRefused(f"{TOOL} did not answer within {TIMEOUT_S} s") from None


def why(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line that the tool wrote."""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with {done.returncode}"


def read(path: Path = WALLET, *, host_key: Path | None = None) -> str:
    """The passphrase in `path`. Only root can. Raises CredentialRefused, CredentialsMissing."""
    if os.geteuid() != 0 and host_key is None:
        raise CredentialRefused(f"only root can open {path}", hint="Run it as root (`sudo`, or `su -`).")
    done = systemd_creds(["decrypt", f"--name={NAME}", str(path), "-"], host_key=host_key)
    if done.returncode != 0:
        raise CredentialRefused(f"{path} can't be opened on this machine: {why(done)}")
    return done.stdout.decode("utf-8", "replace")
