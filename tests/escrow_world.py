"""A model of a chain and of flopd in memory, and escrowd's real services over it, for tests with many short histories.

Transactions are real and run through the script engine; only blocks, the mempool and the wallet are modelled.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dux_escrowd.desk import Desk
from dux_escrowd.schema import MIGRATIONS
from dux_escrowd.services import Services
from dux_escrowd.settings import EscrowSettings
from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import ChannelAck, ChannelContract, CloseReply, ProviderTerms, SignedState
from duxcommon.api.flopd import (
    ChainStatus,
    KeyInfo,
    NetworkLabel,
    PrevOut,
    TxIntent,
    Watched,
    WatchedOutput,
)
from duxcommon.coin import script as coin_script
from duxcommon.coin import tx as coin_tx
from duxcommon.coin.params import DEVNET
from duxcommon.db import Store
from duxcommon.errors import PeerUnreachable, TxRejected, WalletLocked
from duxcommon.identity import Identity
from duxcommon.money import COIN
from duxcommon.network import Member, NetworkDefinition
from duxcommon.rulebook import Book
from duxcommon.rulekeeper import first_book
from tests.escrow_kit import secret

FUND_FEE = 224_000


def network() -> NetworkDefinition:
    """One guardian and one arbiter, the same in every run."""
    guardian, arbiter = (Identity(secret(name)) for name in ("guardian", "arbiter node"))
    key = coin_script.pubkey_of(secret("guardian key")).hex()
    return NetworkDefinition(
        name="model",
        chain="devnet",
        genesis=DEVNET.genesis,
        birth_height=0,
        bootstrap=[],
        guardians=[Member(node=guardian.node_id, pubkey=key)],
        guardians_m=1,
        arbiters=[Member(node=arbiter.node_id, pubkey=coin_script.pubkey_of(secret("arbiter")).hex())],
    ).signed_by(guardian)


@dataclass
class ModelTx:
    txid: str
    raw: str
    outputs: list[tuple[bytes, int]]
    spends: list[tuple[str, int]]
    height: int | None = None


@dataclass
class World:
    """One chain for all nodes."""

    height: int = 1000
    txs: dict[str, ModelTx] = field(default_factory=dict)
    fork: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    """Raw transaction → data of the note that it carries, which the model does not write into it."""

    def spender(self, outpoint: tuple[str, int]) -> ModelTx | None:
        found = [tx for tx in self.txs.values() if outpoint in tx.spends]
        return found[0] if found else None

    def send(self, raw: str) -> str:
        """Into the mempool, by the rules of a node."""
        tx = coin_tx.parse_tx(raw)
        txid = coin_tx.txid_of(tx)
        if txid in self.txs:
            return txid
        spends = [coin_tx.outpoint_of(txin) for txin in tx.vin]
        prevouts = []
        for outpoint in spends:
            source = self.txs.get(outpoint[0])
            if source is not None:
                prevouts.append(source.outputs[outpoint[1]])
            if self.spender(outpoint) is not None:
                raise TxRejected("txn-mempool-conflict")
        if prevouts:
            coin_tx.verify_tx(tx, prevouts)
            assert all(output.value >= 1_000_000 for output in tx.vout), "dust"
        if tx.lock_time > self.height:
            raise TxRejected("non-final")
        outputs = [(output.script_pub_key.script, output.value) for output in tx.vout]
        self.txs[txid] = ModelTx(txid, raw, outputs, spends)
        return txid

    def mine(self, blocks: int = 1) -> None:
        self.height += blocks
        for tx in self.txs.values():
            if tx.height is None:
                tx.height = self.height - blocks + 1

    def reorg(self, depth: int) -> None:
        """The last blocks are replaced by as many empty ones; what was in them waits again."""
        self.fork += 1
        for tx in self.txs.values():
            if tx.height is not None and tx.height > self.height - depth:
                tx.height = None

    def malleate(self, txid: str) -> str | None:
        """A miner gives an unconfirmed transaction another id."""
        tx = self.txs[txid]
        if tx.height is not None or any(self.spender((txid, n)) for n in range(len(tx.outputs))):
            return None
        del self.txs[txid]
        other = hashlib.sha256(txid.encode()).hexdigest()
        self.txs[other] = ModelTx(other, tx.raw, tx.outputs, tx.spends)
        return other

    def paid_to(self, script: bytes) -> int:
        """Sum of the unspent outputs of a script."""
        return sum(
            amount
            for tx in self.txs.values()
            for n, (paid, amount) in enumerate(tx.outputs)
            if paid == script and self.spender((tx.txid, n)) is None
        )


class ModelFlopd:
    """What escrowd asks of flopd, over the model."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.signed = 0
        self.is_locked = False
        self.asked_lock = 0
        self._keys: dict[str, bytes] = {}
        self._scripts: dict[str, bytes] = {}
        self._intents: dict[str, TxIntent] = {}
        self._coins = itertools.count()

    def _key(self, ref: str) -> bytes:
        key = secret(f"{self.name}/{ref}")
        self._keys[coin_script.pubkey_of(key).hex()] = key
        return key

    def _info(self, ref: str) -> KeyInfo:
        pubkey = coin_script.pubkey_of(self._key(ref))
        address = coin_script.address_of(coin_script.p2pkh_script(pubkey), DEVNET)
        assert address is not None
        return KeyInfo(pubkey=pubkey.hex(), address=address)

    async def status(self) -> ChainStatus:
        best = hashlib.sha256(f"{self.world.height}/{self.world.fork}".encode()).hexdigest()
        return ChainStatus(
            network=NetworkLabel(name="model", chain="devnet", worthless=True),
            genesis=DEVNET.genesis,
            height=self.world.height,
            headers=self.world.height,
            best=best,
            syncing=False,
            peers=1,
            dialect="flopcoin",
            version="/model/",
        )

    async def locked(self) -> str | None:
        self.asked_lock += 1
        return "the test locked it" if self.is_locked else None

    async def payout(self) -> KeyInfo:
        return self._info("payout")

    async def new_key(self, ref: str) -> KeyInfo:
        return self._info(ref)

    async def watch(self, script: bytes, ref: str, birth_height: int) -> Watched:
        self._scripts[ref] = script
        return await self.watched(ref)

    async def watched(self, ref: str) -> Watched:
        script, outputs = self._scripts[ref], []
        for tx in self.world.txs.values():
            for n, (paid, amount) in enumerate(tx.outputs):
                if paid != script:
                    continue
                spender = self.world.spender((tx.txid, n))
                outputs.append(
                    WatchedOutput(
                        txid=tx.txid,
                        vout=n,
                        amount=amount,
                        height=tx.height,
                        confirmations=0 if tx.height is None else self.world.height - tx.height + 1,
                        note=self.world.notes.get(tx.raw),
                        spender_txid=spender.txid if spender else None,
                        spender_height=spender.height if spender else None,
                        spender_confirmations=0,
                        spender_hex=spender.raw if spender else None,
                    )
                )
        outputs.sort(key=lambda o: (o.height is None, o.height or 0, o.txid))
        return Watched(ref=ref, script=script.hex(), height=self.world.height, outputs=outputs)

    async def fund(self, script: bytes, amount: int, note: bytes, key: str, ref: str) -> TxIntent:
        known = self._intents.get(key)
        if known is not None:
            return known
        coin = hashlib.sha256(f"{self.name}/coin/{next(self._coins)}".encode()).hexdigest()
        tx = coin_tx.make_tx([(coin, 0)], [(script, amount)])
        raw, txid = coin_tx.serialize_tx(tx).hex(), coin_tx.txid_of(tx)
        self.world.notes[raw] = note.hex()
        self._intents[key] = TxIntent(
            id=hashlib.sha256(key.encode()).hexdigest()[:32], state="built", txid=txid, hex=raw, fee=FUND_FEE,
            purpose="fund", ref=ref, confirmations=0, height=None,
        )  # fmt: skip
        return self._intents[key]

    def _find(self, intent: str) -> tuple[str, TxIntent]:
        return next((key, known) for key, known in self._intents.items() if known.id == intent)

    async def broadcast(self, intent: str) -> TxIntent:
        key, known = self._find(intent)
        if known.state == "built":
            self.world.send(known.hex)
            self._intents[key] = known.model_copy(update={"state": "sent"})
        return self._intents[key]

    async def cancel(self, intent: str) -> TxIntent:
        key, known = self._find(intent)
        assert known.state == "built"
        self._intents[key] = known.model_copy(update={"state": "cancelled"})
        return self._intents[key]

    async def intent(self, intent: str) -> TxIntent:
        _, known = self._find(intent)
        for tx in self.world.txs.values():
            if tx.raw == known.hex and tx.txid != known.txid:
                return known.model_copy(update={"txid": tx.txid})
        return known

    async def submit(self, raw: str, key: str, purpose: str, ref: str) -> TxIntent:
        txid = self.world.send(raw)
        return TxIntent(
            id="0" * 32, state="sent", txid=txid, hex=raw, fee=0, purpose=purpose, ref=ref, confirmations=0, height=None
        )

    async def sign(self, raw: str, prevouts: Sequence[PrevOut], pubkey: str) -> list[str]:
        if self.is_locked:
            raise WalletLocked("the wallet is locked")
        self.signed += 1
        tx, key = coin_tx.parse_tx(raw), self._keys[pubkey]
        return [coin_tx.sign_input(tx, n, bytes.fromhex(p.redeem), key).hex() for n, p in enumerate(prevouts)]


class ModelPeers:
    """The wire: calls arrive at once, and may get lost on the way there or back."""

    def __init__(self, me: str, others: dict[str, "House"]) -> None:
        self._me = me
        self._others = others
        self.lose_request = False
        self.lose_reply = False

    def _services(self, node: str) -> Services:
        if self.lose_request:
            raise PeerUnreachable("nobody there")
        return self._others[node].services

    def _back(self) -> None:
        if self.lose_reply:
            raise PeerUnreachable("the connection broke")

    async def propose(self, node: str, buyer_pubkey: str, arbiter_pubkey: str) -> ProviderTerms:
        return await self._services(node).serving.propose(self._me, buyer_pubkey, arbiter_pubkey)

    async def funded(self, node: str, contract: ChannelContract, deposits: Sequence[Deposit]) -> ChannelAck:
        return await self._services(node).serving.funded(self._me, contract, deposits)

    async def state(self, node: str, state: SignedState) -> ChannelAck:
        answer = await self._services(node).serving.state(self._me, state)
        self._back()
        return answer

    async def settle(self, node: str, channel: str, state: SignedState | None) -> CloseReply:
        answer = await self._services(node).closing.settle(self._me, channel, state)
        self._back()
        return answer


class ModelRules:
    """What a node knows of the rules: a book that the test sets, and one that airdropd would tell when asked."""

    def __init__(self) -> None:
        self.book = first_book(network())
        self.told: Book | None = None
        """None: airdropd is down."""
        self.trouble = "airdropd does not answer"
        self.asked = 0

    async def refresh(self) -> Book:
        self.asked += 1
        self.book = self.told or self.book
        return self.book


class House:
    """One node's escrowd without its socket: the database on disk, the services over it, restarts."""

    def __init__(self, folder: Path, name: str, world: World, others: dict[str, "House"], **settings: Any) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.id = Identity(secret(f"node {name}")).node_id
        self.flopd = ModelFlopd(world, name)
        self.peers = ModelPeers(self.id, others)
        self.rules = ModelRules()
        self.settings = EscrowSettings(state_dir=self.folder, log_dir=None, **settings)
        others[self.id] = self
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> "House":
        self.store = Store(self.folder / "escrowd.sqlite", MIGRATIONS)
        desk = Desk(self.store, self.flopd, self.peers, self.rules, network(), self.settings)  # type: ignore[arg-type]
        self.services = Services.at(desk)
        self._loops = [
            asyncio.create_task(desk.outbox.run()),
            asyncio.create_task(self.services.watcher.run_sent()),
        ]
        await self.look()
        self.services.pusher.start()
        return self

    async def look(self) -> None:
        """What the daemon's loop does at a new block."""
        self.services.desk.tip = (await self.flopd.status()).height
        await self.services.watcher.look()

    async def stop(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.services.stop()
        await self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()


async def market(folder: Path, world: World, **settings: Any) -> tuple[House, House]:
    """A buyer and a provider."""
    others: dict[str, House] = {}
    provider = House(folder, "alice", world, others, **settings)
    buyer = House(folder, "bob", world, others)
    await provider.start()
    await buyer.start()
    return buyer, provider


async def opened(buyer: House, provider: House, world: World, usable: int = 20 * COIN) -> str:
    """An open channel; its id."""
    row = await buyer.services.channels.open(provider.id, usable, f"open/{world.height}")
    world.mine(6)
    await buyer.look()
    await provider.look()
    return row.id
