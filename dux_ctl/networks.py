"""`dux-ctl network host`, `join` and `leave`: machines of a home or an office on one trial network."""

import argparse
import os
from pathlib import Path
from typing import Any

from duxcommon.errors import CoinsInChannels, DuxError, InvalidParams, NotAllowed
from duxcommon.money import format_flop

from . import exits
from .control import Control

HOST = """\
Opens the trial network that this machine runs to other machines, and writes an invitation for them. The coins of this
network have no value. Doing it again writes the same invitation. Needs root.
"""
JOIN = """\
Moves this machine to the trial network of an invitation, with fresh keys. What the node has now is moved aside, not
deleted. If anything fails, or after Ctrl-C, the node is put back on its old network. Needs root.
"""
LEAVE = """\
Moves this machine back to a trial network of its own, with fresh keys. What the node has now is moved aside, not
deleted. A machine that is on its own already stays as it is, unless --yes says to begin anew. Needs root.
"""
OWN_ALREADY = (
    "This machine is on a trial network of its own already; nothing was changed.\n"
    "To shut other machines out: sudo dux-ctl network host --off. To begin anew with fresh keys: add --yes"
)
KEPT = "What it had before lies in {old}; only root can read it. Delete it yourself once nothing of it is missing."
ROW = 100


def register(verbs: Any) -> set[str]:
    """Add the verbs to `network`; their names."""

    def verb(name: str, help_text: str, about: str, example: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(
            name,
            help=help_text,
            description=about,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return made

    host = verb("host", "open this machine's trial network to others", HOST, "sudo dux-ctl network host home.yaml")
    host.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where to write the invitation")
    host.add_argument(
        "--address", action="append", default=[], metavar="A",
        help="IPv4 address under which others reach this machine; can be repeated (default: its address in the local "
        "network). One that is this machine's own: the chain listens there only, otherwise on all its addresses",
    )  # fmt: skip
    host.add_argument(
        "--off", action="store_true", help="serve this machine alone again; invited machines are shut out"
    )
    host.set_defaults(run=_host)
    join = verb("join", "join the trial network of an invitation", JOIN, "sudo dux-ctl network join home.yaml")
    join.add_argument("file", type=Path, metavar="FILE", help="the invitation")
    join.set_defaults(run=_join)
    leave = verb("leave", "go back to a trial network of one's own", LEAVE, "sudo dux-ctl network leave")
    leave.set_defaults(run=_leave)
    for one in (join, leave):
        one.add_argument("--yes", action="store_true", help="leave coins in open channels behind")
    return {"host", "join", "leave"}


def _root(args: argparse.Namespace) -> None:
    if os.geteuid() != 0:
        from dux_setup.corecommands import again

        raise NotAllowed("only root may change which network this machine is on", hint=f"Say `{again(args)}`.")


def _host(args: argparse.Namespace, control: Control) -> int:
    from dux_setup import hosting
    from dux_setup.invitation import write_invitation
    from dux_setup.paths import Paths

    if args.off == (args.file is not None) or (args.off and args.address):
        raise InvalidParams("give a FILE for the invitation, or --off alone", hint="Try `dux-ctl network host --help`.")
    _root(args)
    if args.off:
        hosting.close(Paths(), control.note)
        control.emit({"hosting": False}, lambda: "Only this machine uses its trial network now. Machines that had "
                     "joined have lost its chain: their coins and channels stand still until you host again with a new "
                     "file, or they leave.")  # fmt: skip
        return exits.OK
    invitation = hosting.host(Paths(), args.address, control.note)
    try:
        write_invitation(args.file, invitation)
        if (uid := os.environ.get("SUDO_UID", "")).isdecimal():
            os.chown(args.file, int(uid), int(os.environ.get("SUDO_GID", uid)), follow_symlinks=False)
    except OSError as error:
        raise InvalidParams(
            f"can't write {args.file}: {error.strerror}", hint="Name another file; the network is open all the same."
        ) from error
    host, port = invitation.chain.host_port
    control.emit(
        {"hosting": True, "network": invitation.network.name, "address": host, "file": str(args.file)},
        lambda: (
            f"""\
{args.file} is an invitation to the trial network {invitation.network.name}, whose coins have no value.

It holds the network's definition, this machine's address ({host}) and a login to its chain. Whoever has it can get
coins, sell and buy there, and read what is public on that network: give it to those alone who may, and not in public.
On another machine with Dux OS:   sudo dux-ctl network join {args.file.name}

A firewall on this machine must let in {port}/tcp (the chain), {hosting.CALLS_PORT}/udp (calls) and \
{hosting.DIRECTORY_PORT}/udp (the directory).
To close it again, for all who joined:   sudo dux-ctl network host --off"""
        ),
    )
    return exits.OK


def _join(args: argparse.Namespace, control: Control) -> int:
    from dux_setup import joining
    from dux_setup.invitation import read_invitation
    from dux_setup.paths import Paths

    invitation = read_invitation(args.file)
    _root(args)
    joining.present_network(Paths())
    _look_at_channels(control, args.yes)
    old = joining.join(Paths(), invitation, control.note)
    name = invitation.network.name
    control.emit(
        {"network": name, "old": str(old)},
        lambda: (
            f"This machine is on the trial network {name} now, whose coins have no value.\n{KEPT.format(old=old)}\n"
            "Get coins:   dux-ctl wallet faucet 50"
        ),
    )
    return exits.OK


def _leave(args: argparse.Namespace, control: Control) -> int:
    from dux_setup import joining, moving
    from dux_setup.paths import Paths

    _root(args)
    joining.present_network(Paths())
    if not args.yes and Paths().devchain_users.exists() and moving.interrupted(Paths()) is None:
        # Leaving what nobody else is on would only cost this machine its keys, its coins and what it sells.
        control.emit({"old": None}, lambda: OWN_ALREADY)
        return exits.OK
    _look_at_channels(control, args.yes)
    old = joining.leave(Paths(), control.note)
    control.emit(
        {"old": str(old)},
        lambda: f"This machine is on a private trial network of its own now.\n{KEPT.format(old=old)}",
    )
    return exits.OK


def _look_at_channels(control: Control, yes: bool) -> None:
    """Raises CoinsInChannels where coins would be left behind and nobody said that they may."""
    try:
        amount, count = _in_channels(control)
        found = f"{count} open channels hold {format_flop(amount)} FLOP" if count else ""
    except DuxError as error:
        found = f"whether open channels hold coins can't be told ({error.message})"
    if found and not yes:
        raise CoinsInChannels(f"{found}; this node can't use or close them from another network")
    if found:
        control.note(f"Left behind: {found}.")


def _in_channels(control: Control) -> tuple[int, int]:
    amount = count = 0
    after: str | None = None
    while True:
        page = control.call("channel.list", {"limit": ROW, **({"after": after} if after else {})})
        for channel in page["channels"]:
            if channel["state"] not in ("CLOSED", "REFUNDED", "ABANDONED", "CONFLICTED"):
                amount += channel["deposited"]
                count += 1
        after = page["next"]
        if not after:
            return amount, count
