"""One temporary node on the trial network that an invitation names; `dux-ctl demo` starts it and trades with it.

    python -m dux_devnet.guest FOLDER INVITATION

FOLDER must be empty. The guest belongs to whoever holds the other end of its standard input: when that closes, or on
SIGTERM, its daemons end and FOLDER is removed, however its owner ended. It tells what it does on standard output, one
JSON object a line with an `event`: `step` (with `text`), `ready` (with `run_dir`), `failed` (with `message`, `hint` and
`log`), and `account` (with the parts in koinu) in answer to a line on its standard input:
{"channel": a closed Channel, "heights": {txid: block}}.
"""

import argparse
import base64
import http.client
import json
import os
import secrets
import selectors
import shutil
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dux_setup.invitation import ChainAccess, Invitation, read_invitation
from duxcommon.coin.params import CHAINS
from duxcommon.errors import DuxError
from duxcommon.files import write_atomic
from duxcommon.network import dump_network

from .account import Reader, read_chain
from .faults import tails
from .layout import ChainChoice, Layout, configure, free_port, make_node, prepare_folder
from .network import DevnetError
from .supervisor import Refused, Supervisor

NAME = "guest"
READY_S = 240.0
"""Longest wait for the daemons; an emulated machine takes ten times as long as a real one."""
HEARTBEAT_S = 10
"""A node stays live for three of them: a machine that does everything slowly misses one now and then."""
STOP_S = 5.0
"""Its channels are closed by then, and nobody needs its databases: what does not end in time is killed."""
RPC_S = 60.0
"""Longest wait for an answer of the chain."""


def lay_out_guest(folder: Path, invitation: Invitation, wallet: str) -> Layout:
    """Fill the empty `folder` with one node that buys and sells on the invitation's network. Raises ConfigError.

    `wallet` is the path of its wallet at the chain's address.
    """
    prepare_folder(folder)
    identity, _ = make_node(folder, NAME)
    write_atomic(folder / "network.yaml", dump_network(invitation.network).encode())
    access = invitation.chain
    etc = folder / NAME / "etc"
    write_atomic(etc / "chain.password", access.password.get_secret_value().encode() + b"\n", mode=0o600)
    core: dict[str, Any] = {
        "url": access.url + wallet,
        "user": access.user,
        "password_file": str(etc / "chain.password"),
    }
    if access.certificate is not None:
        write_atomic(etc / "chain.pem", access.certificate.encode())
        core["ca_file"] = str(etc / "chain.pem")
    overrides = {
        f"{NAME}/flopd": {"core": core, "poll_s": 0.5},
        f"{NAME}/registryd": {
            "roles": ["buyer", "provider"],
            "heartbeat_s": HEARTBEAT_S,
            "bootstrap": invitation.bootstrap,
        },
    }
    chain = ChainChoice(name=invitation.network.chain, url=access.url, birth_height=invitation.network.birth_height)
    layout = Layout(folder, [NAME], {NAME: identity.node_id}, chain, 0, [], overrides)
    configure(layout, NAME, free_port(socket.SOCK_DGRAM))
    layout.save()
    return layout


class ChainRpc:
    """Calls the trial chain with the invitation's login, through a wallet that is the guest's own."""

    def __init__(self, access: ChainAccess, wallet: str) -> None:
        self._access = access
        self._path = f"/{wallet}"
        login = f"{access.user}:{access.password.get_secret_value()}"
        self._headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    def __call__(self, method: str, *params: Any) -> Any:
        """The result of one call. Raises DevnetError for what the chain refuses, OSError when it can't be reached."""
        connection = self._connect()
        try:
            body = json.dumps({"id": 1, "method": method, "params": list(params)})
            connection.request("POST", self._path, body, self._headers)
            answer = connection.getresponse().read()
        finally:
            connection.close()
        reply = json.loads(answer) if answer else {"error": {"message": "no answer"}}
        if reply.get("error"):
            raise DevnetError(f"{method}: {reply['error']['message']}", hint="The trial chain refused that.")
        return reply["result"]

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._access.host_port
        if not self._access.url.startswith("https:"):
            return http.client.HTTPConnection(host, port, timeout=RPC_S)
        trusted = ssl.create_default_context(cadata=self._access.certificate)
        return http.client.HTTPSConnection(host, port, timeout=RPC_S, context=trusted)


class Guest:
    """A supervisor that obeys its standard input."""

    def __init__(self, layout: Layout, invitation: Invitation, wallet: str) -> None:
        self._layout = layout
        self._network = invitation.network
        self._rpc = ChainRpc(invitation.chain, wallet)
        self._supervisor = Supervisor(layout, stop_s=STOP_S)
        self._heard = bytearray()
        self._supervisor.forks.selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._hear)

    def run(self) -> int:
        """Start the daemons, then serve until the owner is gone. Raises Refused when a daemon does not start."""
        return self._supervisor.run(self._begin)

    def _begin(self) -> None:
        tell("step", text="starting the guest's daemons")
        self._supervisor.start(self._layout.daemons(NAME), seconds=READY_S)
        tell("ready", run_dir=str(self._layout.run_dir(NAME)))

    def _hear(self) -> None:
        data = os.read(sys.stdin.fileno(), 1 << 16)
        if not data:
            self._supervisor.forks.selector.unregister(sys.stdin.fileno())
            self._supervisor.end()
        self._heard += data
        while (end := self._heard.find(b"\n")) >= 0:
            line = bytes(self._heard[:end])
            del self._heard[: end + 1]
            self._account(json.loads(line))

    def _account(self, asked: dict[str, Any]) -> None:
        try:
            parts = read_chain(Reader(self._rpc, asked["heights"]), self._network, asked["channel"])
        except (DuxError, OSError) as error:
            message = error.message if isinstance(error, DuxError) else f"the chain can't be read: {error}"
            tell("failed", message=message, hint="", log=[])
        else:
            tell("account", **asdict(parts))


def tell(event: str, **values: Any) -> None:
    """One line to the owner; nothing if it is gone."""
    try:
        print(json.dumps({"event": event, **values}), flush=True)
    except BrokenPipeError:
        # Standard input has ended as well then, and that is what ends the guest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Live as a guest; the exit status."""
    parser = argparse.ArgumentParser(prog="dux_devnet.guest", description="A temporary node; see `dux-ctl demo`.")
    parser.add_argument("folder", type=Path, help="an empty folder of this user")
    parser.add_argument("invitation", type=Path, help="as `dux-ctl network host` writes it")
    args = parser.parse_args(argv)
    try:
        tell("step", text="making the keys and the configuration of a guest node")
        invitation = read_invitation(args.invitation)
        if invitation.network.genesis != CHAINS[invitation.network.chain].genesis:
            raise DevnetError("the invitation is to a chain that this version does not know", hint="Update Dux OS.")
        # Whoever knows the name of a wallet on that chain may use it.
        wallet = f"wallet/{secrets.token_hex(16)}"
        layout = lay_out_guest(args.folder, invitation, wallet)
        return Guest(layout, invitation, wallet).run()
    except (DuxError, Refused) as error:
        hint = error.hint if isinstance(error, DuxError) else ""
        message = error.message if isinstance(error, DuxError) else str(error)
        tell("failed", message=message, hint=hint, log=tails(args.folder))
        return 1
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
