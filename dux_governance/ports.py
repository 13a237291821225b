"""What governance asks of the daemon that mounts it, and typed calls to the other daemons of the node."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from duxcommon.api.airdropd import FundAt, SpentFrom
from duxcommon.api.common import NodeId, Ok, PubKey
from duxcommon.api.flopd import Approval, BlockRef, KeyInfo, NoteFact, NotePage, Place, TxIntent, TxOutput
from duxcommon.api.governance import DocumentText
from duxcommon.api.registryd import EligiblePage, Identity, NodePage, PeerReply, Standing
from duxcommon.errors import PeerMisbehaved, RulesPending
from duxcommon.rpc import Client

PAGE = 5000
NOTES = 1000
ELIGIBLE_TIMEOUT_S = 150.0
PEER_TIMEOUT_S = 15.0
LIVE_NODES = 50

Event = Callable[[sqlite3.Connection, str, str, dict[str, Any]], None]
"""Inside a write: note an event (name, kind, body) for the signed event log."""


@dataclass(frozen=True, slots=True)
class Qualified:
    """What registryd says of who has qualified work."""

    keys: frozenset[PubKey]
    tips: frozenset[tuple[int, str]]
    """Height and hash of the last block that registryd had read, for each page of the answer."""


class Fund(Protocol):
    """The community fund as the chain shows it, read up to where governance is asked about."""

    def at(self, height: int) -> FundAt:
        """What the fund could pay at a height, and what it paid. Raises RulesPending."""
        ...

    def rounds(self, before: int | None, limit: int) -> Sequence[SpentFrom]:
        """Its transactions below a sequence, the newest first."""
        ...

    def executed(self) -> dict[str, str]:
        """Proposal → the confirmed transaction that carried it out."""
        ...


class Flopd:
    """The node's wallet, keys and chain. Every method raises what flopd answers, and DaemonDown."""

    def __init__(self, client: Client) -> None:
        self._call = client.call

    async def payout(self) -> KeyInfo:
        """The node's payout key, which votes."""
        return await self._call("key.payout", KeyInfo)

    async def guardian(self) -> KeyInfo:
        """The node's guardian key, which approves if it is in force."""
        return await self._call("key.guardian", KeyInfo)

    async def approve(self, proposal: str) -> Approval:
        """The guardian key's signature under a proposal."""
        return await self._call("key.approve", Approval, {"proposal": proposal})

    async def fund(
        self, script: bytes, amount: int, *, data: bytes | None, key: str, purpose: str, ref: str, from_payout: bool
    ) -> TxIntent:
        """Build, sign and commit a payment; it is not sent."""
        params = {
            "outputs": [TxOutput(script=script.hex(), amount=amount).model_dump()],
            "data": None if data is None else data.hex(),
            "key": key,
            "purpose": purpose,
            "ref": ref,
            "from_payout": from_payout,
        }
        return await self._call("tx.fund", TxIntent, params)

    async def broadcast(self, intent: str) -> TxIntent:
        """Send a transaction that `fund` built."""
        return await self._call("tx.broadcast", TxIntent, {"id": intent})

    async def intent(self, intent: str) -> TxIntent:
        """What became of it."""
        return await self._call("tx.status", TxIntent, {"id": intent})

    async def holds(self, height: int, block_hash: str) -> bool:
        """Whether the block at a height is this one, as far as the chain has been read."""
        params = {"from_height": height, "to_height": height, "limit": 1}
        page = await self._call("chain.notes", NotePage, params)
        return page.tip == BlockRef(height=height, hash=block_hash)

    async def notes(self, from_height: int, to_height: int) -> list[NoteFact]:
        """All notes of these blocks. Raises RulesPending when the chain changes meanwhile."""
        found: list[NoteFact] = []
        after: Place | None = None
        tips = set()
        while True:
            params = {
                "from_height": from_height,
                "to_height": to_height,
                "after": None if after is None else after.model_dump(),
                "limit": NOTES,
            }
            page = await self._call("chain.notes", NotePage, params)
            found += page.facts
            tips.add((page.tip.height, page.tip.hash))
            if page.next is None:
                break
            after = page.next
        if len(tips) > 1 or min(tips)[0] < to_height:
            raise RulesPending("the chain is being reorganised; try again in a moment")
        return found


class Registryd:
    """Who may vote, and the way to other nodes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def node(self) -> NodeId:
        """This node's id."""
        return (await self._client.call("node.self", Identity)).node

    async def qualified(self, height: int) -> Qualified:
        """All payout keys with qualified work at a height. Raises RulesPending and what registryd answers."""
        keys: list[str] = []
        digests, tips = set(), set()
        after: str | None = None
        while True:
            params = {"height": height, "after": after, "limit": PAGE, "who": "qualified"}
            page = await self._client.call("node.eligible", EligiblePage, params, timeout=ELIGIBLE_TIMEOUT_S)
            keys += [one.pubkey for one in page.keys]
            digests.add(page.digest)
            tips.add((page.tip.height, page.tip.hash))
            if page.next is None:
                break
            after = page.next
        if digests != {hashlib.sha256(b"".join(map(bytes.fromhex, keys))).hexdigest()}:
            raise RulesPending(f"the keys with qualified work at block {height} changed while they were read")
        return Qualified(frozenset(keys), frozenset(tips))

    async def lacks(self, pubkey: PubKey, height: int) -> str:
        """What a key lacks to be qualified at a height; empty when it is. Raises RulesPending."""
        params = {"pubkey": pubkey, "height": height}
        standing = await self._client.call("node.standing", Standing, params, timeout=ELIGIBLE_TIMEOUT_S)
        return "; ".join(one.text for one in standing.missing if one.condition != "cap")

    async def live_nodes(self) -> Sequence[NodeId]:
        """Some nodes that are up."""
        page = await self._client.call("node.list", NodePage, {"limit": LIVE_NODES, "live": True})
        return [info.node for info in page.nodes]

    async def _peer(self, node: NodeId, method: str, params: dict[str, Any]) -> Any:
        request = {"node": node, "method": method, "params": params, "timeout_s": PEER_TIMEOUT_S}
        return (await self._client.call("peer.call", PeerReply, request, timeout=PEER_TIMEOUT_S + 10)).result

    async def document(self, node: NodeId, digest: str) -> DocumentText:
        """A document from another node; its hash is for the caller to check. Raises PeerMisbehaved."""
        try:
            return DocumentText.model_validate(await self._peer(node, "proposal.document", {"hash": digest}))
        except ValidationError as error:
            raise PeerMisbehaved(f"node {node[:16]}… answered something else than a document") from error

    async def offer(self, node: NodeId, document: DocumentText) -> None:
        """Give another node a document."""
        answer = await self._peer(node, "proposal.offer", {"document": document.model_dump()})
        try:
            Ok.model_validate(answer)
        except ValidationError as error:
            raise PeerMisbehaved(f"node {node[:16]}… answered the offer of a document with something else") from error
