"""What airdropd asks of others: of governance, mounted in it, the rules and what was decided to be spent; of the other
daemons of the node, typed calls and nothing else.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from duxcommon.api.airdropd import Cosigned
from duxcommon.api.common import Hash32, NodeId
from duxcommon.api.flopd import ChainStatus, Cosignature, KeyInfo, PrevOut, Transaction, TxIntent, Watched
from duxcommon.api.registryd import EligiblePage, Identity, PeerReply
from duxcommon.errors import EligibilityDiffers, PeerMisbehaved
from duxcommon.money import MAX_MONEY
from duxcommon.rpc import Client
from duxcommon.rulebook import Book

# --- governance ------------------------------------------------------------------------------------------------------


class ApprovedSpend(Protocol):
    """A proposal to spend from the fund that was accepted."""

    @property
    def proposal(self) -> Hash32:
        """Its id."""
        ...

    @property
    def script(self) -> bytes:
        """The output script to pay."""
        ...

    @property
    def amount(self) -> int:
        """In koinu, at least DUST."""
        ...

    @property
    def from_height(self) -> int:
        """In force from this block on."""
        ...


class Rules(Protocol):
    """The rules as far as the chain has decided them. Everything is a pure function of the blocks read so far."""

    def book(self) -> Book:
        """The rule book; it grows with the chain."""
        ...

    def spends_in_force(self, height: int) -> Sequence[ApprovedSpend]:
        """All spends in force at a height, executed or not, in the order in which they are to be carried out.

        By `from_height`, then by the place of the proposal. Which of them were carried out is read from the fund's own
        transactions. Raises RulesPending above the book's `known_to`.
        """
        ...


# --- eligibility -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Eligible:
    """Who has a share at a snapshot."""

    height: int
    total: int
    digest: Hash32
    """SHA-256 of all keys, ascending."""
    keys: tuple[bytes, ...]
    """Compressed public keys, ascending; empty where only the total was asked for."""
    share: int = MAX_MONEY
    """The largest share that all of them can have."""
    full: bool = True
    """The cap on shares holds nothing back."""


class EligibleAt(Protocol):
    """registryd's `node.eligible`."""

    async def total(self, height: int) -> Eligible:
        """How many have a share at a snapshot, without their keys. Raises RulesPending and DuxError."""
        ...

    async def keys(self, height: int) -> Eligible:
        """All of them; the digest was checked against the keys. Raises RulesPending and DuxError."""
        ...


# --- the other daemons of the node -----------------------------------------------------------------------------------

PAGE = 5000
STATUS_TIMEOUT_S = 10.0
PEER_TIMEOUT_S = 20.0


class Flopd:
    """The node's chain and keys. Every method raises what flopd answers, and DaemonDown."""

    def __init__(self, client: Client) -> None:
        self._call = client.call

    async def status(self) -> ChainStatus:
        """Where the chain is now."""
        return await self._call("chain.status", ChainStatus, timeout=STATUS_TIMEOUT_S)

    async def wait(self, best: str, timeout_s: float) -> ChainStatus:
        """Returns as soon as the tip is not `best` any more, at the latest after `timeout_s` seconds."""
        params = {"best": best, "timeout_s": timeout_s}
        return await self._call("chain.wait", ChainStatus, params, timeout=timeout_s + 30)

    async def watch(self, script: bytes, ref: str, birth_height: int) -> Watched:
        """Follow all outputs that pay `script`, from a height on."""
        params = {"script": script.hex(), "ref": ref, "birth_height": birth_height}
        return await self._call("chain.watch", Watched, params)

    async def watched(self, ref: str, min_height: int) -> Watched:
        """Outputs that pay a watched script and appeared or were spent from a height on, and unconfirmed ones."""
        return await self._call("chain.watched", Watched, {"ref": ref, "min_height": min_height})

    async def spender(self, txid: str) -> Transaction:
        """The bytes of a confirmed transaction that spent from the fund."""
        return await self._call("chain.spender", Transaction, {"txid": txid})

    async def guardian(self) -> KeyInfo:
        """The node's guardian key."""
        return await self._call("key.guardian", KeyInfo)

    async def cosign(self, raw: str, prevouts: Sequence[PrevOut]) -> Cosignature:
        """The guardian key's signatures of a transaction of the fund."""
        params = {"hex": raw, "prevouts": [prevout.model_dump() for prevout in prevouts]}
        return await self._call("tx.cosign", Cosignature, params)

    async def submit(self, raw: str, key: str, purpose: str, ref: str) -> TxIntent:
        """Commit and send a fully signed transaction; flopd sends it again until it is confirmed."""
        return await self._call("tx.submit", TxIntent, {"hex": raw, "key": key, "purpose": purpose, "ref": ref})


class Registryd:
    """Eligibility, and the way to the other guardians."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def node(self) -> NodeId:
        """This node's id."""
        return (await self._client.call("node.self", Identity)).node

    async def total(self, height: int) -> Eligible:
        """See EligibleAt."""
        page = await self._page(height, None, 0)
        return Eligible(height, page.total, page.digest, (), page.share, page.full)

    async def keys(self, height: int) -> Eligible:
        """See EligibleAt. Raises EligibilityDiffers when the pages don't fit together."""
        keys: list[bytes] = []
        after: str | None = None
        digests = set()
        while True:
            page = await self._page(height, after, PAGE)
            digests.add(page.digest)
            keys += [bytes.fromhex(item.pubkey) for item in page.keys]
            if page.next is None:
                break
            after = page.next
        digest = hashlib.sha256(b"".join(keys)).hexdigest()
        if digests != {digest} or keys != sorted(set(keys)):
            raise EligibilityDiffers(f"the keys that are eligible at block {height} changed while they were read")
        return Eligible(height, len(keys), digest, tuple(keys), page.share, page.full)

    async def _page(self, height: int, after: str | None, limit: int) -> EligiblePage:
        params = {"height": height, "after": after, "limit": limit}
        return await self._client.call("node.eligible", EligiblePage, params, timeout=120.0)

    async def cosign(self, node: NodeId, sequence: int, batch: int | None, unsigned: str) -> Cosigned:
        """Another guardian's signatures of what it computed itself. Raises what it answers, and PeerMisbehaved."""
        params = {"sequence": sequence, "batch": batch, "unsigned": unsigned}
        request = {"node": node, "method": "airdrop.cosign", "params": params, "timeout_s": PEER_TIMEOUT_S}
        answer = await self._client.call("peer.call", PeerReply, request, timeout=PEER_TIMEOUT_S + 10)
        try:
            return Cosigned.model_validate(answer.result)
        except ValidationError as error:
            raise PeerMisbehaved(f"node {node[:16]}… answered something else than signatures") from error
