"""Facts of the chain: what counts is told with every figure, what only looks like it is not, on every node alike."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from btclib.script import sig_hash
from btclib.tx import Tx
from btclib_secp256k1 import dsa
from devchain_kit import OWN, Devchain, given_coin
from facts_kit import (
    ARBITER,
    BUYER,
    FEE,
    FUND,
    PROVIDER,
    PROVIDER2,
    TEN,
    A,
    B,
    P,
    close_to,
    deposit,
    mine_tx,
    note_script,
    page,
    pay,
    send,
    signed,
    terms_of,
    told,
)
from flopd_kit import Flopd, TestChain, chains, until
from forged_kit import FORGERIES, GOOD

from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import (
    ApprovalNote,
    BondNote,
    FundNote,
    Note,
    ParameterChange,
    ProposalNote,
    VoteNote,
    proposal_id,
    sign_approval,
)
from duxcommon.coin.script import (
    EscrowTerms,
    is_pubkey,
    op_return_script,
    p2pkh_script,
    p2sh_script,
    pubkey_of,
)
from duxcommon.coin.settlement import Candidate, Reason, Refusal, Settlement, judge
from duxcommon.coin.tx import (
    Coin,
    closing_tx,
    make_tx,
    p2pkh_script_sig,
    serialize_tx,
    sign_input,
    txid_of,
    with_script_sigs,
)
from duxcommon.errors import ChainMoved, ChainSyncing, InvalidParams, WatchUnknown
from duxcommon.money import COIN, DUST

chain = chains(("devchain-flopcoin", "devchain-modern"))
TO_PROVIDER, TO_BUYER = p2pkh_script(PROVIDER), p2pkh_script(BUYER)
KINDS = ("settlements", "bonds", "notes")


@pytest.fixture
def node(chain: TestChain, short_tmp: Path, daemon_logs: list[str]) -> Iterator[Flopd]:
    with Flopd(short_tmp, chain) as running:
        yield running.start()


@pytest.fixture
def core(chain: TestChain) -> Devchain:
    assert isinstance(chain.core, Devchain)
    return chain.core


def all_facts(node: Flopd) -> dict[str, Any]:
    return {kind: told(node, kind) for kind in (*KINDS, "fund")}


def wait_read(nodes: Iterable[Flopd], core: Devchain) -> None:
    """Wait until all facts are told up to the newest block: a fund watched late is looked for in old blocks first."""
    newest = core.call("getbestblockhash")

    def read(node: Flopd, kind: str) -> bool:
        try:
            return bool(page(node, kind)["tip"]["hash"] == newest)
        except ChainSyncing:
            return False

    for node in nodes:
        for kind in (*KINDS, "fund"):
            until(lambda node=node, kind=kind: read(node, kind), f"all {kind}")  # type: ignore[misc]


def candidate(fact: dict[str, Any]) -> Candidate:
    keys = (bytes.fromhex(fact[name]) for name in ("provider", "buyer", "arbiter"))
    return Candidate(
        txid=fact["txid"],
        terms=EscrowTerms(*keys, fact["lock_height"]),
        payout=fact["payout"],
        tax=fact["tax"],
        change=fact["change"],
        fee=fact["fee"],
        awarded=fact["awarded"],
        fund_script=bytes.fromhex(fact["fund_script"]),
        deposits=tuple(fact["deposits"]),
    )


def verdict(fact: dict[str, Any]) -> Settlement | Refusal:
    return judge(candidate(fact), {FUND}, lambda _height: 500)


# --- settled work --------------------------------------------------------------------------------------------------


def test_settled_work_is_told_with_every_figure(node: Flopd, core: Devchain) -> None:
    terms = terms_of(core.height() + 5000)
    first = deposit(core, terms, 8 * COIN)
    first_at = core.height()
    second = deposit(core, terms, 4 * COIN)
    second_at = core.height()
    closing = closing_tx(terms, [first, second], TEN, 500, FUND)
    tx = signed(closing, A)
    height = mine_tx(core, tx)
    (fact,) = told(node, "settlements", height)
    assert fact == {
        "at": {"height": height, "index": 1, "part": 0},
        "txid": txid_of(tx),
        "provider": PROVIDER.hex(),
        "buyer": BUYER.hex(),
        "arbiter": ARBITER.hex(),
        "lock_height": terms.lock_height,
        "payout": 950_000_000,
        "tax": 50_000_000,
        "change": closing.buyer,
        "fee": closing.fee,
        "awarded": True,
        "fund_script": FUND.hex(),
        "deposits": [first_at, second_at],
    }
    assert isinstance(verdict(fact), Settlement)


def test_a_deposit_and_its_close_in_one_block_are_settled_work(node: Flopd, core: Devchain) -> None:
    terms = terms_of(core.height() + 5000)
    funding = pay(core, [(p2sh_script(terms.script()), TEN), note_script(terms)])
    closing = closing_tx(terms, [Coin(txid_of(funding), 0, TEN)], 5 * COIN, 500, FUND)
    height = mine_tx(core, funding, signed(closing))
    (fact,) = told(node, "settlements", height)
    assert (fact["at"]["index"], fact["deposits"]) == (2, [height])


def test_what_is_off_by_one_koinu_is_told_and_judged_no_settled_work(node: Flopd, core: Devchain) -> None:
    terms = terms_of(core.height() + 5000)
    coin = deposit(core, terms, 11 * COIN)
    outputs = [(TO_PROVIDER, 950_000_001), (FUND, 49_999_999), (TO_BUYER, COIN - FEE)]
    height = mine_tx(core, close_to([coin], terms.script(), outputs))
    (fact,) = told(node, "settlements", height)
    assert verdict(fact) == Refusal(fact["txid"], Reason.WRONG_TAX)


def test_a_close_that_pays_somebody_else_is_told_and_judged_no_settled_work(node: Flopd, core: Devchain) -> None:
    terms = terms_of(core.height() + 5000)
    coin = deposit(core, terms, 11 * COIN)
    height = mine_tx(core, close_to([coin], terms.script(), [(TO_PROVIDER, 950_000_000), (TO_BUYER, 50_000_000)]))
    (fact,) = told(node, "settlements", height)
    assert verdict(fact) == Refusal(fact["txid"], Reason.NOT_TO_FUND)


@pytest.mark.parametrize(
    "forged",
    FORGERIES,
    ids=lambda forged: forged.__name__,
)
def test_a_forged_settlement_in_a_block_is_not_told(node: Flopd, core: Devchain, forged: Any) -> None:
    tx = forged(core)
    height = mine_tx(core, tx)
    assert core.call("getblock", core.call("getbestblockhash"))["tx"][1:] == [txid_of(tx)]
    assert told(node, "settlements", height) == []


# --- bonds ---------------------------------------------------------------------------------------------------------


def bond_outputs(core: Devchain, *amounts: int, lock: int = 9000) -> list[tuple[bytes, int]]:
    height = core.height() + lock
    return [
        *((bond_output(PROVIDER, height), amount) for amount in amounts),
        (op_return_script(BondNote(PROVIDER, height).encode()), 0),
    ]


def test_bonds_are_told_one_by_one_with_what_was_paid_beside(node: Flopd, core: Devchain) -> None:
    outputs = [(FUND, DUST), *bond_outputs(core, 3 * COIN, 2 * COIN, COIN), (OWN, DUST), (FUND, 2 * DUST)]
    tx = pay(core, outputs)
    lock_height = core.height() - 1 + 9000
    height = mine_tx(core, tx)
    assert told(node, "bonds", height) == [
        {
            "at": {"height": height, "index": 1, "part": vout},
            "txid": txid_of(tx),
            "vout": vout,
            "pubkey": PROVIDER.hex(),
            "lock_height": lock_height,
            "amount": amount,
            "paid": {FUND.hex(): 3 * DUST},
        }
        for vout, amount in ((1, 3 * COIN), (2, 2 * COIN), (3, COIN))
    ]


def test_a_bond_whose_script_is_not_that_of_its_note_is_not_told(node: Flopd, core: Devchain) -> None:
    good = bond_outputs(core, COIN)
    lock_height = core.height() + 9000
    wrong = [
        [(bond_output(PROVIDER, lock_height - 1), COIN), good[1]],
        [(bond_output(PROVIDER2, lock_height), COIN), good[1]],
        [(TO_PROVIDER, COIN), good[1]],
        [good[0]],
        [good[0], (op_return_script(BondNote(PROVIDER, lock_height).encode() + b"\x00"), 0)],
        # A transaction says one thing: the first of its notes.
        [good[0], (op_return_script(VoteNote(bytes(32), True).encode()), 0), good[1]],
    ]
    start = core.height()
    mine_tx(core, *(pay(core, outputs) for outputs in wrong))
    assert told(node, "bonds", start + 1) == []


# --- notes ---------------------------------------------------------------------------------------------------------

NETWORK = "ab" * 32
PROPOSAL = ProposalNote(ParameterChange(1, 600), hashlib.sha256(b"why").digest())
PROPOSAL_ID = proposal_id(NETWORK, PROPOSAL.encode())
VOTE = VoteNote(bytes.fromhex(PROPOSAL_ID), True)
APPROVAL = ApprovalNote(bytes.fromhex(PROPOSAL_ID)[:12], sign_approval(NETWORK, PROPOSAL_ID, P))


def note_output(note: Note) -> tuple[bytes, int]:
    return op_return_script(note.encode()), 0


def coin_of(core: Devchain, secret: bytes) -> Coin:
    return given_coin(core, p2pkh_script(pubkey_of(secret)), COIN)


def sign_all(tx: Tx, secrets: list[bytes]) -> Tx:
    script_sigs = [
        p2pkh_script_sig(sign_input(tx, index, p2pkh_script(pubkey_of(secret)), secret), pubkey_of(secret))
        for index, secret in enumerate(secrets)
    ]
    return with_script_sigs(tx, script_sigs)


def noted(core: Devchain, note: Note, *secrets: bytes) -> Tx:
    """A note in a transaction with an input of each of these keys."""
    coins = [coin_of(core, secret) for secret in secrets]
    tx = make_tx([(coin.txid, coin.vout) for coin in coins], [(FUND, DUST), note_output(note), (OWN, DUST)])
    return sign_all(tx, list(secrets))


@pytest.mark.parametrize("note", [PROPOSAL, VOTE, APPROVAL])
def test_a_note_is_told_with_who_signed_and_what_was_paid(node: Flopd, core: Devchain, note: Note) -> None:
    tx = noted(core, note, P, B, P)
    send(core, tx)
    core.mine(1)
    height = core.height()
    assert told(node, "notes", height) == [
        {
            "at": {"height": height, "index": 1, "part": 0},
            "txid": txid_of(tx),
            "note": note.encode().hex(),
            "paid": {FUND.hex(): DUST},
            "signers": [PROVIDER.hex(), BUYER.hex()],
        }
    ]


def test_spam_and_notes_of_other_kinds_are_not_told(node: Flopd, core: Devchain) -> None:
    spam = [
        b"DUX",
        b"DUX\x03",
        b"DUX\x04" + bytes(31),
        b"DUX\x04" + bytes(32) + b"\x02",
        b"DUX\x09" + bytes(40),
        b"dux\x04" + bytes(32) + b"\x01",
        FundNote("payout", 1, bytes(32)).encode(),
        VOTE.encode() + b"\x00",
    ]
    start = core.height()
    mine_tx(core, *(pay(core, [(FUND, DUST), (op_return_script(data), 0)]) for data in spam))
    odd = [
        b"\x6a\x4c" + bytes([len(VOTE.encode())]) + VOTE.encode(),  # a longer push than needed
        b"\x6a\x25" + VOTE.encode() + b"\x51",
        b"\x51\x6a\x25" + VOTE.encode(),
    ]
    mine_tx(core, *(pay(core, [(script, 0), (FUND, DUST)]) for script in odd))
    assert told(node, "notes", start + 1) == []


def looks_like_a_key() -> bytes:
    """A redeem script that anybody can spend and whose bytes are a valid public key."""
    for number in range(100):
        tail = hashlib.sha256(bytes([number])).digest()[:28]
        # Push two bytes, drop them and what is below, push 28 bytes.
        redeem = b"\x02" + b"\xaa\xbb" + b"\x6d" + b"\x1c" + tail
        if is_pubkey(redeem):
            return redeem
    raise AssertionError("no such point")


def test_a_redeem_script_that_looks_like_a_public_key_is_no_signer(node: Flopd, core: Devchain) -> None:
    redeem = looks_like_a_key()
    coin = given_coin(core, p2sh_script(redeem), COIN)
    own = coin_of(core, P)
    tx = make_tx([(coin.txid, coin.vout), (own.txid, own.vout)], [(FUND, DUST), note_output(VOTE), (OWN, DUST)])
    # A real signature of the provider over this transaction, shown where the redeem script takes anything.
    real = sign_input(tx, 1, TO_PROVIDER, P)
    forged = with_script_sigs(tx, [p2pkh_script_sig(real, redeem), p2pkh_script_sig(real, PROVIDER)])
    height = mine_tx(core, forged)
    (fact,) = told(node, "notes", height)
    assert fact["signers"] == [PROVIDER.hex()]


def test_a_key_whose_signature_leaves_the_outputs_open_is_no_signer(node: Flopd, core: Devchain) -> None:
    coin = coin_of(core, P)
    tx = make_tx([(coin.txid, coin.vout)], [(FUND, DUST), note_output(VOTE)])
    none = 2  # SIGHASH_NONE: whoever holds it may put another vote in its place
    signature = dsa.sign(sig_hash.legacy(TO_PROVIDER, tx, 0, none), P) + bytes([none])
    height = mine_tx(core, with_script_sigs(tx, [p2pkh_script_sig(signature, PROVIDER)]))
    (fact,) = told(node, "notes", height)
    assert fact["signers"] == []


# --- the fund ------------------------------------------------------------------------------------------------------


def test_payments_to_the_fund_and_their_spending_are_told_in_order(node: Flopd, core: Devchain) -> None:
    redeem = b"\x51" + core.height().to_bytes(4, "big").join((b"\x04", b"\x75"))
    script = p2sh_script(redeem)
    start = core.height()
    first = pay(core, [(script, COIN), (OWN, DUST), (script, 2 * COIN)])
    paid_at = mine_tx(core, first)
    push = bytes([len(redeem)]) + redeem
    second = make_tx([(txid_of(first), 2), (txid_of(first), 0)], [(script, 2 * COIN), (OWN, COIN - FEE)])
    second = with_script_sigs(second, [push, push])
    spent_at = mine_tx(core, second)
    # Watched only now: it is looked for in old blocks.
    node.call("chain.watch", {"script": script.hex(), "ref": f"fund/{start}", "birth_height": start})
    one, two = txid_of(first), txid_of(second)

    def fact(height: int, part: int, event: str, txid: str, vout: int, amount: int) -> dict[str, Any]:
        return {
            "at": {"height": height, "index": 1, "part": part},
            "event": event,
            "txid": txid,
            "vout": vout,
            "amount": amount,
            "script": script.hex(),
            "spender": two if event == "spent" else None,
        }

    expected = [
        fact(paid_at, 1, "paid", one, 0, COIN),
        fact(paid_at, 3, "paid", one, 2, 2 * COIN),
        fact(spent_at, 0, "spent", one, 2, 2 * COIN),
        fact(spent_at, 1, "spent", one, 0, COIN),
        fact(spent_at, 2, "paid", two, 0, 2 * COIN),
    ]
    assert [one for one in told(node, "fund", start) if one["script"] == script.hex()] == expected
    assert node.call("chain.spender", {"txid": two}) == {
        "txid": two,
        "hex": serialize_tx(second).hex(),
        "height": spent_at,
    }
    with pytest.raises(WatchUnknown):
        node.call("chain.spender", {"txid": one})


def test_a_watched_output_tells_the_note_of_its_transaction(node: Flopd, core: Devchain) -> None:
    terms = terms_of(core.height() + 5000)
    script = p2sh_script(terms.script())
    node.call("chain.watch", {"script": script.hex(), "ref": "channel"})
    send(core, pay(core, [(script, COIN), note_script(terms)]))
    (waiting,) = until(lambda: node.watched("channel"), "the output in the mempool")
    core.mine(1)
    deposit(core, terms, COIN, (OWN, DUST))
    node.at_tip()
    with_note, without = node.watched("channel")
    assert waiting["note"] == with_note["note"] == note_script(terms)[0][2:].hex()
    assert without["note"] is None


# --- pages and reorganisations -------------------------------------------------------------------------------------


def some_facts(core: Devchain) -> tuple[str, int]:
    """A block with facts of every kind: its hash and height."""
    terms = terms_of(core.height() + 5000)
    coin = deposit(core, terms, 11 * COIN)
    bonded, vote = pay(core, [(FUND, DUST), *bond_outputs(core, COIN, COIN)]), noted(core, VOTE, P)
    height = mine_tx(core, close_to([coin], terms.script(), GOOD), bonded, vote)
    return core.call("getbestblockhash"), height


def test_pages_tell_everything_once_and_where_they_end(node: Flopd, core: Devchain) -> None:
    start = core.height()
    some_facts(core)
    block, height = some_facts(core)
    core.mine(2)
    node.at_tip()
    whole = page(node, "bonds", from_height=start)
    assert whole["next"] is None
    assert whole["tip"] == {"height": height + 2, "hash": core.call("getbestblockhash")}
    assert len(whole["facts"]) == 4
    first = page(node, "bonds", from_height=start, limit=3)
    assert (first["facts"], first["next"]) == (whole["facts"][:3], whole["facts"][2]["at"])
    rest = page(node, "bonds", from_height=start, limit=3, after=first["next"])
    assert (rest["facts"], rest["next"]) == (whole["facts"][3:], None)
    part = page(node, "bonds", from_height=start, to_height=height)
    assert part["tip"] == {"height": height, "hash": block}
    assert part["facts"] == whole["facts"]
    before = page(node, "bonds", from_height=start, to_height=height - 1)
    assert before["facts"] == whole["facts"][:2]
    above = page(node, "bonds", base=before["tip"])
    assert above["facts"] == whole["facts"][2:]
    assert page(node, "bonds", base=whole["tip"])["facts"] == []


def test_whoever_has_read_a_block_that_fell_out_is_told_so(node: Flopd, core: Devchain) -> None:
    block, height = some_facts(core)
    core.mine(1)
    node.at_tip()
    bases = {kind: page(node, kind)["tip"] for kind in KINDS}
    core.call("invalidateblock", block)
    core.mine(3)
    node.at_tip()
    for kind in KINDS:
        with pytest.raises(ChainMoved) as caught:
            page(node, kind, base=bases[kind])
        assert caught.value.details == {"height": height + 1}
    # What fell out waited in the mempool and is in another block now.
    assert {fact["at"]["height"] for kind in KINDS for fact in told(node, kind, height)} == {height}
    assert page(node, "notes", base={"height": height - 1, "hash": core.call("getblockhash", height - 1)})["facts"]


def test_a_block_that_is_still_to_come_is_waited_for_only_while_old_ones_are_read(node: Flopd, core: Devchain) -> None:
    node.at_tip()
    with pytest.raises(ChainMoved):
        page(node, "notes", base={"height": core.height() + 5, "hash": "00" * 32})
    with pytest.raises(InvalidParams):
        page(node, "notes", limit=2001)


def test_a_newcomer_finds_the_same_as_a_node_that_was_there_all_the_time(
    node: Flopd, core: Devchain, short_tmp: Path
) -> None:
    funds = [{"script": script.hex(), "ref": f"fund/{n}", "birth_height": 0} for n, script in enumerate((FUND, OWN))]
    for fund in funds:
        node.call("chain.watch", fund)
    blocks = [some_facts(core)[0] for _ in range(3)]
    node.at_tip()
    core.call("invalidateblock", blocks[1])
    # What fell out comes back at another height.
    mine_tx(core)
    core.mine(1)
    some_facts(core)
    (short_tmp / "n").mkdir()
    with Flopd(short_tmp / "n", node.chain) as newcomer:
        newcomer.start()
        for fund in reversed(funds):
            newcomer.call("chain.watch", fund)
        wait_read((newcomer, node), core)
        assert all_facts(newcomer) == all_facts(node)
        assert all(all_facts(node).values())
        core.call("invalidateblock", core.call("getblockhash", core.height() - 2))
        core.mine(4)
        some_facts(core)
        wait_read((newcomer, node), core)
        assert all_facts(newcomer) == all_facts(node)


def test_a_flopd_that_is_killed_while_it_reads_old_blocks_goes_on_where_it_was(
    node: Flopd, core: Devchain, short_tmp: Path
) -> None:
    some_facts(core)
    core.mine(1500)
    some_facts(core)
    (short_tmp / "n").mkdir()
    with Flopd(short_tmp / "n", node.chain) as late:
        seen: list[int] = []
        said: list[str] = []
        for _ in range(3):
            late.start()
            further = min(core.height(), seen[-1] + 1 if seen else 1)  # a quick machine is at the end before the kill
            until(lambda further=further: page(late, "notes")["tip"]["height"] >= further, "progress")  # type: ignore[misc]
            seen.append(page(late, "notes")["tip"]["height"])
            said += [note for note in late.call("daemon.status")["notes"] if "old blocks" in note]
            late.kill()
        assert all(f"of {core.height()})" in note for note in said)
        assert said or seen[0] == core.height()
        late.start()
        assert page(late, "notes")["tip"]["height"] >= seen[-1]
        until(lambda: page(late, "notes")["tip"]["height"] == core.height(), "the end of the reading")
        assert {kind: told(late, kind) for kind in KINDS} == {kind: told(node, kind) for kind in KINDS}
