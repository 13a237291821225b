"""Installs the Debian packages that the tests use where it may; otherwise names what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

WANTED = {
    "bubblewrap": ("bwrap", "the sandbox (the environment's own bubblewrap is used instead)"),
    "litecoind": ("/usr/lib/litecoin/litecoind", "the tests against a real Core"),
    "procps": ("ps", "the check that no process is left behind"),
    "curl": ("curl", "the example call over HTTP"),
    "systemd": ("systemd-analyze", "the check of the unit files"),
    "mmdebstrap": ("mmdebstrap", "the Debian roots that packages are built in and machines are booted from"),
    "debian-archive-keyring": ("/usr/share/keyrings/debian-archive-keyring.gpg", "the keys of Debian's archive"),
    "systemd-container": ("systemd-nspawn", "the tests that boot a machine"),
    "faketime": ("faketime", "daemons on a machine whose clock is wrong"),
    "bsdutils": ("script", "the console of a booted machine"),
}
"""Debian package → the program or file that shows that it is there, and what it is for."""


def there(program: str) -> bool:
    """Whether a program is in the path, or a file exists."""
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None


def available(package: str) -> bool:
    """Whether apt could install it."""
    policy = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=False).stdout
    return "Candidate:" in policy and "Candidate: (none)" not in policy


def run_quietly(*command: str) -> None:
    """Run apt without questions and without output."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env=environment)


def main() -> int:
    """Install or name; never fails: a test that can't run says so itself."""
    missing = {name: why for name, (program, why) in WANTED.items() if not there(program)}
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing Debian packages for the tests: {', '.join(missing)}", flush=True)
        run_quietly("apt-get", "update", "-qq")
        # One by one: where one can't be installed, the others are.
        for package in filter(available, list(missing)):
            run_quietly("apt-get", "install", "-y", "-qq", "--no-install-recommends", package)
        missing = {name: why for name, why in missing.items() if not there(WANTED[name][0])}
    for name, why in missing.items():
        print(f"not installed: {name}, for {why} (apt install {name})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
