"""Starts dux-registryd: the node's key, calls between nodes, the directory, and the store that lives on it."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import NoReturn

from dux_store.listings import MIGRATIONS as STORE_MIGRATIONS
from dux_store.listings import Listings
from dux_store.methods import AppMethods
from dux_store.publishing import Publisher
from duxcommon.api.registryd import DirectoryStats
from duxcommon.blobs import BlobStore
from duxcommon.clock import CLOCK
from duxcommon.daemon import Daemon, run
from duxcommon.db import Store
from duxcommon.errors import DuxError
from duxcommon.identity import Identity
from duxcommon.rpc import Client
from duxcommon.rulekeeper import RuleKeeper

from .bonding import Bonding
from .chain import ChainFollower
from .database import MIGRATIONS
from .directory import Directory
from .eligibility_methods import EligibilityMethods
from .gateway import Gateway
from .heartbeat import Heartbeat
from .methods import BlobMethods, DirectoryMethods, NodeMethods, PeerMethods
from .nodes import KIND, Nodes
from .quota import Peers
from .settings import RegistrydSettings
from .signing import Signer
from .snapshots import Snapshots
from .transfers import Downloads, Offers
from .transport import Transport
from .uploads import Uploads
from .work import MIGRATIONS as WORK_MIGRATIONS
from .work import Ledger

FORGET_EVERY_S = 3600.0
DAY_S = 86_400


class Registryd(Daemon):
    """The node's key, its door to other nodes, the directory and the app store of Dux OS."""

    name = "registryd"
    settings_model = RegistrydSettings
    settings: RegistrydSettings

    async def start(self) -> None:
        """Open key and databases, bind both engines, join the network."""
        settings, network = self.settings, self.network
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.blobs_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        identity = Identity.load_or_create(settings.state_dir / "node.key")
        self.signer = Signer(identity, network.id, network.name, settings.signers)
        self.store = Store(settings.state_dir / "registryd.db", MIGRATIONS)
        self.store_db = Store(settings.state_dir / "store.db", STORE_MIGRATIONS)
        self.blobs = BlobStore(settings.blobs_dir)
        self.blobs.clear_unfinished()
        self.gateway = Gateway(self._client, self.signer)
        self.offers = Offers(self.store, self.blobs)
        peers = Peers(settings.peers)
        self.nodes = Nodes(self.store, identity.node_id, peers.latency_ms)
        self.transport = Transport(
            identity.secret,
            network.id,
            settings.peers,
            peers=peers,
            book=self.nodes.addresses,
            handler=self.gateway.serve,
            payloads=self.offers.send,
            connect_timeout_s=settings.connect_timeout_s,
            silence_s=settings.silence_s,
        )
        self.directory = Directory(identity.node_id, network.id, self.nodes.live)
        reserve = settings.min_free_mb << 20
        self.downloads = Downloads(self.transport, self.blobs, reserve)
        self.downloads.clear_old()
        self.uploads = Uploads(self.blobs, reserve)
        self.heartbeat = Heartbeat(
            settings,
            self.store,
            transport=self.transport,
            directory=self.directory,
            nodes=self.nodes,
            signer=self.signer,
        )
        self.listings = Listings(self.store_db, self.signer)
        self.publisher = Publisher(self.listings, self.directory, self.signer, self.blobs)
        self._follow_chain()
        await self._join()

    def _follow_chain(self) -> None:
        settings, flopd, airdropd = self.settings, self.rpc("flopd"), self.rpc("airdropd")
        self.work_db = Store(settings.state_dir / "work.sqlite", WORK_MIGRATIONS)
        keeper = RuleKeeper(settings.state_dir / "rules.json", airdropd, self.network)
        ledger = Ledger(self.work_db)
        self.chain = ChainFollower(self.network, self.work_db, keeper, ledger, flopd=flopd, airdropd=airdropd)
        self.snapshots = Snapshots(ledger, keeper, self.chain.fund_at)
        self.bonding = Bonding(self.store, ledger, flopd, auto=settings.auto_bond, windows=settings.bond_windows)

    async def _join(self) -> None:
        settings, network = self.settings, self.network
        await self.transport.start(settings.listen, settings.port, network.relays)
        self.directory.on(KIND, self.nodes.arrived)
        self.directory.start(settings.listen, settings.directory_port, self._to_ask(), lan=settings.lan_discovery)
        self.log.info(
            "joined",
            extra={
                "node": self.signer.node_id,
                "addresses": self.transport.addresses(),
                "directory_port": self.directory.port,
            },
        )
        await self.heartbeat.first()
        self.spawn(self.directory.run(), "directory")
        self.spawn(self.directory.catch_up(), "directory-catch-up")
        self.spawn(self.directory.tidy(), "directory-tidy")
        self.spawn(self.heartbeat.run(), "heartbeat")
        self.spawn(self.heartbeat.learn_payout(self.rpc("flopd")), "payout-address")
        self.spawn(self.publisher.start(), "store")
        self.spawn(self.chain.run(self.bonding), "follow the chain")
        self.spawn(self._forget(), "forget")

    def _client(self, daemon: str) -> Client:
        return Client(self.settings.run_dir / f"{daemon}.sock")

    async def _forget(self) -> None:
        while True:
            try:
                await self.nodes.doubt_the_future()
                # On a clock that has jumped ahead everything would seem old.
                if CLOCK.believable():
                    await self.nodes.forget_old()
                    own = {record.body["bundle"] for record in self.listings.own()}
                    before = time.time() - self.settings.keep_payloads_days * DAY_S
                    await asyncio.to_thread(self.blobs.forget_unused, before, own)
            except (DuxError, OSError) as error:
                self.log.warning("old nodes and payloads could not be forgotten", extra={"why": str(error)})
            await asyncio.sleep(FORGET_EVERY_S)

    async def stop(self) -> None:
        """Say goodbye to peers and leave the directory; safe after a start that failed half-way."""
        if hasattr(self, "uploads"):
            self.uploads.close()
        if hasattr(self, "directory"):
            self.directory.stop()
        for part in ("downloads", "transport"):
            if hasattr(self, part):
                await getattr(self, part).stop()
        for part in ("gateway", "store", "store_db", "work_db"):
            if hasattr(self, part):
                await getattr(self, part).close()

    async def reload(self, settings: RegistrydSettings) -> None:
        """Take what can change in a running node."""
        self.signer.configure(settings.signers)
        self.heartbeat.configure(settings)
        self.bonding.configure(auto=settings.auto_bond, windows=settings.bond_windows)
        for part in (self.downloads, self.uploads):
            part.configure(settings.min_free_mb << 20)

    def methods(self) -> Iterable[object]:
        """`node.* peer.* blob.* directory.* app.*`."""
        return (
            NodeMethods(self.network, self.nodes, self.heartbeat, self.signer),
            PeerMethods(self.transport, self.gateway, self.offers, self.downloads),
            BlobMethods(self.blobs, self.uploads),
            DirectoryMethods(self._stats),
            EligibilityMethods(self.snapshots, self.bonding, self.chain),
            AppMethods(self.listings, self.publisher, self.nodes, self.network),
        )

    def notes(self) -> list[str]:
        """What is not as it should be."""
        found = []
        if self._to_ask() and self.directory.nodes() == 0:
            found.append("no other node of the directory answers yet")
        if self.heartbeat.own.payout_address is None:
            found.append("flopd has not told the payout address yet")
        return found + self.chain.notes()

    def rules_version(self) -> int | None:
        return self.chain.rules_version()

    def _to_ask(self) -> list[str]:
        """Nodes of the directory to begin with."""
        return list(dict.fromkeys([*self.settings.bootstrap, *self.network.bootstrap]))

    def _stats(self) -> DirectoryStats:
        return DirectoryStats(
            records=self.directory.records(),
            dropped=dict(self.directory.dropped),
            dht_nodes=self.directory.nodes(),
        )


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run, and end without Python's own clean-up: the directory's engine could block it for good (see dht.py)."""
    status = run(Registryd, sys.argv[1:] if argv is None else argv)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
