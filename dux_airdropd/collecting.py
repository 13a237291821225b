"""The leader's part: ask the other guardians, believe nothing, put the good signatures together.

A guardian may be dead, silent, locked, behind, of another opinion, or lying. Each answer is checked against the bytes
that this node computed itself; the transaction goes out as soon as enough are good, whoever else stays silent.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from btclib.tx import Tx

from duxcommon.api.airdropd import Cosigned
from duxcommon.api.common import NodeId
from duxcommon.coin import multisig
from duxcommon.errors import (
    DaemonDown,
    DuxError,
    EligibilityDiffers,
    NothingToSign,
    PeerMisbehaved,
    PeerUnreachable,
    RulesPending,
    TimedOut,
    TransactionDiffers,
    UnknownNode,
    WalletLocked,
)

from .drafts import Draft
from .ports import Registryd, Rules
from .signing import Signing, node_of, signers

Outcome = Literal["signed", "locked", "silent", "behind", "differs", "false-signatures", "refuses"]

_OUTCOMES: tuple[tuple[tuple[type[DuxError], ...], Outcome], ...] = (
    ((WalletLocked,), "locked"),
    ((PeerUnreachable, UnknownNode, TimedOut, DaemonDown), "silent"),
    ((NothingToSign, RulesPending, EligibilityDiffers), "behind"),
    ((TransactionDiffers,), "differs"),
    ((PeerMisbehaved,), "false-signatures"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of asking one guardian."""

    outcome: Outcome
    text: str
    time: int
    """Unix time."""
    signatures: tuple[bytes | None, ...] = ()


@dataclass(slots=True)
class Collection:
    """The signatures of one draft, so far."""

    draft: Draft
    answers: dict[str, Answer] = field(default_factory=dict)
    """By public key, hex."""

    @property
    def by_key(self) -> dict[bytes, tuple[bytes | None, ...]]:
        """The good signatures."""
        return {bytes.fromhex(key): each.signatures for key, each in self.answers.items() if each.outcome == "signed"}

    @property
    def complete(self) -> bool:
        """Whether every input has enough."""
        unsigned, by_key = self.draft.unsigned, self.by_key
        for redeem in set(unsigned.redeems):
            script = multisig.parse_multisig(redeem)
            if script is None or sum(key in by_key for key in script.keys) < script.m:
                return False
        return True


class Collecting:
    """Keeps what the guardians said of the drafts that are in work."""

    def __init__(self, signing: Signing, registryd: Registryd, rules: Rules) -> None:
        self._signing = signing
        self._registryd = registryd
        self._rules = rules
        self.collections: dict[str, Collection] = {}
        """By the draft's unsigned id."""
        self.heard: dict[str, int] = {}
        """Public key → Unix time of the last answer of that guardian."""

    def of(self, draft: Draft) -> Collection:
        """The collection of a draft."""
        return self.collections.setdefault(draft.txid, Collection(draft))

    def forget(self, keep: Mapping[str, Draft]) -> None:
        """Drop what is about other drafts."""
        self.collections = {txid: each for txid, each in self.collections.items() if txid in keep}

    async def own(self, draft: Draft) -> Answer:
        """This node's part; it is in the collection afterwards under its key. Raises NotGuardian, WalletLocked, …"""
        made = await self._signing.own(draft)
        answer = Answer("signed", "", int(time.time()), _signatures(made))
        self.of(draft).answers[made.pubkey] = answer
        return answer

    async def collect(self, draft: Draft, *, everybody: bool = False) -> Collection:
        """Ask those whose signatures are not here, all at once, until there are enough (or `everybody` answered)."""
        collection = self.of(draft)
        asked = [
            asyncio.create_task(self._ask(collection, key), name=f"ask {key[:16]}")
            for key in sorted(signers(draft))
            if key not in collection.answers or collection.answers[key].outcome != "signed"
        ]
        try:
            for done in asyncio.as_completed(asked):
                await done
                if collection.complete and not everybody:
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return collection

    async def _ask(self, collection: Collection, pubkey: str) -> None:
        draft = collection.draft
        node = node_of(self._rules.book(), pubkey)
        if node is None:
            text = "nobody here knows its node: the proposal's document was not found yet"
            collection.answers[pubkey] = Answer("silent", text, int(time.time()))
            return
        answer = collection.answers[pubkey] = await self._answer(node, pubkey, draft)
        if answer.outcome != "silent":
            self.heard[pubkey] = answer.time

    async def _answer(self, node: NodeId, pubkey: str, draft: Draft) -> Answer:
        try:
            made = await self._registryd.cosign(node, draft.sequence, draft.batch, draft.txid)
        except DuxError as error:
            found = [each for kinds, each in _OUTCOMES if isinstance(error, kinds)]
            return Answer(found[0] if found else "refuses", f"{error.name}: {error.message}", int(time.time()))
        signatures = _signatures(made)
        fault = "it answered for another key" if made.pubkey != pubkey else ""
        if not fault:
            key, unsigned = bytes.fromhex(pubkey), draft.unsigned
            faults = await asyncio.to_thread(multisig.faults, unsigned.tx, unsigned.redeems, {key: signatures})
            fault = faults.get(key, "")
        if fault:
            return Answer("false-signatures", fault, int(time.time()))
        return Answer("signed", "", int(time.time()), signatures)


def _signatures(made: Cosigned) -> tuple[bytes | None, ...]:
    return tuple(bytes.fromhex(each) if each is not None else None for each in made.signatures)


def finished(collection: Collection) -> Tx:
    """The signed transaction, as the script engine accepts it. Raises SignaturesMissing, ScriptRefused."""
    unsigned = collection.draft.unsigned
    tx = multisig.merge(unsigned.tx, unsigned.redeems, collection.by_key)
    multisig.verify(tx, unsigned.redeems, [coin.amount for coin in unsigned.inputs])
    return tx
