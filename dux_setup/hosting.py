"""This machine's own trial network opened to other machines, and closed again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from duxcommon.api.common import Model
from duxcommon.errors import ChainUnreachable, InvitationRefused, NotHosting
from duxcommon.files import write_atomic
from duxcommon.network import NetworkDefinition

from . import addresses as lan
from . import moving
from .asuser import as_user
from .certificate import hosts_of, make_certificate
from .fresh import put
from .invitation import ChainAccess, Invitation
from .joining import alone, present_network
from .machine import Machine, this_machine
from .paths import Paths
from .reach import check_chain
from .rpcauth import accepts, new_password, rpcauth

Say = Callable[[str], None]
USER = "lan"
"""The user of the chain that all invited machines log in as."""
CHAIN_PORT = 32554
CALLS_PORT = 4747
DIRECTORY_PORT = 4748
OPEN_S = 30.0
POLL_S = 0.3


class Hosting(Model):
    """What a host remembers, so that it gives the same invitation again."""

    addresses: list[str]
    given: bool
    """Whether somebody named them; else they are what this machine found."""
    only: bool = False
    """Whether the chain listens on the one address that was named, and not on all of this machine."""
    password: str


def host(paths: Paths, wanted: Sequence[str], say: Say, machine: Machine | None = None) -> Invitation:
    """Open this machine's trial network and invite to it; doing it again changes nothing.

    `wanted` are IPv4 addresses under which others reach this machine; none: its address in the local network. Where the
    one that is wanted is an address of this machine itself, the chain listens there only, otherwise on all.
    Raises NotAllowed, NotTrialNetwork, NotHosting, NoAddress, SwitchFailed, ChainUnreachable, OSError.
    """
    machine = machine or this_machine(paths)
    with alone(paths):
        network = own_network(paths)
        known = _known(paths)
        hosts = [lan.check(address) for address in wanted] or _addresses(known)
        given = bool(wanted) or (known is not None and known.given and known.addresses == hosts)
        # What was decided when it was named holds also while the network is down.
        only = known.only if known is not None and given and not wanted else _is_own(wanted)
        kept = Hosting(addresses=hosts, given=given, only=only, password=known.password if known else new_password())
        put(paths, moving.hosting_file(paths), kept.model_dump_json(), mode=0o600)
        certificate, changed = _certificate(paths, hosts)
        if known is not None and known.addresses != hosts:
            say(
                f"The address was {', '.join(known.addresses)} before: machines that joined by that one have to join "
                "again with the new file."
            )
        changed |= _let_in(paths, kept.password)
        changed |= _open(paths, kept)
        say(_where(kept, wanted))
        invitation = _invitation(network, kept, certificate)
        # After a kill the settings may be there, and a chain that has not read them.
        if changed or not _is_open(invitation):
            say(f"Opening the trial chain on port {CHAIN_PORT}/tcp …")
            machine.restart_chain()
        _wait_open(invitation)
        return invitation


def close(paths: Paths, say: Say, machine: Machine | None = None) -> None:
    """Serve this machine alone again, and let nobody in who was invited. Raises like `host`."""
    machine = machine or this_machine(paths)
    with alone(paths):
        own_network(paths)
        say("Closing the trial chain …")
        lines = _users(paths)
        put(
            paths, paths.devchain_users, "".join(f"{line}\n" for line in lines if not _is_ours(line)),
            mode=0o640, group="dux-devchain",
        )  # fmt: skip
        for path in (paths.drop_in("devchain"), moving.chain_unit(paths), moving.hosting_file(paths)):
            path.unlink(missing_ok=True)
        machine.restart_chain()


def own_network(paths: Paths) -> NetworkDefinition:
    """The trial network whose chain this machine runs. Raises NotTrialNetwork, NotHosting."""
    network = present_network(paths)
    if network is None or not paths.devchain_users.exists():
        name = network.name if network is not None else "none"
        raise NotHosting(f"this machine does not run the chain of its network ({name}): it has nothing to invite to")
    return network


def _known(paths: Paths) -> Hosting | None:
    try:
        return Hosting.model_validate_json(moving.hosting_file(paths).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _addresses(known: Hosting | None) -> list[str]:
    """Those of the last time where somebody named them or this machine still has them, else its address now."""
    own = lan.own_addresses()
    if known is not None and (known.given or known.addresses[0] in own):
        return known.addresses
    return [lan.lan_address(own)]


def _is_own(wanted: Sequence[str]) -> bool:
    return len(wanted) == 1 and lan.check(wanted[0]) in lan.own_addresses()


def _where(kept: Hosting, wanted: Sequence[str]) -> str:
    """On which addresses the chain listens, and why."""
    if kept.only:
        return f"The chain listens on {kept.addresses[0]}, port {CHAIN_PORT}/tcp, and on no other address for others."
    why = "several were named" if len(wanted) > 1 else f"{kept.addresses[0]} is no address of this machine itself"
    reason = f": {why}" if wanted else "; with `--address` and one of them, on that one only"
    return f"The chain listens on all addresses of this machine, port {CHAIN_PORT}/tcp{reason}."


def _tls(paths: Paths) -> tuple[Path, Path]:
    return paths.state("devchain") / "tls.crt", paths.state("devchain") / "tls.key"


def _certificate(paths: Paths, hosts: list[str]) -> tuple[str, bool]:
    """The certificate for these addresses, and whether it was made now."""
    certificate, key = _tls(paths)

    def read() -> str:
        return certificate.read_text(encoding="ascii") if certificate.exists() and key.exists() else ""

    def write() -> None:
        # The key first: a certificate without its key would be taken for a pair the next time.
        certificate.unlink(missing_ok=True)
        write_atomic(key, private.encode(), mode=0o600)
        write_atomic(certificate, text.encode(), mode=0o644)

    user = paths.user("devchain")
    found: str = as_user(user, read)
    if found and hosts_of(found) == hosts:
        return found, False
    text, private = make_certificate(hosts)
    as_user(user, write)
    return text, True


def _users(paths: Paths) -> list[str]:
    return paths.devchain_users.read_text(encoding="ascii").splitlines()


def _is_ours(line: str) -> bool:
    return line.startswith(f"{USER}:")


def _let_in(paths: Paths, password: str) -> bool:
    lines = _users(paths)
    ours = [line for line in lines if _is_ours(line)]
    if len(ours) == 1 and accepts(ours[0], USER, password):
        return False
    kept = [*(line for line in lines if not _is_ours(line)), rpcauth(USER, password)]
    text = "".join(f"{line}\n" for line in kept)
    put(paths, paths.devchain_users, text, mode=0o640, group="dux-devchain")
    return True


def _open(paths: Paths, kept: Hosting) -> bool:
    """Settings of chain and unit; whether they changed."""
    certificate, key = _tls(paths)
    listen = f"{kept.addresses[0]}:{CHAIN_PORT}" if kept.only else f"0.0.0.0:{CHAIN_PORT}"
    value = {"listen": listen, "certificate": str(certificate), "key": str(key)}
    head = "# Made by `dux-ctl network host`; `dux-ctl network host --off` takes it away.\n"
    changed = False
    for path, text in (
        (paths.drop_in("devchain"), head + yaml.safe_dump(value, sort_keys=False)),
        (moving.chain_unit(paths), f"{head}[Service]\nIPAddressAllow=any\n"),
    ):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            put(paths, path, text)
            changed = True
    return changed


def _invitation(network: NetworkDefinition, kept: Hosting, certificate: str) -> Invitation:
    chain = ChainAccess.model_validate(
        {
            "url": f"https://{kept.addresses[0]}:{CHAIN_PORT}/",
            "user": USER,
            "password": kept.password,
            "certificate": certificate,
        }
    )
    bootstrap = [f"{address}:{DIRECTORY_PORT}" for address in kept.addresses]
    return Invitation(network=network, bootstrap=bootstrap, chain=chain)


def _is_open(invitation: Invitation) -> bool:
    try:
        check_chain(invitation.chain, invitation.network.genesis)
    except (ChainUnreachable, InvitationRefused):
        return False
    return True


def _wait_open(invitation: Invitation) -> None:
    """Until the chain answers as the invitation says, which an address of another machine never does."""
    deadline = time.monotonic() + OPEN_S
    while True:
        try:
            check_chain(invitation.chain, invitation.network.genesis)
        except (ChainUnreachable, InvitationRefused):
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
        else:
            return
