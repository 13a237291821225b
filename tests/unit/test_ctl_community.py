"""What dux-ctl shows of fund, rounds, shares and votes, and how its verbs ask, without any daemon."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dux_ctl import exits, main, screens, screens_fund, screens_share, screens_votes, status, why
from dux_ctl.control import Control
from duxcommon.api import airdropd as fund_models
from duxcommon.api import governance as models
from duxcommon.api import registryd as node_models
from duxcommon.errors import InvalidParams, NotFound
from duxcommon.money import COIN

LABEL = {"name": "devnet", "chain": "devnet", "worthless": True}
WARNING = "network: devnet (devnet): private trial network, coins have no value"
ADDRESS = "e9Pfr1KeoLsbPaP8fwpfvBe3j3WDKsyjAQ"
KEY, OTHER_KEY = "02" + "11" * 32, "03" + "22" * 32
NODE, OTHER_NODE = "ab" * 32, "cd" * 32
HASH, TXID = "5b1f9c2ad401" + "0" * 52, "ef" * 32

Answers = dict[str, Any]


class Fake(Control):
    """Answers from a table of values, or of functions of the parameters; remembers what was asked."""

    def __init__(self, answers: Answers, *, as_json: bool = False) -> None:
        super().__init__(Path("/nowhere"), as_json, 1.0)
        self.answers: Answers = {"network.show": {**network(), **LABEL}, **answers}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        self.asked.append((method, params or {}))
        if method not in self.answers:
            raise NotFound(f"{method} is not expected here")
        answer = self.answers[method]
        found: dict[str, Any] = answer(params or {}) if callable(answer) else answer
        return found


def run(control: Control, *words: str) -> int:
    """One command line against a fake."""
    args = main.build_parser(words[0]).parse_args(words)
    verb: Callable[[argparse.Namespace, Control], int] = args.run
    return verb(args, control)


def wire(model: type[BaseModel], **values: Any) -> dict[str, Any]:
    """A reply as it comes over the socket: it fits the declared model or the test is wrong."""
    return model.model_validate_json(json.dumps(values)).model_dump(mode="json")


OLD_FUND = {"address": "dDRHcmpvuEhrc1YoCkygeHVoeQBtzThwNG", "counts_until": 13_000}


def network() -> dict[str, Any]:
    return wire(
        models.NetworkInfo, id=HASH, name="devnet", chain="devnet", genesis=HASH, birth_height=0, worthless=True,
        version=2, fund_address="e9Pfr1KeoLsbPaP8fwpfvBe3j3WDKsyjAQ", old_fund_addresses=[OLD_FUND],
        tax_bps=450, min_tax=1_000_000,
        airdrop_threshold=100 * COIN, guardians=[{"node": NODE, "pubkey": KEY}], guardians_m=1,
        arbiters=[{"node": None, "pubkey": OTHER_KEY}], time=0,
    )  # fmt: skip


def work(**changes: Any) -> dict[str, Any]:
    value = {
        "sequence": 8, "kind": "payout", "snapshot": 1200, "signed_from": 1260, "lapses": 1400, "recipients": 12,
        "share": 8 * COIN, "paid": 96 * COIN, "fee": 500_000, "inputs": 30, "batches": 0, "manifest": HASH,
        "unsigned": TXID, "state": "signing",
    }  # fmt: skip
    return {**value, **changes}


def guardian(**changes: Any) -> dict[str, Any]:
    value = {"node": NODE, "pubkey": KEY, "own": False, "signed": False, "heard": None, "trouble": ""}
    return {**value, **changes}


def fund(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "address": "e9Pfr1KeoLsbPaP8fwpfvBe3j3WDKsyjAQ", "old_addresses": [], "confirmed": 60 * COIN, "pending": COIN,
        "received": 812 * COIN, "payments": 123, "inflow": 3 * COIN, "window_blocks": 43_200, "spendable": 50 * COIN,
        "threshold": 100 * COIN, "missing": 50 * COIN, "rounds": 7, "work": None, "guardians": [guardian()],
        "guardians_m": 1, "rules": 2, "height": 1234, "network": LABEL,
    }  # fmt: skip
    return wire(fund_models.FundStatus, **{**value, **changes})


def test_the_addresses_of_earlier_guardians_are_shown_as_long_as_they_count() -> None:
    for text in (screens_fund.fund_status(fund(old_addresses=[OLD_FUND])), screens_votes.network_show(network())):
        assert "dDRHcmpvuEhrc1YoCkygeHVoeQBtzThwNG: payments count until block 13000" in text
    assert "old address" not in screens_fund.fund_status(fund())


def test_the_fund_is_shown_as_a_bar_with_inflow_and_who_has_signed() -> None:
    text = screens_fund.fund_status(fund())
    assert "[###############...............] 50.00 of 100.00 FLOP, 50.00 missing" in text
    assert "3.00 FLOP within the last 43200 blocks; 123 payments, 812.00 FLOP in all" in text
    assert "nothing to pay yet" in text
    assert "rules" in text
    assert "version 2, at block 1234" in text
    guardians = [
        guardian(own=True, signed=True),
        guardian(node=OTHER_NODE, trouble="it computes another transaction"),
        guardian(node=None, pubkey=OTHER_KEY, heard=1),
    ]
    full = fund(spendable=120 * COIN, missing=0, work=work(), guardians=guardians, guardians_m=2)
    text = screens_fund.fund_status(full)
    assert f"[{'#' * 30}] 120.00 of 100.00 FLOP, enough to pay out" in text
    assert "payout 8: pays equal shares, 12 × 8.00 FLOP" in text
    assert "2 of 3 must sign; 1 of them signed" in text
    rows = text.splitlines()[-3:]
    assert rows[0].split()[2:] == ["yes", "this", "node", "–"]
    assert rows[1].endswith("it computes another transaction")
    assert rows[2].split()[0] == "unknown"


@pytest.mark.parametrize(("have", "full"), [(0, 0), (1, 0), (50, 15), (99, 29), (100, 30), (10**20, 30)])
def test_the_bar_is_full_only_when_the_threshold_is_reached(have: int, full: int) -> None:
    assert screens_fund.bar(have, 100) == f"[{'#' * full}{'.' * (30 - full)}]"


def next_round(**changes: Any) -> dict[str, Any]:
    value = {
        "work": work(state="waiting-for-depth"), "waits_for": "block 1260", "sequence": 8, "spendable": 100 * COIN,
        "threshold": 100 * COIN, "missing": 0, "eligible": 12, "height": 1234,
    }  # fmt: skip
    return wire(fund_models.NextRound, **{**value, **changes})


def test_the_next_round_says_what_it_waits_for() -> None:
    text = screens_fund.airdrop_next(next_round())
    assert "waits until nothing below its snapshot can change, 26 blocks more" in text
    assert "12 payout keys" in text
    assert text.splitlines()[-1].split(maxsplit=2)[2] == "block 1260"
    grant = work(kind="grant", batches=2, state="sent")
    text = screens_fund.airdrop_next(next_round(work=grant))
    assert "grant 8: pays what was voted, 96.00 FLOP in 2 batches" in text
    assert "round 8" in screens_fund.airdrop_next(next_round(work=None, eligible=None, missing=1))


def spent(**changes: Any) -> dict[str, Any]:
    value = {
        "sequence": 1, "kind": "payout", "txid": TXID, "height": 900, "recipients": 12, "share": 8 * COIN,
        "paid": 96 * COIN, "fee": 500_000, "batches": 0, "manifest": HASH,
    }  # fmt: skip
    return {**value, **changes}


def test_rounds_are_a_table_and_one_round_shows_whom_it_paid() -> None:
    page = wire(fund_models.RoundPage, rounds=[spent(sequence=2), spent()], next=1, height=1000)
    text = screens_fund.airdrop_history(page)
    assert text.splitlines()[1].split()[:6] == ["2", "payout", "900", "12", "8.00", "96.00"]
    assert "more: --before 1" in text
    assert "nothing yet" in screens_fund.airdrop_history({"rounds": [], "next": None, "height": 1})
    outputs = [
        {"address": ADDRESS, "amount": 8 * COIN, "batch": None, "txid": TXID},
        {"address": None, "amount": 8 * COIN, "batch": 1, "txid": None},
    ]
    shown = wire(fund_models.RoundShown, round=spent(), anchor=TXID, outputs=outputs, next=2)
    text = screens_fund.airdrop_show(shown)
    assert "96.00 FLOP to 12, 8.00 each" in text
    assert text.splitlines()[-2].split() == ["no", "address", "8.00", "1", "not", "yet"]
    assert text.endswith("more: --after 2")


def test_the_price_of_a_share_says_what_comes_back_and_what_is_left() -> None:
    price = wire(
        fund_models.SharePrice, height=9, window_blocks=43_200, bond=50 * COIN, lock_blocks=129_600, tax=COIN // 10,
        fees=COIN // 100, gain=5 * COIN, net=-COIN, tied_up=52 * COIN, yearly_bps=-1234,
    )  # fmt: skip
    text = screens_fund.airdrop_price(price)
    assert "50.00 FLOP, locked for 129600 blocks; it comes back" in text
    assert "-1.00 FLOP a window" in text
    assert "-12.34 % a year" in text


def test_where_nothing_was_paid_a_share_has_no_return() -> None:
    value = {
        "height": 1234, "window_blocks": 300, "bond": COIN, "lock_blocks": 3600, "tax": COIN, "fees": COIN // 100,
        "gain": 0, "net": -COIN, "tied_up": COIN, "yearly_bps": -899_691,
    }  # fmt: skip
    text = screens_fund.airdrop_price(wire(fund_models.SharePrice, **value))
    assert "return          none: nothing was paid in that time" in text
    assert "8996.91" not in text


def trouble(**changes: Any) -> dict[str, Any]:
    return {"node": OTHER_NODE, "pubkey": OTHER_KEY, "what": "differs", "text": "pays one recipient more", **changes}


def test_why_the_fund_does_not_pay_names_the_guardian_that_differs(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [trouble(), trouble(node=None, pubkey=None, what="waits", text="60 blocks are missing")]
    value = wire(fund_models.WhyNotPaid, sequence=8, have=2, need=3, troubles=reasons)
    lines = screens_fund.airdrop_why(value).splitlines()
    assert lines[0] == "Round 8: 2 of 3 signatures are here."
    assert lines[1] == "Guardian cdcdcdcdcdcd…: pays one recipient more"
    assert lines[2] == "60 blocks are missing"
    control = Fake({"airdrop.next": next_round(), "airdrop.why": value})
    lines = why.explain("airdrop", control)
    assert "The fund holds 100.00 of 100.00 FLOP, enough to pay out." in lines
    assert "Guardian cdcdcdcdcdcd…: pays one recipient more" in lines
    assert run(control, "why", "airdrop") == exits.OK
    assert WARNING in capsys.readouterr().out
    idle = wire(fund_models.WhyNotPaid, sequence=1, have=0, need=3, troubles=[])
    lines = why.explain("fund", Fake({"airdrop.next": next_round(work=None), "airdrop.why": idle}))
    assert "It waits for: block 1260" in lines


# --- shares -----------------------------------------------------------------------------------------------------------


def standing(**changes: Any) -> dict[str, Any]:
    lacks = {
        "condition": "bond", "have": 0, "need": COIN, "unit": "koinu", "text": "no bond is locked long enough",
        "remedy": "dux-ctl node bond 1.1",
    }  # fmt: skip
    value = {
        "pubkey": KEY, "height": 1174, "rules": 2, "eligible": False, "tax": COIN, "epochs": 4, "bond": 0,
        "bond_needed": COIN, "missing": [lacks],
    }  # fmt: skip
    return wire(node_models.Standing, **{**value, **changes})


def page(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "height": 1174, "rules": 2, "total": 12, "qualified": 15, "share": 8 * COIN, "full": False, "digest": HASH,
        "keys": [], "next": None, "tip": {"height": 1234, "hash": HASH},
    }  # fmt: skip
    return wire(node_models.EligiblePage, **{**value, **changes})


def test_who_has_no_share_reads_what_is_missing_and_the_command_that_mends_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    control = Fake({"node.eligible": page(), "node.standing": standing()})
    assert run(control, "airdrop", "eligible") == exits.OK
    text = capsys.readouterr().out
    for part in (
        "no, as of block 1174", "no bond is locked long enough", "dux-ctl node bond 1.1",
        "12 keys have a share; 15 qualified, which may vote", WARNING,
    ):  # fmt: skip
        assert part in text
    # Both answers are about one snapshot, whatever block comes between the calls.
    assert control.asked[:2] == [("node.eligible", {"limit": 0}), ("node.standing", {"height": 1174})]


def test_eligible_asks_for_another_key_and_block_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    control = Fake({"node.eligible": page(), "node.standing": standing(pubkey=OTHER_KEY)}, as_json=True)
    assert run(control, "airdrop", "eligible", OTHER_KEY, "--height", "1174") == exits.OK
    assert control.asked[0] == ("node.eligible", {"height": 1174, "limit": 0})
    assert control.asked[1] == ("node.standing", {"height": 1174, "pubkey": OTHER_KEY})
    found = json.loads(capsys.readouterr().out)
    assert (found["standing"]["pubkey"], found["eligible"]["total"]) == (OTHER_KEY, 12)


def test_the_page_of_all_keys_and_the_bonds_say_what_to_do_next() -> None:
    keys = [{"pubkey": KEY, "tax": COIN}]
    text = screens_share.node_eligible(page(keys=keys, next=KEY))
    assert f"{KEY}  1.00" in text
    assert text.endswith(f"more: --after {KEY}")
    bond = {"txid": TXID, "vout": 1, "amount": COIN, "lock_height": 5000, "confirmed": None, "state": "sent"}
    bonds = {"auto": False, "pubkey": KEY, "needed": 2 * COIN, "locked": COIN, "note": "nothing to do"}
    text = screens_share.node_bonds(wire(node_models.Bonds, **bonds, bonds=[bond]))
    assert "1.00 FLOP; a share asks for 2.00" in text
    assert "auto_bond: true" in text
    assert text.splitlines()[-1].split()[1:] == ["1.00", "–", "5000", "on", "its", "way", "to", "a", "block"]
    assert "no bonds" in screens_share.node_bonds(wire(node_models.Bonds, **bonds, bonds=[]))
    assert "until block 5000; it comes back" in screens_share.node_bond(wire(node_models.BondInfo, **bond))


def test_unbonding_says_what_was_taken_back_or_when_there_will_be_something() -> None:
    def said(*bonds: dict[str, Any]) -> str:
        value = {"auto": False, "pubkey": KEY, "needed": COIN, "locked": 0, "note": "", "bonds": list(bonds)}
        return screens_share.node_unbond(wire(node_models.Bonds, **value)).splitlines()[0]

    bond = {"txid": TXID, "vout": 1, "amount": COIN, "lock_height": 5000, "confirmed": 9, "state": "locked"}
    assert said() == "nothing was taken back: no bond is locked"
    assert (
        said(bond, {**bond, "lock_height": 4000}) == "nothing was taken back: the first bond is free from block 4000 on"
    )
    assert said(bond, {**bond, "state": "releasing"}) == "free bonds are on their way back to the payout address"


@pytest.mark.parametrize(
    ("total", "full", "line"),
    [
        (0, False, "share      none"),
        (12, True, "share      8.00 FLOP at most for each"),
        (12, False, "share      8.00 FLOP at most for each; the cap holds some keys or a part of the fund back"),
    ],
)
def test_the_cap_is_named_only_where_it_holds_something_back(total: int, full: bool, line: str) -> None:
    assert line in screens_share.node_eligible(page(total=total, full=full)).splitlines()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("eligible", "xyz"), "'xyz' is not a payout key"),
        (("eligible", "--height", "-5"), "'-5' is not a number"),
        (("eligible", "--height", "5.5"), "'5.5' is not a number"),
        (("verify", "first"), "'first' is not a number"),
    ],
)
def test_a_key_block_or_round_that_is_none_is_named_before_anything_is_asked(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    control = Fake({})
    with pytest.raises(SystemExit) as ended:
        run(control, "airdrop", *words)
    assert ended.value.code == exits.USAGE
    assert says in capsys.readouterr().err
    assert control.asked == []


def test_why_explains_a_payout_key() -> None:
    lines = why.explain(KEY, Fake({"node.standing": standing()}))
    assert lines[0] == "Payout key 021111111111… has no share of the community fund as of block 1174."
    assert lines[-1] == "Missing: no bond is locked long enough; dux-ctl node bond 1.1"


# --- verifying --------------------------------------------------------------------------------------------------------


def verified(sequence: int, difference: str = "") -> dict[str, Any]:
    return wire(
        fund_models.Verified, sequence=sequence, txid=TXID, right=not difference, difference=difference, snapshot=1200,
        recipients=12, share=8 * COIN, manifest=HASH, batches_paid=0,
    )  # fmt: skip


def history(params: dict[str, Any]) -> dict[str, Any]:
    """Rounds 3, 2 | 1, in two pages."""
    first = [spent(sequence=3), spent(sequence=2)] if "before" not in params else [spent()]
    return wire(fund_models.RoundPage, rounds=first, next=None if "before" in params else 2, height=1000)


def test_all_rounds_are_verified_in_order_and_all_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    control = Fake({"airdrop.history": history, "airdrop.verify": lambda params: verified(params["sequence"])})
    assert run(control, "airdrop", "verify") == exits.OK
    assert [asked["sequence"] for method, asked in control.asked if method == "airdrop.verify"] == [1, 2, 3]
    text = capsys.readouterr().out
    assert "3 of 3 recomputed from this node's chain: all are right" in text
    assert WARNING in text


def test_the_first_wrong_round_ends_verifying_with_status_1_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def verify(params: dict[str, Any]) -> dict[str, Any]:
        return verified(params["sequence"], "output 3 pays 7.00 FLOP, not 8.00" if params["sequence"] == 2 else "")

    control = Fake({"airdrop.history": history, "airdrop.verify": verify})
    assert run(control, "airdrop", "verify") == exits.FAILED == 1
    text = capsys.readouterr().out
    assert "round 1: right" in text
    assert f"round 2: WRONG, transaction {TXID}: output 3 pays 7.00 FLOP, not 8.00" in text
    assert "round 3" not in text
    control = Fake({"airdrop.verify": verify}, as_json=True)
    assert run(control, "airdrop", "verify", "2") == 1
    assert json.loads(capsys.readouterr().out)["right"] is False
    with pytest.raises(InvalidParams, match="no round 0"):
        run(control, "airdrop", "verify", "0")


def test_with_no_rounds_there_is_nothing_to_verify(capsys: pytest.CaptureFixture[str]) -> None:
    empty = wire(fund_models.RoundPage, rounds=[], next=None, height=1)
    assert run(Fake({"airdrop.history": empty}), "airdrop", "verify") == exits.OK
    assert "paid nothing yet" in capsys.readouterr().out


@pytest.mark.parametrize(("difference", "code"), [("", 0), ("from block 900: tax_bps is 450, not 500", 1)])
def test_the_rules_are_verified_against_the_chain(
    difference: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from duxcommon.rulebook import first_rules
    from tests.escrow_world import network as definition

    book = {"network": HASH, "rules": [first_rules(definition()).model_dump(mode="json")], "known_to": 10}
    value = wire(
        models.RulesVerified, agree=not difference, difference=difference, versions=2, proposals=1, votes=5,
        approvals=0, height=1234, book=book, network=LABEL,
    )  # fmt: skip
    assert run(Fake({"param.verify": value}), "param", "verify") == code
    text = capsys.readouterr().out
    assert (difference or "the rules in use are what the chain says") in text
    assert "1 proposal, 5 votes and 0 approvals" in text
    assert WARNING in text


# --- proposals --------------------------------------------------------------------------------------------------------


def created(params: dict[str, Any]) -> dict[str, Any]:
    models.Document.model_validate_json(
        json.dumps({"network": HASH, "change": params["change"], "title": params["title"], "reason": params["reason"]})
    )
    return wire(
        models.Created,
        id=HASH,
        document=HASH,
        state="sent",
        txid=TXID,
        effect="tax_bps: 500 → 450",
        fee=224_000,
        note="",
        network=LABEL,
    )


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["tax_bps", "450"], {"kind": "parameter", "name": "tax_bps", "value": 450}),
        (["tax_bps", "4.5%"], {"kind": "parameter", "name": "tax_bps", "value": 450}),
        (["tax_bps", "4 %"], {"kind": "parameter", "name": "tax_bps", "value": 400}),
        (["airdrop_threshold", "150"], {"kind": "parameter", "name": "airdrop_threshold", "value": 150 * COIN}),
        (["window_blocks", "40000"], {"kind": "parameter", "name": "window_blocks", "value": 40_000}),
        (["--spend", "12.5", "--to", ADDRESS], {"kind": "spend", "to": ADDRESS, "amount": 1_250_000_000}),
        (
            ["--guardian-out", "ababab", "--guardian-in", f"{OTHER_NODE}:{OTHER_KEY}"],
            {"kind": "guardians", "out": KEY, "into": {"node": OTHER_NODE, "pubkey": OTHER_KEY}, "m": 1},
        ),
        (["--signatures", "2"], {"kind": "guardians", "out": None, "into": None, "m": 2}),
        (["--arbiter-out", OTHER_KEY[:10]], {"kind": "arbiters", "out": OTHER_KEY, "into": None}),
    ],
)
def test_a_proposal_is_written_as_people_write_it(
    words: list[str], change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    control = Fake({"proposal.create": created})
    assert run(control, "proposal", "create", *words, "--title", "A title", "--text", "Why. ") == exits.OK
    params = next(asked for method, asked in control.asked if method == "proposal.create")
    assert (params["change"], params["title"], params["reason"]) == (change, "A title", "Why.")
    text = capsys.readouterr().out
    assert "sent; it waits for a block" in text
    assert "once it is in a block: dux-ctl proposal vote 5b1f9c2ad401 yes" in text
    assert WARNING in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "names none"),
        (["tax_bps"], "not a parameter and a value"),
        (["tax_bps", "450", "--spend", "1"], "a parameter and a payment"),
        (["tax", "450"], "there is no parameter 'tax'"),
        (["tax_bps", "4,5"], "not a whole number of hundredths of a percent"),
        (["airdrop_threshold", "-1"], "not an amount of FLOP"),
        (["--spend", "1"], "needs an amount and an address"),
        (["--guardian-out", "0f0f0f"], "names 0 guardians"),
        (["--guardian-out", "a"], "names 1 guardians"),
        (["--guardian-in", OTHER_NODE], "not a node and its coin key"),
    ],
)
def test_a_proposal_that_makes_no_sense_is_named_before_anything_is_sent(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    control = Fake({"proposal.create": created})
    with pytest.raises((InvalidParams, SystemExit)) as refused:
        run(control, "proposal", "create", *words, "--title", "A title")
    assert says in str(refused.value) + capsys.readouterr().err
    assert "proposal.create" not in [method for method, _ in control.asked]


def test_the_text_of_a_proposal_comes_from_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "why.txt").write_text("First line.\nSecond line.\n")
    control = Fake({"proposal.create": created})
    words = ["tax_bps", "450", "--title", "T", "--text-file", str(tmp_path / "why.txt")]
    run(control, "proposal", "create", *words)
    assert control.asked[-1][1]["reason"] == "First line.\nSecond line."
    with pytest.raises(InvalidParams, match="can't read"):
        run(control, "proposal", "create", *words[:-1], str(tmp_path / "none.txt"))
    capsys.readouterr()


def proposal(**changes: Any) -> dict[str, Any]:
    tally = {
        "electorate": 20, "votes": 6, "yes": 5, "approvals": [KEY], "votes_needed": 4, "majority_pct": 60,
        "approvals_needed": 2,
    }  # fmt: skip
    value = {
        "id": HASH, "state": "VOTING", "klass": "parameter", "effect": "tax_bps: 500 → 450", "why": "",
        "title": "Lower the tax", "txid": TXID, "height": 1000, "deadline": 1300, "tally_at": 1360,
        "from_height": 2801, "tally": tally,
    }  # fmt: skip
    return {**value, **changes}


def detail(**changes: Any) -> dict[str, Any]:
    value = {
        "proposal": proposal(), "document_note": "", "network": LABEL,
        "document": {"network": HASH, "change": {"kind": "parameter", "name": "tax_bps", "value": 450},
                     "title": "Lower the tax", "reason": "The fund is full."},
        "vote": {"may": True, "why": "", "cast": "", "yes": None, "txid": None, "trouble": ""},
        "approval": {"asked": True, "cast": "", "txid": None, "trouble": ""},
    }  # fmt: skip
    return wire(models.ProposalDetail, **{**value, **changes})


def test_a_proposal_shows_its_votes_its_dates_and_how_to_vote() -> None:
    text = screens_votes.proposal_show(detail())
    for part in (
        "6 votes (20 may vote, 4 votes needed), 5 of them in favour", "1 of 2 approvals of guardians",
        "block 1300", "block 2801", "dux-ctl proposal vote 5b1f9c2ad401 yes|no",
        "dux-ctl proposal approve 5b1f9c2ad401", "The fund is full.",
    ):  # fmt: skip
        assert part in text
    cast = {"may": True, "why": "", "cast": "queued", "yes": False, "txid": None, "trouble": "the wallet is locked"}
    text = screens_votes.proposal_show(detail(vote=cast, document=None))
    assert "no, queued; the wallet is locked" in text
    barred = {"may": False, "why": "its work paid too little tax", "cast": "", "yes": None, "txid": None, "trouble": ""}
    assert "may not vote: its work paid too little tax" in screens_votes.proposal_show(detail(vote=barred))


@pytest.mark.parametrize("state", ["FAILED", "REJECTED"])
def test_what_was_not_accepted_has_no_block_from_which_it_is_in_force(state: str) -> None:
    text = screens_votes.proposal_show(detail(proposal=proposal(state=state)))
    assert "block 1360" in text
    assert "in force" not in text


def test_proposals_are_listed_with_what_comes_next() -> None:
    rows = [
        proposal(), proposal(state="LOCKED"), proposal(state="COUNTING"),
        proposal(state="REJECTED", why="above the step", title=""),
    ]  # fmt: skip
    text = screens_votes.proposal_list(wire(models.ProposalPage, proposals=rows, next=HASH, height=1234, network=LABEL))
    lines = text.splitlines()
    for line, end in zip(
        lines[1:], ("66 blocks to vote", "from block 2801", "counted at block 1360", "–"), strict=False
    ):
        assert line.endswith(end)
    assert lines[-1] == f"more: --after {HASH}"
    empty = wire(models.ProposalPage, proposals=[], next=None, height=1, network=LABEL)
    assert "there are no proposals" in screens_votes.proposal_list(empty)


def test_every_state_of_a_proposal_has_words_for_people() -> None:
    assert set(models.ProposalState.__args__) == set(screens_votes.STATES)


def test_a_vote_takes_the_first_digits_and_says_what_became_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    listed = wire(models.ProposalPage, proposals=[proposal()], next=None, height=1, network=LABEL)
    cast = wire(models.Cast, proposal=HASH, state="sent", txid=TXID, note="", network=LABEL)
    control = Fake({"proposal.list": listed, "proposal.vote": cast})
    assert run(control, "proposal", "vote", "5b1f9c2ad401", "no", "--key", "k") == exits.OK
    assert control.asked[-1] == ("proposal.vote", {"id": HASH, "yes": False, "key": "k"})
    text = capsys.readouterr().out
    assert TXID in text
    assert WARNING in text


def replayed() -> dict[str, Any]:
    def row(height: int | None) -> dict[str, Any]:
        return {
            "height": height, "inflow_before": 100 * COIN, "inflow_after": 90 * COIN, "eligible_before": 10,
            "eligible_after": 10, "share_before": 10 * COIN, "share_after": 9 * COIN, "paid_before": 100 * COIN,
            "paid_after": 90 * COIN,
        }  # fmt: skip

    return wire(
        models.Replay, effect="tax_bps: 500 → 450", from_height=1, to_height=1234, rounds_before=1, rounds_after=1,
        rows=[row(700)], total=row(None), caveats=["Nobody knows who would have worked more."], network=LABEL,
    )  # fmt: skip


def test_a_replay_is_a_table_of_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    listed = wire(models.ProposalPage, proposals=[proposal()], next=None, height=1, network=LABEL)
    control = Fake({"proposal.replay": replayed(), "proposal.list": listed})
    assert run(control, "proposal", "replay", "tax_bps", "450") == exits.OK
    assert control.asked[-1][1] == {"change": {"kind": "parameter", "name": "tax_bps", "value": 450}}
    lines = capsys.readouterr().out.splitlines()
    assert "700 100.00 → 90.00 10 10.00 → 9.00 100.00 → 90.00" in [" ".join(line.split()) for line in lines]
    assert "Nobody knows who would have worked more." in lines
    assert run(control, "proposal", "replay", "5b1f9c2ad401") == exits.OK
    assert control.asked[-1][1] == {"id": HASH}


def test_why_explains_a_proposal_by_its_first_digits() -> None:
    listed = wire(models.ProposalPage, proposals=[proposal()], next=None, height=1, network=LABEL)
    empty = {"channels": [], "nodes": [], "tasks": [], "payments": [], "next": None}
    answers = {f"{kind}.list": empty for kind in ("channel", "node", "task", "payment")}
    control = Fake({**answers, "proposal.list": listed, "proposal.show": detail()})
    lines = why.explain("5b1f9c2ad401", control)
    assert lines[0] == "Proposal “Lower the tax”: tax_bps: 500 → 450"
    assert "It is VOTING: can be voted on." in lines


# --- parameters and network -------------------------------------------------------------------------------------------


def test_parameters_are_shown_in_units_that_people_write() -> None:
    def parameter(**values: Any) -> dict[str, Any]:
        base = {
            "number": 1,
            "default": 500,
            "low": 0,
            "high": 2000,
            "largest_step": 100,
            "voting": False,
            "help": "How it is.",
        }
        return {**base, "coming": None, "coming_from": None, **values}

    rows = [
        parameter(name="tax_bps", value=500, unit="hundredths of a percent", coming=450, coming_from=2801),
        parameter(name="bond_min", value=COIN, unit="koinu", low=COIN // 100, high=10 * COIN, largest_step=COIN // 2),
        parameter(name="window_blocks", value=43_200, unit="blocks"),
    ]
    text = screens_votes.param_list(
        wire(models.ParameterList, parameters=rows, version=1, height=1234, known_to=1400, network=LABEL)
    )
    lines = text.splitlines()
    assert "5 %" in lines[1]
    assert "4.5 % from block 2801" in lines[1]
    assert "± 1 %" in lines[1]
    assert "0 to 20 %" in lines[1]
    assert "1.00 FLOP" in lines[2]
    assert "43200 blocks" in lines[3]
    assert lines[6].split(maxsplit=1) == ["tax_bps", "How it is."]
    changes = [{"version": 1, "from_height": 2801, "proposal": HASH, "effect": "tax_bps: 500 → 450"}]
    history = screens_votes.param_history(wire(models.RuleHistory, changes=changes, height=1, network=LABEL))
    assert history.splitlines()[1].split()[:3] == ["1", "2801", "5b1f9c2ad401…"]


def test_the_network_shows_its_rules_and_that_its_coins_have_no_value() -> None:
    text = screens_votes.network_show(network())
    assert "4.5 %, at least 0.01 FLOP" in text
    assert "1 of 1 sign for the fund" in text
    assert KEY in text
    assert "not known here yet" in text
    assert text.endswith(WARNING)


def test_every_screen_that_is_drawn_by_hand_exists_for_its_method() -> None:
    for method in screens._MODULES:
        assert callable(screens.find(method)), method


def test_status_has_a_line_on_fund_and_rules() -> None:
    daemon = {"uptime_s": 1, "calls": 2, "failures": 0, "notes": [], "rules": 2}
    part = {"error": {"message": "x", "data": {"name": "Other", "hint": ""}}}
    found = {name: part for name in ("node", "chain", "wallet", "keys", "channels", "provider")}
    daemons = {"flopd": {**daemon, "rules": None}, "escrowd": daemon, "airdropd": daemon}
    text = status.text({**found, "daemons": daemons, "fund": fund()}, Path("/run/duxnet"))
    assert "fund         50.00 of 100.00 FLOP, 50.00 missing\n" in text
    assert "rules        version 2\n" in text
    daemons["escrowd"] = {**daemon, "rules": 1}
    text = status.text({**found, "daemons": daemons, "fund": part}, Path("/run/duxnet"))
    assert "rules        escrowd use 1; airdropd use 2" in text
