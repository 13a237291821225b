"""Where everything lies that setting a machine up makes or moves. Tests and images put another root before it all."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from duxcommon.credential import WALLET

DAEMONS = ("flopd", "escrowd", "taskd", "sandbox", "registryd", "airdropd")
DROP_IN = "10-network.yaml"
"""Settings that a machine made, beside the owner's own in X.yaml and other drop-ins."""


@dataclass(frozen=True)
class Paths:
    """All paths below `root`; a root other than / belongs to whoever runs this, and users are not changed there."""

    root: Path = Path("/")

    @property
    def real(self) -> bool:
        """Whether this is the machine itself: files get their owners, and work is done by the users it belongs to."""
        return self.root == Path("/")

    @property
    def etc(self) -> Path:
        """The configuration."""
        return self.root / "etc/duxnet"

    @property
    def var(self) -> Path:
        """The state of all daemons."""
        return self.root / "var/lib/duxnet"

    @property
    def run(self) -> Path:
        """The sockets."""
        return self.root / "run/duxnet"

    @property
    def setup(self) -> Path:
        """What first boot made and remembers; root's alone."""
        return self.var / "setup"

    @property
    def network(self) -> Path:
        """The network definition; once it is there, first boot makes nothing anew."""
        return self.etc / "network.yaml"

    @property
    def chain_certificate(self) -> Path:
        """The certificate of a chain on another machine (PEM)."""
        return self.etc / "chain.pem"

    @property
    def devchain_users(self) -> Path:
        """Who may use this machine's trial chain; without it the chain does not run."""
        return self.etc / "devchain.users"

    @property
    def guest(self) -> Path:
        """The invitation to this machine's own trial network, for `dux-ctl demo`."""
        return self.var / "guest.yaml"

    @property
    def chain_password(self) -> Path:
        """flopd's password at its chain; in a folder of flopd's own user."""
        return self.state("flopd") / "chain.password"

    @property
    def keystore(self) -> Path:
        """The coin keys; in a folder of flopd's own user."""
        return self.state("flopd") / "keystore.json"

    @property
    def node_key(self) -> Path:
        """The node's key; in a folder of registryd's own user."""
        return self.state("registryd") / "node.key"

    @property
    def credential(self) -> Path:
        """The wallet's passphrase, encrypted for this machine."""
        return self.root / WALLET.relative_to("/")

    @property
    def host_key(self) -> Path:
        """systemd's key of this machine, which opens credentials."""
        return self.root / "var/lib/systemd/credential.secret"

    @property
    def live_medium(self) -> Path:
        """There on a system that was started from a live medium."""
        return self.root / "run/live/medium"

    @property
    def persistence(self) -> Path:
        """Holds a folder for each disk that keeps what a live system changes."""
        return self.root / "run/live/persistence"

    @property
    def live_marker(self) -> Path:
        """Made by first boot where everything is gone at power-off."""
        return self.run / "live"

    def state(self, daemon: str) -> Path:
        """Databases and keys of one daemon."""
        return self.var / daemon

    def config(self, daemon: str) -> Path:
        """The configuration of one daemon."""
        return self.etc / f"{daemon}.yaml"

    def drop_in(self, daemon: str) -> Path:
        """The settings that joining a network makes for one daemon."""
        return self.etc / f"{daemon}.d" / DROP_IN

    def user(self, daemon: str) -> str | None:
        """The user who does what belongs to `daemon`; None for ourselves, below another root."""
        return f"dux-{daemon}" if self.real and os.geteuid() == 0 else None

    def everything(self) -> Iterator[Path]:
        """What belongs to one network and is made anew for another: to be moved aside, never deleted."""
        for daemon in (*DAEMONS, "devchain"):
            yield self.state(daemon)
            yield self.drop_in(daemon)
        yield from (self.network, self.chain_certificate, self.devchain_users, self.guest, self.credential)
        yield from (self.setup / name for name in ("trial.json", "arbiter.json"))
