"""This machine moved to another network, whole or not at all.

python -m dux_setup.joining     # undo what a kill interrupted; dux-firstboot.service does it at every boot
"""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from duxcommon import failpoint
from duxcommon.blocking import BlockingClient
from duxcommon.errors import AlreadyRunning, BadSignature, ConfigError, DuxError, NotTrialNetwork, SwitchFailed
from duxcommon.network import NetworkDefinition, load_network

from . import moving
from .fresh import Fresh, fresh_node, fresh_trial, put
from .invitation import ChainAccess, Invitation
from .machine import Machine, this_machine
from .paths import DAEMONS, Paths
from .reach import addresses_of, check_chain

Say = Callable[[str], None]
UP_S = 240.0
"""Longest wait until the node runs and has caught up."""
PEERS_S = 60.0
ANSWER_S = 10.0
POLL_S = 0.5


def present_network(paths: Paths) -> NetworkDefinition | None:
    """The network that this machine is on; None where it is on none. Raises NotTrialNetwork where coins have value."""
    if not os.path.lexists(paths.network):
        return None
    try:
        network = load_network(paths.network)
    except (ConfigError, BadSignature) as error:
        raise SwitchFailed(f"{paths.network} is not to be read: {error.message}") from error
    if not network.worthless:
        raise NotTrialNetwork(
            f"this machine is on {network.name}, whose coins have value: it is not moved away from there",
            hint="Close its channels, send its coins elsewhere, and move its state away yourself if you want that.",
        )
    return network


def join(paths: Paths, invitation: Invitation, say: Say, machine: Machine | None = None) -> Path:
    """Join the network of an invitation; where the old state lies now.

    Raises NotAllowed, NotTrialNetwork, ChainUnreachable and InvitationRefused before anything is changed; after
    that the old state is back when it raises.
    """
    machine = machine or this_machine(paths)
    say(f"Asking the trial chain at {invitation.chain.url} …")
    check_chain(invitation.chain, invitation.network.genesis)
    return switch(
        paths,
        network=invitation.network,
        chain=invitation.chain,
        bootstrap=invitation.bootstrap,
        say=say,
        machine=machine,
    )


def switch(
    paths: Paths,
    *,
    network: NetworkDefinition,
    chain: ChainAccess,
    bootstrap: Sequence[str] = (),
    own_wallet: bool = True,
    run_by: str | None = None,
    say: Say,
    machine: Machine | None = None,
) -> Path:
    """Move to `network`, with the Core or chain behind `chain`; where the old state lies now. Raises like `join`."""
    machine = machine or this_machine(paths)
    addresses = addresses_of(chain)

    def make() -> Fresh:
        if addresses:
            allow = "".join(f"IPAddressAllow={address}\n" for address in addresses)
            text = f"# The trial chain on another machine; made by `dux-ctl network join`.\n[Service]\n{allow}"
            _unit(paths, moving.flopd_unit(paths), text)
        return fresh_node(
            paths, network=network, chain=chain, own_wallet=own_wallet, run_by=run_by, bootstrap=bootstrap, say=say
        )

    return _move(paths, make, bool(bootstrap), say, machine)


def leave(paths: Paths, say: Say, machine: Machine | None = None) -> Path:
    """Back to a trial network of this machine's own; where the old state lies now. Raises like `join`."""
    machine = machine or this_machine(paths)
    return _move(paths, lambda: fresh_trial(paths, say), False, say, machine)


def recover(paths: Paths, say: Say) -> bool:
    """Undo what was interrupted, with nothing running; whether there was anything."""
    journal = moving.interrupted(paths)
    if journal is None:
        return False
    say("Moving this node to another network was interrupted: putting back what it had before.")
    moving.undo(paths, journal)
    return True


def _unit(paths: Paths, path: Path, text: str) -> None:
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    put(paths, path, text)


def _move(paths: Paths, make: Callable[[], Fresh], with_peers: bool, say: Say, machine: Machine) -> Path:
    with alone(paths), _interruptible():
        if moving.interrupted(paths) is not None:
            machine.stop()
            recover(paths, say)
            machine.start()
        present_network(paths)
        try:
            say("Stopping the node …")
            machine.stop()
            journal = moving.move_aside(paths)
            say(f"What this node had lies in {journal.old} now; only root can read it.")
            machine.make_folders()
            made = make()
            failpoint.hit("switch:made")
            say(f"Starting as node {made.node[:16]}… of {made.network.name} …")
            machine.start()
            _wait_up(paths, say)
            if with_peers:
                _wait_peers(paths, say)
        except OSError as error:
            _back(paths, say, machine, error)
            raise SwitchFailed(f"the node stays on its old network: {error}") from error
        except BaseException as error:
            _back(paths, say, machine, error)
            raise
        moving.finish(paths)
        return Path(journal.old)


def _back(paths: Paths, say: Say, machine: Machine, error: BaseException) -> None:
    """Put everything back. A second Ctrl-C does not interrupt that."""
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    say(f"That did not work ({why}). Putting back what this node had before …")
    machine.stop()
    recover(paths, say)
    machine.start()
    say("The node is on its old network again.")


_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _interruptible() -> Iterator[None]:
    """A closed terminal and SIGTERM put things back as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone(paths: Paths) -> Iterator[None]:
    """Nobody else changes this machine's network meanwhile. Raises AlreadyRunning."""
    with open(paths.setup / "switch.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                "another command is changing this machine's network at this moment", hint="Wait until it has ended."
            ) from None
        yield


# --- until it runs ----------------------------------------------------------------------------------------------------


def _ask(paths: Paths, daemon: str, method: str) -> dict[str, Any]:
    client = BlockingClient(paths.run / f"{daemon}.sock")
    try:
        return client.call(method, timeout=ANSWER_S)
    finally:
        client.close()


def _hindrance(paths: Paths) -> str:
    """What is still missing, in a few words; empty when the node runs and has caught up."""
    try:
        for daemon in DAEMONS:
            status = _ask(paths, daemon, "daemon.status")
            if daemon == "flopd" and status["notes"]:
                return str(status["notes"][0])
        chain = _ask(paths, "flopd", "chain.status")
    except DuxError as error:
        return error.message
    return f"block {chain['height']} of {chain['headers']}" if chain["syncing"] else ""


def _wait_up(paths: Paths, say: Say) -> None:
    deadline, said = time.monotonic() + UP_S, ""
    while missing := _hindrance(paths):
        if time.monotonic() > deadline:
            raise SwitchFailed(f"the node did not come up within {UP_S:.0f} s: {missing}")
        if missing != said:
            said = missing
            say(f"Waiting: {missing}")
        time.sleep(POLL_S)
    say(f"In sync at block {_ask(paths, 'flopd', 'chain.status')['height']}.")


def _wait_peers(paths: Paths, say: Say) -> None:
    """Say whether the directory of the others answers; without it the node is right and alone."""
    say("Looking for the other nodes …")
    deadline = time.monotonic() + PEERS_S
    while _ask(paths, "registryd", "directory.stats")["dht_nodes"] == 0:
        if time.monotonic() > deadline:
            say(
                f"No other node answered within {PEERS_S:.0f} s. Check that ports 4747/udp and 4748/udp are open "
                "between the machines; this node goes on looking."
            )
            return
        time.sleep(POLL_S)
    say("The other nodes answer.")


def main() -> int:
    """Undo what was interrupted, before the node starts; the exit status."""
    paths = Paths()
    try:
        with alone(paths):
            if recover(paths, lambda text: print(text, flush=True)):
                # systemd read the units before what was put back beside them.
                this_machine(paths).reload()
    except AlreadyRunning:
        return 0  # nothing was interrupted: whoever moves the node starts it
    except (DuxError, OSError) as error:
        hint = f"\n  {error.hint}" if isinstance(error, DuxError) else ""
        print(f"What was interrupted could not be undone: {error}{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
