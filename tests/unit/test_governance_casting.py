"""Documents and the notes of this node: checked, stored before they are sent, sent until a block holds them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dux_governance import casting as casting_module
from dux_governance import documents as documents_module
from dux_governance import rows
from dux_governance.casting import COIN, FAILPOINTS, PRICE, Casting
from dux_governance.documents import Documents, change_of, fault, parse, text_of
from dux_governance.ports import Flopd, Registryd
from duxcommon.api.flopd import KeyInfo, NoteFact, Place, TxIntent
from duxcommon.api.governance import (
    MAX_DOCUMENT,
    ArbitersWish,
    Document,
    DocumentText,
    GuardiansWish,
    ParameterWish,
    SpendWish,
)
from duxcommon.coin.notes import ArbiterChange, GuardianChange, ParameterChange, Spend, VoteNote
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import address_of, p2pkh_script
from duxcommon.db import Store
from duxcommon.errors import (
    BadAddress,
    DaemonDown,
    DocumentRefused,
    DuxError,
    InvalidParams,
    NoPayoutCoin,
    NotFound,
    ProposalImpossible,
)
from duxcommon.money import DUST
from duxcommon.rulebook import first_rules
from tests.governance_kit import VOTERS, Chain, key, member, network

NET = network()
CHAIN = CHAINS["devnet"]
RULES = first_rules(NET)
FUND = bytes.fromhex(RULES.fund_script)
BORN = 100
TAX = ParameterWish(name="tax_bps", value=450)


def run(folder: Path, body: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        store = Store(folder / "airdropd.sqlite", (rows.MIGRATION,))
        try:
            await body(store)
        finally:
            await store.close()

    asyncio.run(main())


class Wallet(Flopd):
    """A flopd that does what the test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.has_coin = True
        self.down = False
        self.states: dict[str, str] = {}

    async def payout(self) -> KeyInfo:
        return KeyInfo(pubkey=key("v0"), address=address_of(p2pkh_script(bytes.fromhex(key("v0"))), CHAIN) or "")

    async def fund(self, script: bytes, amount: int, **more: Any) -> TxIntent:
        if self.down:
            raise DaemonDown("flopd is away")
        if more["from_payout"] and not self.has_coin:
            raise NoPayoutCoin("the payout address has no coin")
        self.calls.append(("fund", {"script": script, "amount": amount, **more}))
        return self._intent(more["key"], "built")

    async def broadcast(self, intent: str) -> TxIntent:
        self.calls.append(("broadcast", {"intent": intent}))
        return self._intent(intent, "sent")

    async def intent(self, intent: str) -> TxIntent:
        return self._intent(intent, self.states.get(intent, "sent"))

    def _intent(self, name: str, state: str) -> TxIntent:
        return TxIntent.model_validate(
            {"id": name, "state": state, "txid": "ab" * 32, "hex": "00", "fee": 2300, "purpose": "vote", "ref": "r",
             "confirmations": 0, "height": None}
        )  # fmt: skip


def voted(proposal: str, *, yes: bool = True) -> bytes:
    return VoteNote(bytes.fromhex(proposal), yes).encode()


# --- votes on their way ------------------------------------------------------------------------------------------


def test_a_vote_spends_a_coin_of_the_payout_address_and_pays_the_fund(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        wallet = Wallet()
        casting = Casting(store, wallet)
        row = await casting.put("vote:1", "vote", "cd" * 32, voted("cd" * 32), yes=True)
        assert row.state == "queued"
        sent = await casting.send(row, FUND)
        (_, fund), (_, broadcast) = wallet.calls
        assert (fund["script"], fund["amount"], fund["from_payout"]) == (FUND, PRICE, True)
        assert (sent.state, sent.intent, sent.fee) == ("sent", broadcast["intent"], 2300)
        wallet.states[broadcast["intent"]] = "confirmed"
        assert (await casting.send(sent, FUND)).state == "confirmed"

    run(tmp_path, body)


def test_without_a_coin_the_payout_address_is_given_one_and_the_vote_goes_later(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        wallet = Wallet()
        wallet.has_coin = False
        casting = Casting(store, wallet)
        chain = Chain()
        proposal = chain.propose(BORN, ParameterChange(1, 450))
        row = await casting.put("vote:1", "vote", proposal, voted(proposal), yes=True)
        waiting = await casting.send(row, FUND)
        given = wallet.calls[0][1]
        assert (given["script"], given["amount"]) == (p2pkh_script(bytes.fromhex(key("v0"))), COIN)
        assert (waiting.state, "given a coin" in waiting.trouble) == ("queued", True)
        # A crash here loses nothing: the next daemon finds the row and goes on.
        again = Casting(store, wallet)
        wallet.has_coin = True
        await again.advance(chain.read(BORN + 3), BORN + 3)
        newest = again.newest("vote", proposal)
        assert newest is not None
        assert (newest.state, newest.trouble, newest.yes) == ("sent", "", True)

    run(tmp_path, body)


class Death(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.mark.parametrize("point", FAILPOINTS)
def test_wherever_the_daemon_dies_the_next_one_sends_one_coin_and_one_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    chain = Chain()
    proposal = chain.propose(BORN, ParameterChange(1, 450))
    armed = [f"airdropd:{point}"]

    def hit(name: str) -> None:
        if name in armed:
            armed.clear()
            raise Death

    monkeypatch.setattr(casting_module.failpoint, "hit", hit)

    async def body(store: Store) -> None:
        wallet = Wallet()
        wallet.has_coin = False

        async def cast() -> None:
            casting = Casting(store, wallet)
            await casting.send(await casting.put("vote:1", "vote", proposal, voted(proposal), yes=True), FUND)

        async def block(height: int) -> None:
            # The coin is there once its payment was sent and a block came.
            wallet.has_coin = any(name == "broadcast" for name, _ in wallet.calls)
            await Casting(store, wallet).advance(chain.read(height), height)

        deaths = 0
        for step in (cast, lambda: block(BORN + 1), lambda: block(BORN + 2), lambda: block(BORN + 3), cast):
            try:
                await step()
            except Death:
                deaths += 1
        assert (deaths, armed) == (1, [])
        built = {call["key"] for name, call in wallet.calls if name == "fund"}
        sent = {call["intent"] for name, call in wallet.calls if name == "broadcast"}
        # One key is one transaction to flopd, however often it is asked for.
        assert built == sent
        assert sorted(key.split(":")[0] for key in built) == ["governance", "governance-coin"]
        (row,) = store.read(rows.open_casts)
        assert (row.state, row.trouble) == ("sent", "")

    run(tmp_path, body)


def test_what_keeps_a_vote_back_is_said_and_it_is_tried_again(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        wallet = Wallet()
        wallet.down = True
        casting = Casting(store, wallet)
        chain = Chain()
        proposal = chain.propose(BORN, ParameterChange(1, 450))
        row = await casting.send(await casting.put("vote:1", "vote", proposal, voted(proposal), yes=True), FUND)
        assert (row.state, "flopd is away" in row.trouble) == ("queued", True)
        wallet.down = False
        await casting.advance(chain.read(BORN + 1), BORN + 1)
        assert casting.by_key("vote:1").state == "sent"

    run(tmp_path, body)


def test_a_vote_that_could_not_be_sent_before_the_deadline_is_given_up(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        wallet = Wallet()
        wallet.down = True
        casting = Casting(store, wallet)
        chain = Chain()
        proposal = chain.propose(BORN, ParameterChange(1, 450))
        await casting.put("vote:1", "vote", proposal, voted(proposal), yes=True)
        await casting.advance(chain.read(BORN + 10), BORN + 10)
        assert (casting.by_key("vote:1").state, casting.newest("vote", proposal)) == ("dropped", None)
        assert wallet.calls == []

    run(tmp_path, body)


def test_a_vote_whose_coin_was_spent_otherwise_is_given_up_and_says_so(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        wallet = Wallet()
        casting = Casting(store, wallet)
        row = await casting.send(await casting.put("vote:1", "vote", "cd" * 32, voted("cd" * 32), yes=True), FUND)
        assert row.intent is not None
        wallet.states[row.intent] = "conflicted"
        lost = await casting.send(row, FUND)
        assert (lost.state, "do it again" in lost.trouble) == ("dropped", True)

    run(tmp_path, body)


def test_the_same_key_queues_one_vote_and_the_newest_vote_is_shown(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        casting = Casting(store, Wallet())
        for number, yes in ((1, True), (1, True), (2, False)):
            await casting.put(f"vote:{number}", "vote", "cd" * 32, voted("cd" * 32, yes=yes), yes=yes)
        assert [row.key for row in store.read(rows.open_casts)] == ["vote:1", "vote:2"]
        newest = casting.newest("vote", "cd" * 32)
        assert newest is not None
        assert newest.yes is False

    run(tmp_path, body)


# --- notes and electorates in the database -----------------------------------------------------------------------


def fact(height: int, note: bytes, paid: int = DUST) -> NoteFact:
    return NoteFact(
        at=Place(height=height, index=1), txid=f"{height:064x}", note=note.hex(), paid={FUND.hex(): paid},
        signers=[key("v0")],
    )  # fmt: skip


def test_notes_are_kept_in_order_and_undone_with_their_electorates_by_a_reorganisation(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        undone: list[int] = []
        kind = rows.kind(undone.append)
        chain = Chain()
        proposal = chain.propose(BORN, ParameterChange(1, 450))
        note = chain.entries[0].data
        facts = [
            fact(BORN, note), fact(BORN + 1, voted(proposal)), fact(BORN + 2, voted(proposal), DUST - 1),
            fact(BORN + 3, b"DUX\x02 no note of ours"), fact(BORN + 4, voted(proposal)),
        ]  # fmt: skip
        await store.write(lambda c: kind.apply(c, facts))
        for place in ((BORN, 1, 0), (BORN + 4, 1, 0)):
            await store.write(
                lambda c, p=place: rows.put_census(c, (proposal, p), chain.censuses[proposal, (BORN, 0, 0)])  # type: ignore[misc]
            )
        stored = rows.Stored(store)
        kept = list(stored.notes(-1, BORN + 10))
        assert [entry.place[0] for entry in kept] == [BORN, BORN + 1, BORN + 4]
        assert kept[0] == rows.entry_of(facts[0])
        census = stored.get((proposal, (BORN, 1, 0)))
        assert census == chain.censuses[proposal, (BORN, 0, 0)]
        await store.write(lambda c: kind.undo(c, BORN + 1))
        assert [entry.place[0] for entry in stored.notes(-1, BORN + 10)] == [BORN, BORN + 1]
        assert [entry.place[0] for entry in stored.notes(BORN, BORN + 1)] == [BORN + 1]
        assert stored.get((proposal, (BORN, 1, 0))) == census
        assert stored.get((proposal, (BORN + 4, 1, 0))) is None
        assert undone == [BORN + 1]

    run(tmp_path, body)


# --- documents ---------------------------------------------------------------------------------------------------


def test_what_a_document_says_is_what_stands_on_the_chain() -> None:
    ordered = sorted(["g0", "g1", "g2"], key=key)
    script = p2pkh_script(bytes.fromhex(key("somebody")))
    address = address_of(script, CHAIN)
    assert address is not None
    assert change_of(TAX, RULES, CHAIN) == ParameterChange(1, 450)
    assert change_of(GuardiansWish(out=key("g1"), into=member("g9"), m=2), RULES, CHAIN) == GuardianChange(
        ordered.index("g1"), bytes.fromhex(key("g9")), 2
    )
    assert change_of(ArbitersWish(out=key("a1"), into=None), RULES, CHAIN) == ArbiterChange(1, None)
    assert change_of(SpendWish(to=address, amount=DUST), RULES, CHAIN) == Spend(script, DUST)
    with pytest.raises(ProposalImpossible, match="is no guardian"):
        change_of(GuardiansWish(out=key("a1"), into=None, m=2), RULES, CHAIN)
    with pytest.raises(InvalidParams):
        change_of(ParameterWish(name="min_tax", value=1), RULES, CHAIN)
    with pytest.raises(BadAddress):
        change_of(SpendWish(to="1BoatSLRHtKNngkdXEeobR76b53LETtpyT", amount=DUST), RULES, CHAIN)


def written(**more: Any) -> Document:
    return Document(**{"network": NET.id, "change": TAX, "title": "Lower the tax", **more})


def test_a_document_that_says_something_else_than_the_chain_is_not_shown() -> None:
    chain = Chain(network=NET)
    proposal = chain.propose(BORN, ParameterChange(1, 450))
    item = chain.item(BORN, proposal)
    assert fault(written(), item, NET.id, CHAIN) == ""
    other = written(change=ParameterWish(name="tax_bps", value=550))
    assert "something else" in fault(other, item, NET.id, CHAIN)
    assert "another network" in fault(written(network="ab" * 32), item, NET.id, CHAIN)
    assert "no proposal's document" in fault(parse("{}"), item, NET.id, CHAIN)


def test_a_document_is_not_longer_than_it_may_be() -> None:
    assert len(text_of(written(reason="x" * 8000)).text) < MAX_DOCUMENT
    with pytest.raises(InvalidParams, match="it may have"):
        text_of(written(reason="\U0001f5f3" * 8000))


class Peers(Registryd):
    """Nodes with documents."""

    def __init__(self, documents: dict[str, DocumentText]) -> None:
        self.documents = documents
        self.offered: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.refuse = False

    async def node(self) -> str:
        return member("g0").node

    async def live_nodes(self) -> list[str]:
        return [member("g0").node, *self.documents]

    async def document(self, node: str, digest: str) -> DocumentText:
        self.asked.append(node)
        if node not in self.documents:
            raise NotFound("it is not here")
        return self.documents[node]

    async def offer(self, node: str, document: DocumentText) -> None:
        if self.refuse:
            raise DocumentRefused("not yet")
        self.offered.append((node, document.hash))


def test_a_document_is_fetched_from_whoever_has_it_and_lies_are_not_kept(tmp_path: Path) -> None:
    text = text_of(written())
    chain = Chain(network=NET)
    chain.propose(BORN, ParameterChange(1, 450), document=text.text.encode())
    liar = DocumentText(hash=text.hash, text="something else")
    other = text_of(written(title="Another"))

    async def body(store: Store) -> None:
        peers = Peers({"11" * 32: liar, "22" * 32: other})
        documents = Documents(store, peers, NET.id, CHAIN)
        items = chain.read(BORN).items
        await documents.exchange(items, RULES.guardians)
        assert documents.text(text.hash) is None
        # The guardians were asked first, our own node never.
        assert peers.asked[:2] == [member("g1").node, member("g2").node]
        assert member("g0").node not in peers.asked
        peers.documents["33" * 32] = text
        await documents.exchange(items, RULES.guardians)
        assert documents.of(items[0]) == (written(), "")
        assert Documents(store, peers, NET.id, CHAIN).text(text.hash) == text

    run(tmp_path, body)


def test_our_own_document_is_offered_to_each_guardian_until_it_is_taken(tmp_path: Path) -> None:
    text = text_of(written())
    chain = Chain(network=NET)
    chain.propose(BORN, ParameterChange(1, 450), document=text.text.encode())

    async def body(store: Store) -> None:
        peers = Peers({})
        documents = Documents(store, peers, NET.id, CHAIN)
        await documents.keep(text, own=True)
        peers.refuse = True
        await documents.exchange(chain.read(BORN).items, RULES.guardians)
        assert peers.offered == []
        peers.refuse = False
        for _ in range(2):
            await documents.exchange(chain.read(BORN).items, RULES.guardians)
        assert sorted(peers.offered) == sorted((member(name).node, text.hash) for name in ("g1", "g2"))

    run(tmp_path, body)


def test_documents_of_refused_proposals_and_of_too_many_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "KEPT", 1)
    monkeypatch.setattr(documents_module, "UNSURE", 2)
    texts = [text_of(written(title=f"Number {number}")) for number in range(6)]
    ordered = sorted(["g0", "g1", "g2"], key=key)
    chain = Chain(network=NET)
    change = GuardianChange(ordered.index("g1"), bytes.fromhex(key("g9")), 2)
    seat = chain.propose(0, change, document=texts[0].text.encode())
    chain.vote(1, seat, True, *VOTERS)
    chain.approve(1, seat, "g0", "g1")
    spend = Spend(p2pkh_script(bytes.fromhex(key("somebody"))), DUST)
    for number, (name, height) in enumerate([("v1", 90), ("x1", 91), ("v2", 92), ("x3", 150), ("x4", 151)], 1):
        chain.propose(height, spend, [name], document=(texts[number].text if number < 6 else "").encode())
    chain.propose(152, spend, ["x5"], document=b"the newest of those not known")
    items = chain.read(155).items
    assert [item.provisional for item in items] == [False] * 4 + [True] * 3

    async def body(store: Store) -> None:
        documents = Documents(store, Peers({}), NET.id, CHAIN)
        taken = []
        for number, text in enumerate(texts):
            try:
                await documents.take(text, items)
                taken.append(number)
            except DocumentRefused:
                assert documents.text(text.hash) is None
        # That of the seat, of the newest proposal, and of the two newest of which nothing is known.
        assert taken == [0, 3, 5]
        with pytest.raises(DocumentRefused, match="not what its hash says"):
            await documents.take(DocumentText(hash=texts[0].hash, text="x"), items)
        await documents.keep(texts[1])
        await documents.keep(texts[2], own=True)
        changes = documents.changes
        await documents.exchange(items, RULES.guardians)
        for again in (documents, Documents(store, Peers({}), NET.id, CHAIN)):
            assert [number for number, text in enumerate(texts) if again.text(text.hash)] == [0, 2, 3, 5]
        assert documents.changes == changes + 1
        # What was dropped is not asked for again.
        peers = Peers({"11" * 32: texts[1]})
        await Documents(store, peers, NET.id, CHAIN).exchange(items, RULES.guardians)
        assert store.read(lambda c: rows.document(c, texts[1].hash)) is None

    run(tmp_path, body)


def test_a_new_guardians_node_is_known_by_the_document(tmp_path: Path) -> None:
    ordered = sorted(["g0", "g1", "g2"], key=key)
    wish = GuardiansWish(out=key("g1"), into=member("g9"), m=2)
    text = text_of(written(change=wish, title="A new guardian"))
    chain = Chain(network=NET)
    change = GuardianChange(ordered.index("g1"), bytes.fromhex(key("g9")), 2)
    proposal = chain.propose(BORN, change, document=text.text.encode())
    chain.vote(BORN + 1, proposal, True, *VOTERS)

    async def body(store: Store) -> None:
        documents = Documents(store, Peers({}), NET.id, CHAIN)
        item = chain.item(BORN, proposal)
        assert documents.node_of(item) is None
        await documents.keep(text)
        assert documents.node_of(item) == member("g9").node
        with pytest.raises(DuxError, match="not what its hash says"):
            await documents.keep(DocumentText(hash=text.hash, text="x"))

    run(tmp_path, body)
