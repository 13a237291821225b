"""`dux-ctl demo`: two paid calls between this node and a temporary one, told step by step and checked at the end."""

import argparse
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from duxcommon import groups
from duxcommon.errors import (
    DaemonDown,
    DemoFailed,
    DemoRunning,
    DuxError,
    InvitationMissing,
    NotAllowed,
    NotTrialNetwork,
    WalletLocked,
)

from . import demo_report, exits
from .control import DAEMONS, Control
from .demo_guest import GuestProcess
from .demo_story import Story

INVITATION = Path("/var/lib/duxnet/guest.yaml")
LOOK_S = 20.0
"""Longest wait for one answer before anything is begun."""
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal that closes must clear up as Ctrl-C does."""


def register(parser: argparse.ArgumentParser) -> None:
    """Add what can be written after `dux-ctl demo`."""
    parser.add_argument(
        "--invitation",
        type=Path,
        default=INVITATION,
        metavar="FILE",
        help="invitation to this node's trial network (default: %(default)s)",
    )
    parser.set_defaults(run=run)


class Say:
    """Progress with the time since the start, on standard error; silent for programs, and once nobody reads."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begun

    def __call__(self, text: str) -> None:
        # The terminal may be gone; what is cleared up then needs no audience.
        with contextlib.suppress(OSError):
            self._control.progress("")
            self._control.note(f"[{self.seconds:6.1f} s] {text}")

    def waiting(self, text: str) -> None:
        """What is waited for at this moment, on a terminal only."""
        with contextlib.suppress(OSError):
            self._control.progress(f"[{self.seconds:6.1f} s] … {text}")


def run(args: argparse.Namespace, control: Control) -> int:
    """The whole story. Raises what stops it; clears up however it ends."""
    say = Say(control)
    with _only_one(args.invitation), _interruptible():
        node = _check(control)
        found = _trade(args.invitation, control, node, say)
    found["seconds"] = round(say.seconds, 1)
    control.emit(found, lambda: demo_report.text(found))
    return exits.OK if found["difference"] == 0 and not found["remains"] else exits.DIFFERENCE


def _trade(invitation: Path, control: Control, node: str, say: Say) -> dict[str, Any]:
    """Let the two nodes trade; afterwards the guest is gone."""
    guest: GuestProcess | None = None
    story: Story | None = None
    try:
        say("starting a second node from the invitation; it is there for this demonstration alone")
        guest = GuestProcess(invitation, say)
        story = Story(control, node, guest, say)
        found = story.tell()
        story.tidy()
    except BaseException as error:
        remains = _give_up(story, error, say)
        if remains and isinstance(error, DuxError):
            error.details["remains"] = remains
        raise
    finally:
        if guest is not None:
            say("ending the guest node and removing its folder")
            guest.end()
            if story is None or not story.remains:
                say("nothing of the demonstration is left")
    return found | {"remains": story.remains}


def _give_up(story: Story | None, error: BaseException, say: Say) -> list[str]:
    """Clear up after a failure or an interruption; what could not be."""
    if story is None:
        return []
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else "this went wrong"
    say(f"{why}: taking back what was begun")
    story.tidy()
    for line in story.remains:
        say(f"REMAINS: {line}")
    return story.remains


# --- before anything is begun ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_one(invitation: Path) -> Iterator[None]:
    """Hold the invitation for this demonstration. Raises InvitationMissing, NotAllowed, DemoRunning."""
    try:
        descriptor = os.open(invitation, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise NotAllowed(
            f"you may not read {invitation}: a demonstration spends this node's coins",
            hint=groups.remedy("duxnet", "dux-spend"),
        ) from None
    except FileNotFoundError:
        raise InvitationMissing(
            f"there is no invitation to this machine's own trial network ({invitation}): it is on a network of others, "
            "Flopcoin Core is connected, or its first boot has not finished",
            hint="See `dux-ctl network show` and `systemctl status dux-firstboot`. `dux-devnet demo` needs neither.",
        ) from None
    except OSError as error:
        raise InvitationMissing(f"can't read {invitation}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DemoRunning("a demonstration runs on this node already") from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demonstration as Ctrl-C does; a second one does not stop the clearing."""

    def interrupt(*_: object) -> NoReturn:
        for kind in ENDINGS:
            signal.signal(kind, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {kind: signal.signal(kind, interrupt) for kind in ENDINGS}
    yield
    # After an interruption the program ends, and a late signal must not change how.
    for kind, handler in before.items():
        signal.signal(kind, handler)


def _check(control: Control) -> str:
    """This node's id, if it can take part. Raises DaemonDown, NotTrialNetwork, WalletLocked, DemoFailed, NotAllowed."""
    wait = min(control.timeout, LOOK_S)
    down: list[DuxError] = []
    for daemon in DAEMONS:
        try:
            status = control.client(daemon).call("daemon.status", timeout=wait)
        except NotAllowed:
            raise
        except DuxError as error:
            down.append(error)
            continue
        if not status["worthless"]:
            raise NotTrialNetwork(f"this node is on the network {status['network']}, whose coins have value")
    if down:
        names = ", ".join(error.message for error in down)
        raise DaemonDown(f"not all of this node runs: {names}", hint=down[0].hint)
    if control.call("wallet.status", timeout=wait)["locked"]:
        raise WalletLocked("the wallet of this node is locked: it could neither pay nor be paid")
    lending = control.call("provider.limits", timeout=wait)
    if lending["paused"]:
        raise DemoFailed("this node takes no tasks at present", hint="Resume with `dux-ctl provider resume`.")
    if lending["sandbox"] == "missing":
        raise DemoFailed(f"this node can't run tasks: {lending['reason']}", hint="See `dux-ctl why dux-sandbox`.")
    chain = control.call("chain.status", timeout=wait)
    if chain["syncing"]:
        raise DemoFailed(f"this node is still reading the chain (block {chain['height']})", hint="Try again soon.")
    return str(control.call("node.self", timeout=wait)["node"])
