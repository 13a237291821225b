"""A fresh node on this machine: keys, a login to its chain, settings, and last of all the network definition.

Every step can be done again after a kill: it takes what is there already, and makes what is not. The network definition
is written last, so that a machine either has a whole node or none.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from grp import getgrnam
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from duxcommon import credential as credentials
from duxcommon import failpoint
from duxcommon.errors import AlreadyOnNetwork, KeystoreForeign, SetupStepFailed
from duxcommon.files import write_atomic
from duxcommon.identity import Identity
from duxcommon.network import NetworkDefinition, dump_network

from . import trial
from .asuser import as_user
from .credential import WORDS, encrypt, new_passphrase
from .invitation import ChainAccess, dump_invitation
from .paths import Paths

CHILD_S = 120
PROTECTION = "protection.txt"

Say = Callable[[str], None]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """Of the node's keystore, as hex."""

    payout: str
    guardian: str
    arbiter: str


@dataclass(frozen=True, slots=True)
class Fresh:
    """What was made."""

    network: NetworkDefinition
    node: str
    """The node's id."""
    keys: PublicKeys


def _point(name: str) -> None:
    failpoint.hit(f"firstboot:{name}")


def put(paths: Paths, path: Path, text: str, *, mode: int = 0o644, group: str | None = None) -> None:
    """Write a file of root's, whole or not at all; `group` may have rights in it by `mode`. Raises OSError."""
    if not path.parent.is_dir():
        path.parent.mkdir()
        path.parent.chmod(0o755)
    gid = getgrnam(group).gr_gid if group is not None and paths.real else None
    write_atomic(path, text.encode(), mode=mode, group=gid)


def _remembered(paths: Paths, name: str, model: type[M], make: Callable[[], M], secrets: Callable[[M], str]) -> M:
    """What was drawn before, or is drawn now and kept for the next try."""
    path = paths.setup / name
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        made = make()
        put(paths, path, secrets(made), mode=0o600)
        return made
    except ValidationError:
        # Without the details, which would quote secrets.
        raise SetupStepFailed(
            f"{path} is damaged", hint=f"Move it away, then `systemctl restart dux.target`: {name} is made anew."
        ) from None


# --- the wallet -------------------------------------------------------------------------------------------------------


def _keystore(paths: Paths, command: Sequence[str], passphrase: str) -> dict[str, Any]:
    """What `dux-flopd keystore …` answers, run as flopd's user. The passphrase goes through a pipe."""
    user = paths.user("flopd")
    who: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "dux_flopd", "keystore", *command, "--config", str(paths.config("flopd"))],
        input=f"{passphrase}\n", capture_output=True, text=True, timeout=CHILD_S, check=False, cwd="/", umask=0o077,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, **who,
    )  # fmt: skip
    try:
        reply: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise SetupStepFailed(f"the wallet's keystore could not be made: {last}") from None
    if "errno" in reply:
        raise OSError(reply["errno"], os.strerror(reply["errno"]), reply["file"])
    return reply


def _public(reply: dict[str, Any]) -> PublicKeys:
    if "error" in reply:
        raise SetupStepFailed(f"the wallet's keystore is not usable: {reply['message']}", hint=reply["hint"])
    return PublicKeys(**reply)


def wallet(paths: Paths, say: Say) -> PublicKeys:
    """The node's keystore, made with a random passphrase that only this machine can read, where there is none yet.

    A keystore that somebody else made is left alone. Raises KeystoreForeign, CredentialRefused, CredentialsMissing,
    SetupStepFailed, OSError.
    """
    host_key = None if paths.real else paths.host_key
    if paths.credential.exists():
        passphrase = credentials.read(paths.credential, host_key=host_key)
        reply = _keystore(paths, ["public"], passphrase)
        if reply.get("error") != "KeystoreMissing":
            return _public(reply)
    else:
        if as_user(paths.user("flopd"), lambda: os.path.lexists(paths.keystore)):
            raise KeystoreForeign(
                f"there is a keystore at {paths.keystore}, but this machine does not know its passphrase; it was left "
                "as it is"
            )
        passphrase = new_passphrase()
        if not paths.credential.parent.is_dir():
            paths.credential.parent.mkdir(mode=0o700)
        protection, no_tpm = encrypt(paths.credential, passphrase, host_key=host_key)
        words = WORDS[protection].format(key=paths.host_key)
        put(paths, paths.setup / PROTECTION, f"{words}\n", mode=0o600)
        if no_tpm:
            say(f"There is a TPM chip, but it can't be used: {no_tpm}")
        say(words)
        _point("credential")
    keys = _public(_keystore(paths, ["create", "--unattended"], passphrase))
    say(
        f"Made the wallet's keystore, {paths.keystore}. Its recovery words were shown to nobody: write them down with "
        "`sudo dux-flopd keystore words`."
    )
    _point("keystore")
    return keys


# --- the node's key ---------------------------------------------------------------------------------------------------


def node_id(paths: Paths) -> str:
    """The id of the node's key, which is made where there is none."""
    made: str = as_user(paths.user("registryd"), lambda: Identity.load_or_create(paths.node_key).node_id)
    return made


def _signed(paths: Paths, network: NetworkDefinition) -> NetworkDefinition:
    def sign() -> dict[str, str]:
        return network.signed_by(Identity.load_or_create(paths.node_key)).signatures

    return network.model_copy(update={"signatures": as_user(paths.user("registryd"), sign)})


# --- settings ---------------------------------------------------------------------------------------------------------


def _settings(paths: Paths, daemon: str, value: dict[str, Any], *, secret: bool = False) -> None:
    """A daemon's drop-in; a secret one is readable by that daemon's user alone."""
    access: dict[str, Any] = {"mode": 0o640, "group": f"dux-{daemon}"} if secret else {}
    text = "# Made by first boot or by joining a network; put your own settings into another file of this folder.\n"
    put(paths, paths.drop_in(daemon), text + yaml.safe_dump(value, sort_keys=False), **access)


def connect_flopd(paths: Paths, chain: ChainAccess, wallet_name: str | None, run_by: str | None = None) -> None:
    """Tell dux-flopd of its chain: the login, the certificate to trust, which wallet is its own, and who runs it."""
    password = chain.password.get_secret_value()

    def keep() -> None:
        write_atomic(paths.chain_password, f"{password}\n".encode(), mode=0o600)

    as_user(paths.user("flopd"), keep)
    if chain.certificate is not None:
        put(paths, paths.chain_certificate, chain.certificate)
    ca_file = str(paths.chain_certificate) if chain.certificate is not None else None
    # The wallet's name is half of what opens it to others who have a login at the same chain.
    told = trial.flopd_settings(chain, wallet_name, str(paths.chain_password), ca_file, run_by)
    _settings(paths, "flopd", told, secret=True)


def check_room(paths: Paths) -> None:
    """Raises OSError, with the folder, where something is to be written and can't be."""
    for folder in (paths.etc, paths.setup):
        probe = folder / ".room"
        write_atomic(probe, bytes(65_536), mode=0o600)
        probe.unlink()


def _nothing_there(paths: Paths) -> None:
    if os.path.lexists(paths.network):
        raise AlreadyOnNetwork(f"this machine is on a network already: {paths.network} is there")
    for folder, mode in ((paths.setup, 0o700), (paths.etc, 0o755)):
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(mode)
    check_room(paths)


def fresh_node(
    paths: Paths,
    *,
    network: NetworkDefinition,
    chain: ChainAccess,
    own_wallet: bool = True,
    run_by: str | None = None,
    bootstrap: Sequence[str] = (),
    say: Say,
) -> Fresh:
    """Make this machine a fresh node of `network`: keys, settings, and at the end network.yaml; starts nothing.

    `own_wallet`: the Core behind `chain` has several wallets, and this node gets one of its own. `run_by` is the person
    whose Core it is, where it is not a service's. `bootstrap` are directory nodes to ask beside the definition's. Can
    be called again after it was interrupted. Raises AlreadyOnNetwork, KeystoreForeign, CredentialRefused,
    CredentialsMissing, SetupStepFailed, OSError.
    """
    _nothing_there(paths)
    keys = wallet(paths, say)
    node = node_id(paths)
    _point("node-key")
    connect_flopd(paths, chain, trial.new_wallet() if own_wallet else None, run_by)
    _point("flopd")
    _settings(paths, "registryd", trial.registryd_settings(list(bootstrap), guardian=False))
    _point("registryd")
    put(paths, paths.network, dump_network(network))
    _point("network")
    return Fresh(network, node, keys)


def fresh_trial(paths: Paths, say: Say) -> Fresh:
    """Make this machine the one node of a trial network of its own, with its own chain; starts nothing.

    Can be called again after it was interrupted. Raises like `fresh_node`.
    """
    _nothing_there(paths)
    known = _remembered(paths, "trial.json", trial.Secrets, trial.new_secrets, trial.Secrets.model_dump_json)
    _point("secrets")
    arbiter = _remembered(paths, "arbiter.json", trial.Arbiter, trial.new_arbiter, trial.Arbiter.model_dump_json)
    _point("arbiter")
    keys = wallet(paths, say)
    node = node_id(paths)
    _point("node-key")
    network = _signed(paths, trial.definition(node, keys.guardian, arbiter.member()))
    put(paths, paths.devchain_users, trial.chain_users(known), mode=0o640, group="dux-devchain")
    _point("chain-users")
    connect_flopd(paths, trial.chain_access(known), known.wallet)
    _point("flopd")
    _settings(paths, "registryd", trial.registryd_settings([], guardian=True))
    _point("registryd")
    put(paths, paths.guest, dump_invitation(trial.guest_invitation(network, known)), mode=0o640, group="dux-spend")
    _point("guest")
    put(paths, paths.network, dump_network(network))
    _point("network")
    say(
        f"This machine is now the one node of a private trial network, {network.name}, whose coins have no value. Join "
        "others with `dux-ctl network join FILE`, or connect Flopcoin Core with `dux-ctl setup flopcoin`."
    )
    return Fresh(network, node, keys)
