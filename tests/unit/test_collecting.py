"""One guardian leads, the others answer as they like: nothing but enough good signatures moves the fund."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fund_kit import FIVE, some_keys
from fund_world import World

from dux_airdropd.collecting import Collecting, finished
from dux_airdropd.drafts import Draft
from dux_airdropd.manifest import digest_of
from dux_airdropd.plan import DEPTH
from dux_airdropd.ports import Registryd
from dux_airdropd.rounds import Rounds
from dux_airdropd.signing import Signing, signers
from duxcommon.api.airdropd import Cosigned
from duxcommon.api.flopd import BlockRef, Cosignature, KeyInfo, PrevOut, TxIntent
from duxcommon.api.registryd import EligibleKey, EligiblePage
from duxcommon.coin import multisig
from duxcommon.coin.tx import parse_tx, serialize_tx, txid_of, with_script_sigs
from duxcommon.errors import (
    DaemonDown,
    EligibilityDiffers,
    NotGuardian,
    NothingToSign,
    PeerMisbehaved,
    PeerUnreachable,
    SignaturesMissing,
    SignRefused,
    TransactionDiffers,
    WalletLocked,
)
from duxcommon.money import COIN, DUST
from duxcommon.network import Seat

NODES = {key.hex(): f"{number:064x}" for number, key in enumerate(FIVE.keys, 1)}
KEYS = some_keys(3)
ADDRESS = "dN46HqwP3Rfr2wSPVovHJwkePUwSj7Arif"


class Keys:
    """flopd of one guardian, as far as its keys go."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.locked = False
        self.refuses = False
        self.signed = 0
        self.submitted: list[str] = []

    async def guardian(self) -> KeyInfo:
        if self.locked:
            raise WalletLocked("the wallet is locked")
        return KeyInfo(pubkey=self.key.hex(), address=ADDRESS)

    async def cosign(self, raw: str, prevouts: list[PrevOut]) -> Cosignature:
        if self.locked:
            raise WalletLocked("the wallet is locked")
        if self.refuses:
            raise SignRefused("the transaction would pay too large a fee")
        self.signed += 1
        redeems = [bytes.fromhex(each.redeem) for each in prevouts]
        made = multisig.sign(parse_tx(raw), redeems, self.key, FIVE.secrets.get(self.key, b"\x01" * 32))
        return Cosignature(pubkey=self.key.hex(), signatures=[each.hex() if each else None for each in made])

    async def submit(self, raw: str, key: str, purpose: str, ref: str) -> TxIntent:
        self.submitted.append(raw)
        txid = txid_of(parse_tx(raw))
        return TxIntent(
            id="00" * 16,
            state="sent",
            txid=txid,
            hex=raw,
            fee=1,
            purpose=purpose,
            ref=ref,
            confirmations=0,
            height=None,
        )


Answering = Callable[[Draft], Awaitable[Cosigned]]


class Peers:
    """The other guardians' nodes."""

    def __init__(self) -> None:
        self.answers: dict[str, Answering] = {}
        self.asked: list[str] = []
        self.draft: Draft | None = None

    async def cosign(self, node: str, sequence: int, batch: int | None, unsigned: str) -> Cosigned:
        self.asked.append(node)
        assert self.draft is not None
        return await self.answers[node](self.draft)

    async def node(self) -> str:
        return "ff" * 32


def honest(key: bytes) -> Answering:
    async def answer(draft: Draft) -> Cosigned:
        made = multisig.sign(draft.unsigned.tx, draft.unsigned.redeems, key, FIVE.secrets[key])
        signatures = [each.hex() if each else None for each in made]
        return Cosigned(unsigned=draft.txid, pubkey=key.hex(), signatures=signatures)

    return answer


def failing(error: Exception) -> Answering:
    async def answer(draft: Draft) -> Cosigned:
        raise error

    return answer


async def never(draft: Draft) -> Cosigned:
    """Accepts the call and says nothing."""
    await asyncio.Event().wait()
    raise AssertionError


def lying(key: bytes, how: str) -> Answering:
    async def answer(draft: Draft) -> Cosigned:
        good = await honest(key)(draft)
        other = await honest(next(each for each in FIVE.keys if each != key))(draft)
        signatures = list(good.signatures)
        if how == "another's":
            return other
        if how == "another's under its key":
            signatures = list(other.signatures)
        elif how == "one wrong":
            signatures[1] = signatures[0]
        elif how == "one missing":
            signatures[1] = None
        elif how == "one too few":
            signatures.pop()
        elif how == "nonsense":
            signatures[0] = "00"
        return Cosigned(unsigned=draft.txid, pubkey=key.hex(), signatures=signatures)

    return answer


class Guardian:
    """The one that leads: real computing, real signatures, a real database; the others as the test says."""

    def __init__(self, world: World, key: bytes = FIVE.keys[0]) -> None:
        seats = [Seat(node=NODES[each.hex()], pubkey=each.hex()) for each in FIVE.keys]
        world.rules.versions[0] = world.rules.versions[0].model_copy(update={"guardians": seats})
        self.world = world
        self.flopd, self.peers = Keys(key), Peers()
        self.peers.answers = {NODES[each.hex()]: honest(each) for each in FIVE.keys}
        given: Any = (self.flopd, self.peers)
        self.signing = Signing(world.store, *given, world.fund, world.rules, world.drafts)
        self.collecting = Collecting(self.signing, given[1], world.rules)
        self.rounds = Rounds(world.store, given[0], world.fund, world.drafts, self.signing, self.collecting)

    def answer(self, number: int, answering: Answering) -> None:
        """What guardian `number` (of the keys ascending) does when it is asked."""
        self.peers.answers[NODES[FIVE.keys[number].hex()]] = answering

    async def collected(self, *, everybody: bool = False) -> dict[int, str]:
        """What each guardian's answer came to."""
        draft = self.peers.draft = await self.world.draft(DUE)
        await self.collecting.own(draft)
        async with asyncio.timeout(20):
            collection = await self.collecting.collect(draft, everybody=everybody)
        return {FIVE.keys.index(bytes.fromhex(key)): each.outcome for key, each in collection.answers.items()}


DUE = 110 + DEPTH


def run(body: Callable[[Guardian], Awaitable[None]], key: bytes = FIVE.keys[0]) -> None:
    async def main() -> None:
        world = World(keys=KEYS)
        try:
            await world.pay(20, DUST)
            await world.pay(105, 101 * COIN)
            await body(Guardian(world, key))
        finally:
            await world.close()

    asyncio.run(main())


def test_the_first_who_answer_are_enough_and_nobody_waits_for_the_silent() -> None:
    async def body(leader: Guardian) -> None:
        leader.answer(1, never)
        leader.answer(2, never)
        assert await leader.collected() == {0: "signed", 3: "signed", 4: "signed"}
        collection = next(iter(leader.collecting.collections.values()))
        tx = finished(collection)
        unsigned = collection.draft.unsigned
        multisig.verify(tx, unsigned.redeems, [coin.amount for coin in unsigned.inputs])

    run(body)


@pytest.mark.parametrize(
    "how", ["another's", "another's under its key", "one wrong", "one missing", "one too few", "nonsense"]
)
def test_a_liar_is_noticed_before_its_signatures_are_used(how: str) -> None:
    async def body(leader: Guardian) -> None:
        leader.answer(1, lying(FIVE.keys[1], how))
        leader.answer(2, never)
        leader.answer(3, failing(PeerUnreachable("it is off")))
        leader.answer(4, honest(FIVE.keys[4]))
        draft = leader.peers.draft = await leader.world.draft(DUE)
        await leader.collecting.own(draft)
        task = asyncio.create_task(leader.collecting.collect(draft))
        collection = leader.collecting.of(draft)
        async with asyncio.timeout(20):
            while len(collection.answers) < 4:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert collection.answers[FIVE.keys[1].hex()].outcome == "false-signatures"
        assert not collection.complete
        with pytest.raises(SignaturesMissing):
            finished(collection)

    run(body)


def test_each_reason_not_to_sign_has_its_own_name() -> None:
    async def body(leader: Guardian) -> None:
        leader.answer(1, failing(WalletLocked("the wallet is locked")))
        leader.answer(2, failing(TransactionDiffers("this node computed another transaction")))
        leader.answer(3, failing(NothingToSign("not yet")))
        leader.answer(4, failing(SignRefused("a fee of 1 FLOP")))
        assert await leader.collected(everybody=True) == {
            0: "signed", 1: "locked", 2: "differs", 3: "behind", 4: "refuses",
        }  # fmt: skip
        leader.answer(1, failing(PeerMisbehaved("it answered something else than signatures")))
        leader.answer(2, failing(PeerUnreachable("it is off")))
        assert await leader.collected(everybody=True) == {
            0: "signed", 1: "false-signatures", 2: "silent", 3: "behind", 4: "refuses",
        }  # fmt: skip
        assert set(leader.collecting.heard) == {FIVE.keys[n].hex() for n in (1, 2, 3, 4)}

    run(body)


def test_who_signed_is_not_asked_again() -> None:
    async def body(leader: Guardian) -> None:
        leader.answer(3, failing(PeerUnreachable("it is off")))
        leader.answer(4, failing(PeerUnreachable("it is off")))
        leader.answer(2, failing(PeerUnreachable("it is off")))
        await leader.collected()
        leader.peers.asked.clear()
        leader.answer(4, honest(FIVE.keys[4]))
        await leader.collected()
        assert NODES[FIVE.keys[1].hex()] not in leader.peers.asked

    run(body)


def test_a_guardian_whose_node_nobody_knows_counts_as_silent() -> None:
    async def body(leader: Guardian) -> None:
        rules = leader.world.rules.versions[0]
        seats = [seat.model_copy(update={"node": None}) if n == 4 else seat for n, seat in enumerate(rules.guardians)]
        leader.world.rules.versions[0] = rules.model_copy(update={"guardians": seats})
        found = await leader.collected(everybody=True)
        assert found == {0: "signed", 1: "signed", 2: "signed", 3: "signed", 4: "silent"}

    run(body)


# --- what a guardian signs -------------------------------------------------------------------------------------------


def test_a_guardian_signs_once_and_notes_it_before_anybody_gets_it() -> None:
    async def body(one: Guardian) -> None:
        draft = await one.world.draft(DUE)
        node = NODES[FIVE.keys[2].hex()]
        first = await one.signing.answer(node, 1, None, draft.txid)
        again = await one.signing.answer(node, 1, None, draft.txid)
        assert first == again
        assert one.flopd.signed == 1
        row = one.world.store.read(lambda c: c.execute("SELECT * FROM signed").fetchone())
        assert (row["unsigned"], row["manifest"]) == (draft.txid, draft.manifest.digest().hex())
        event = one.world.store.read(lambda c: c.execute("SELECT * FROM event").fetchone())
        assert event["kind"] == "fund-signed"

    run(body)


def test_a_guardian_signs_nothing_that_it_did_not_compute_itself() -> None:
    async def body(one: Guardian) -> None:
        draft = await one.world.draft(DUE)
        node = NODES[FIVE.keys[2].hex()]
        with pytest.raises(TransactionDiffers) as caught:
            await one.signing.answer(node, 1, None, "ab" * 32)
        assert caught.value.details["unsigned"] == draft.txid
        for sequence, batch in ((2, None), (1, 0), (7, None)):
            with pytest.raises(NothingToSign):
                await one.signing.answer(node, sequence, batch, draft.txid)
        with pytest.raises(NotGuardian):
            await one.signing.answer("ee" * 32, 1, None, draft.txid)
        assert one.flopd.signed == 0

    run(body)


def test_after_a_reorganisation_it_signs_what_is_right_then_and_not_what_was() -> None:
    async def body(one: Guardian) -> None:
        node = NODES[FIVE.keys[2].hex()]
        first = await one.world.draft(DUE)
        await one.signing.answer(node, 1, None, first.txid)
        await one.world.reorganise(100)
        await one.world.pay(104, 130 * COIN)
        second = await one.world.draft(DUE)
        with pytest.raises(TransactionDiffers):
            await one.signing.answer(node, 1, None, first.txid)
        assert (await one.signing.answer(node, 1, None, second.txid)).unsigned == second.txid

    run(body)


def test_a_locked_wallet_says_so_and_a_node_that_guards_nothing_signs_nothing() -> None:
    async def body(one: Guardian) -> None:
        draft = await one.world.draft(DUE)
        one.flopd.locked = True
        with pytest.raises(WalletLocked):
            await one.signing.answer(NODES[FIVE.keys[2].hex()], 1, None, draft.txid)
        assert await one.signing.guards() is False

    async def stranger(one: Guardian) -> None:
        draft = await one.world.draft(DUE)
        assert not await one.signing.guards()
        with pytest.raises(NotGuardian):
            await one.signing.own(draft)

    run(body)
    run(stranger, key=some_keys(1)[0])


# --- leading ---------------------------------------------------------------------------------------------------------


def leader_of(tip: int) -> bytes:
    return FIVE.keys[(1 + (tip - DUE) // 10) % 5]


async def settle(one: Guardian) -> None:
    leading = one.rounds._leading
    if leading is not None:
        async with asyncio.timeout(20):
            await leading


def test_only_the_one_whose_turn_it_is_asks_and_sends() -> None:
    async def body(one: Guardian) -> None:
        one.peers.draft = await one.world.draft(DUE)
        for tip in (DUE, DUE + 9):
            await one.rounds.advance(tip)
            await settle(one)
        assert one.flopd.submitted == []
        assert one.flopd.signed == 1
        assert leader_of(DUE + 40) == FIVE.keys[0]
        await one.world.read_to(DUE + 40)
        await one.rounds.advance(DUE + 40)
        await settle(one)
        assert len(one.flopd.submitted) == 1
        await one.rounds.advance(DUE + 41)
        await settle(one)
        assert len(one.flopd.submitted) == 1, "flopd has it, and sends it until a block holds it"

    run(body)


def test_two_leaders_send_the_same_transaction_but_for_the_signatures() -> None:
    sent = []

    async def body(one: Guardian) -> None:
        one.peers.draft = await one.world.draft(DUE)
        tip = DUE + 10 * ((FIVE.keys.index(one.flopd.key) - 1) % 5)
        await one.world.read_to(tip)
        await one.rounds.advance(tip)
        await settle(one)
        sent.extend(one.flopd.submitted)

    run(body, key=FIVE.keys[1])
    run(body, key=FIVE.keys[4])
    first, second = (parse_tx(raw) for raw in sent)
    unsigned = [with_script_sigs(tx, [b""] * len(tx.vin)) for tx in (first, second)]
    assert serialize_tx(unsigned[0]) == serialize_tx(unsigned[1])


def test_with_too_few_signatures_nothing_is_sent_and_the_next_block_tries_again() -> None:
    async def body(one: Guardian) -> None:
        for number in (0, 2, 3):
            one.answer(number, failing(PeerUnreachable("it is off")))
        one.peers.draft = await one.world.draft(DUE)
        await one.rounds.advance(DUE)
        await settle(one)
        assert one.flopd.submitted == []
        one.answer(3, honest(FIVE.keys[3]))
        await one.rounds.advance(DUE + 1)
        await settle(one)
        assert len(one.flopd.submitted) == 1

    run(body, key=FIVE.keys[1])


def test_a_locked_guardian_tells_its_owner() -> None:
    async def body(one: Guardian) -> None:
        await one.signing.pubkey()
        one.flopd.locked = True
        await one.world.draft(DUE)
        await one.rounds.advance(DUE)
        assert one.rounds.what == "locked"
        assert "locked" in one.rounds.trouble

    run(body)


def test_what_flopd_refuses_to_sign_is_told_and_tried_again() -> None:
    async def body(one: Guardian) -> None:
        await one.world.draft(DUE)
        one.flopd.refuses = True
        await one.rounds.advance(DUE)
        assert "fee" in one.rounds.trouble
        assert (one.rounds.what, one.rounds.again) == ("refuses", True)
        one.flopd.refuses = False
        await one.rounds.advance(DUE)
        assert (one.rounds.trouble, one.rounds.again) == ("", False)
        assert one.flopd.signed == 1

    run(body)


def test_while_nobody_can_tell_who_is_eligible_the_guardian_waits_and_says_why() -> None:
    async def body(one: Guardian) -> None:
        await one.world.read_to(DUE)
        one.world.electors.trouble = DaemonDown("can't reach dux-registryd")
        await one.rounds.advance(DUE)
        assert "registryd" in one.rounds.trouble
        assert one.rounds.again
        one.world.electors.trouble = None
        await one.rounds.advance(DUE)
        assert (one.rounds.trouble, one.flopd.signed) == ("", 1)

    run(body)


def test_what_is_deep_is_an_event_once() -> None:
    async def body(one: Guardian) -> None:
        draft = await one.world.draft(DUE)
        await one.world.confirm(draft, 175)
        for tip in (234, 235, 236):
            await one.world.read_to(tip)
            await one.rounds.advance(tip)
            rows = one.world.store.read(lambda c: c.execute("SELECT kind FROM event").fetchall())
            assert [row["kind"] for row in rows].count("fund-transaction") == (tip >= 235)

    run(body)


# --- reading eligibility ---------------------------------------------------------------------------------------------


class Pages:
    """registryd's answers, page by page."""

    def __init__(self, pages: list[EligiblePage]) -> None:
        self._pages = pages

    async def call(self, method: str, reply: Any, params: Any, **_: Any) -> EligiblePage:
        assert method == "node.eligible"
        return self._pages.pop(0)


def page(keys: list[bytes], digest: str, following: bytes | None) -> EligiblePage:
    return EligiblePage(
        height=110, rules=0, total=3, qualified=3, share=COIN, full=True, digest=digest,
        keys=[EligibleKey(pubkey=key.hex(), tax=DUST) for key in keys], next=following.hex() if following else None,
        tip=BlockRef(height=170, hash="ab" * 32),
    )  # fmt: skip


def test_pages_that_do_not_fit_together_are_not_paid() -> None:
    digest = digest_of(KEYS)
    good = [page(KEYS[:2], digest, KEYS[1]), page(KEYS[2:], digest, None)]
    client: Any = Pages(good)
    assert asyncio.run(Registryd(client).keys(110)).keys == tuple(KEYS)
    for bad in (
        [page(KEYS[:2], digest, KEYS[1]), page(KEYS[2:], "00" * 32, None)],
        [page(KEYS[:2], digest, None)],
        [page([KEYS[1], KEYS[0]], digest, KEYS[1]), page(KEYS[2:], digest, None)],
        [page(KEYS[:2], digest, KEYS[1]), page([KEYS[1], KEYS[2]], digest, None)],
    ):
        client = Pages(bad)
        with pytest.raises(EligibilityDiffers):
            asyncio.run(Registryd(client).keys(110))


def test_every_signer_of_a_transaction_is_known_by_its_inputs() -> None:
    async def body(one: Guardian) -> None:
        draft = await one.world.draft(DUE)
        assert signers(draft) == {key.hex() for key in FIVE.keys}

    run(body)
