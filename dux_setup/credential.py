"""Encrypts the wallet's passphrase for this machine, and says in plain words what that protects against."""

import secrets
from pathlib import Path
from typing import Literal

from duxcommon.credential import NAME, read, systemd_creds, why
from duxcommon.errors import CredentialRefused
from duxcommon.files import write_atomic

Protection = Literal["tpm", "host"]

WORDS: dict[Protection, str] = {
    "tpm": (
        "The wallet's passphrase is encrypted under this machine's TPM chip and the key in {key}. It protects against "
        "a stolen or copied disk: without this very machine nobody opens the wallet. It does not protect against "
        "whoever is root here, nor against somebody who takes the whole machine and can start it."
    ),
    "host": (
        "The wallet's passphrase is encrypted under the key in {key}, because this machine has no usable TPM chip. It "
        "protects against copies and backups of single files, such as the keystore. It does not protect against a "
        "stolen disk, which holds that key too: encrypt the disk before coins of value lie here. Nor against root."
    ),
}


def new_passphrase() -> str:
    """43 characters with 256 random bits; nobody has to remember it."""
    return secrets.token_urlsafe(32)


def has_tpm() -> bool:
    """Whether systemd can use a TPM here. Raises CredentialsMissing."""
    return systemd_creds(["has-tpm2", "--quiet"]).returncode == 0


def encrypt(path: Path, passphrase: str, *, host_key: Path | None = None) -> tuple[Protection, str]:
    """Write the credential file (0600, whole or not at all): under the TPM where there is one, else the host's key.

    Returns what protects it, and why a TPM that is there could not be used ("" otherwise). Raises CredentialRefused,
    CredentialsMissing, OSError.
    """
    refused = ""
    # No PCRs: bound to the state of the firmware, the next update of it would lock the wallet for good.
    kinds: list[tuple[Protection, list[str]]] = [("host", ["--with-key=host"])]
    if has_tpm():
        kinds.insert(0, ("tpm", ["--with-key=host+tpm2", "--tpm2-pcrs="]))
    for protection, options in kinds:
        done = systemd_creds(["encrypt", f"--name={NAME}", *options, "-", "-"], passphrase.encode(), host_key=host_key)
        if done.returncode == 0:
            write_atomic(path, done.stdout, mode=0o600)
            if read(path, host_key=host_key) != passphrase:
                raise CredentialRefused(f"{path} does not give back what was put in")
            return protection, refused
        refused = why(done)
    raise CredentialRefused(f"the wallet's passphrase could not be encrypted: {refused}")
