"""This node's own record: what it is, what it offers, where it can be reached; announced again and again."""

import asyncio
import ipaddress
import json
import logging
import os
import platform
import shutil
import socket
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from duxcommon import __version__
from duxcommon.api.common import Address, Hash32
from duxcommon.api.flopd import KeyInfo
from duxcommon.api.registryd import Hardware, NodeInfo, NodeRecord
from duxcommon.db import Store
from duxcommon.errors import ClockWrong, DuxError
from duxcommon.rpc import Client

from .directory import Directory
from .nodes import KIND, Nodes
from .settings import RegistrydSettings, Role
from .signing import Signer
from .transport import Transport

log = logging.getLogger("heartbeat")

GATHER_S = 0.1
"""Changes that come together go out together."""
LEAST_GAP_S = 1.0
"""Between two records, whatever changes."""
ASK_PAYOUT_S = 5.0
MAX_ADDRESSES = 8


class OwnNode(BaseModel):
    """What this node is: its configuration, and what the owner, taskd and flopd said since."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    roles: list[Role]
    accepting: bool = False
    apps: list[Hash32] = []
    load_pct: int = 0
    payout_address: Address | None = None


class Heartbeat:
    """Owns the node's record. `changed` beats at once, `run` beats every `heartbeat_s`."""

    def __init__(
        self,
        settings: RegistrydSettings,
        store: Store,
        *,
        transport: Transport,
        directory: Directory,
        nodes: Nodes,
        signer: Signer,
    ) -> None:
        self._settings = settings
        self._store = store
        self._transport = transport
        self._directory = directory
        self._nodes = nodes
        self._signer = signer
        self._wake = asyncio.Event()
        self._announced = False
        self._changing = asyncio.Lock()
        row = store.read(lambda c: c.execute("SELECT settings FROM own").fetchone())
        self._said: dict[str, object] = json.loads(row["settings"]) if row else {}
        """What was said at run time; it goes before the configuration."""
        self.own = self._merged(self._said)

    def _merged(self, said: dict[str, object]) -> OwnNode:
        name = self._settings.name or socket.gethostname().partition(".")[0][:64] or "node"
        return OwnNode.model_validate({"name": name, "roles": self._settings.roles, **said})

    def configure(self, settings: RegistrydSettings) -> None:
        """Take new settings (on reload)."""
        self._settings = settings
        self.own = self._merged(self._said)
        self._wake.set()

    @property
    def announced(self) -> bool:
        """Another node has stored our last record."""
        return self._announced

    async def change(self, *, now: bool = True, **fields: object) -> NodeInfo:
        """Set what is given and not None; unless `now` is false it is announced at once."""
        async with self._changing:
            said = self._said | {name: value for name, value in fields.items() if value is not None}
            if said != self._said:
                own, text = self._merged(said), json.dumps(said)
                await self._store.write(lambda c: c.execute("REPLACE INTO own VALUES (1, ?)", (text,)))
                self._said, self.own = said, own
                try:
                    await self._renew()
                except ClockWrong:
                    # It is announced with the first heartbeat after the clock was set.
                    if not self._nodes.knows(self._signer.node_id):
                        raise
                if now:
                    self._wake.set()
        return self._nodes.show(self._signer.node_id)

    def record(self) -> NodeRecord:
        """The body as of now."""
        own = self.own
        return NodeRecord(
            name=own.name,
            addresses=self.addresses(),
            relay=self._transport.relay(),
            payout_address=own.payout_address,
            roles=own.roles,
            hardware=hardware(self._settings.blobs_dir),
            apps=own.apps,
            load_pct=own.load_pct,
            accepting=own.accepting,
            version=__version__,
            heartbeat_s=self._settings.heartbeat_s,
        )

    def addresses(self) -> list[str]:
        """Where others can reach this node: what the owner forwards first, then what the endpoint knows."""
        found = [*self._settings.external_addresses, *self._transport.addresses()]
        return [address for address in dict.fromkeys(found) if _useful(address)][:MAX_ADDRESSES]

    async def _renew(self) -> None:
        # Above what it had before: on a clock that was set back, the time alone would not be.
        seq = self._signer.next_seq(self._nodes.last_seq(self._signer.node_id))
        record = self._signer.sign(KIND, seq, self.record().model_dump(mode="json"))
        await self._nodes.arrived(record)
        self._latest = record

    async def first(self) -> None:
        """Make the record before anything asks for it; without a clock that can be believed it comes later."""
        try:
            await self._renew()
        except ClockWrong as error:
            log.warning("this node can't be announced: " + error.message, extra={"hint": error.hint})

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            begun = time.monotonic()
            try:
                await self._renew()
                self._announced = await self._directory.announce(self._latest)
            except DuxError as error:
                # A full disk too: the node stays reachable, and its record is renewed once there is room.
                log.warning("this node can't be announced: " + error.message)
            try:
                # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the event.
                # From the beginning on: a neighbour that is slow to store a record must not make the next one late.
                async with asyncio.timeout(max(0.0, begun + self._settings.heartbeat_s - time.monotonic())):
                    await self._wake.wait()
                await asyncio.sleep(max(GATHER_S, LEAST_GAP_S - (time.monotonic() - begun)))
            except TimeoutError:
                pass
            self._wake.clear()

    async def learn_payout(self, flopd: Client) -> None:
        """Ask flopd for the payout address until it answers."""
        while True:
            try:
                info = await flopd.call("key.payout", KeyInfo, timeout=10.0)
                await self.change(payout_address=info.address)
                return
            except DuxError as error:
                # Locked, or not started yet: both end by themselves.
                log.debug("no payout address yet", extra={"why": error.message})
            await asyncio.sleep(ASK_PAYOUT_S)


def _useful(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_unspecified
    except ValueError:
        # A name instead of an address: others could not use it.
        return False


def hardware(disk: Path) -> Hardware:
    """What this machine has: cores it may use, memory, free space beside the payloads."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Hardware(
        cpu_cores=len(os.sched_getaffinity(0)),
        memory_mb=max(1, pages * page >> 20),
        storage_mb=shutil.disk_usage(disk).free >> 20,
        arch=platform.machine()[:32],
    )
