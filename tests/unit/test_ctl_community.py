"""What dux-ctl shows of fund, rounds and shares, and how its verbs ask, without any daemon."""

import json
from pathlib import Path
from typing import Any

import pytest
from ctl_kit import (
    ADDRESS,
    HASH,
    KEY,
    LABEL,
    NODE,
    OLD_FUND,
    OTHER_KEY,
    OTHER_NODE,
    TXID,
    WARNING,
    Fake,
    network,
    run,
    wire,
)

from dux_ctl import exits, screens, screens_fund, screens_share, screens_votes, status, why
from duxcommon.api import airdropd as fund_models
from duxcommon.api import governance as models
from duxcommon.api import registryd as node_models
from duxcommon.errors import InvalidParams
from duxcommon.money import COIN


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


def test_every_screen_that_is_drawn_by_hand_exists_for_its_method() -> None:
    for method in screens._MODULES:
        assert callable(screens.find(method)), method


def test_status_has_a_line_on_fund_and_rules() -> None:
    daemon = {"uptime_s": 1, "calls": 2, "failures": 0, "notes": [], "rules": 2}
    part = {"error": {"message": "x", "data": {"name": "Other", "hint": ""}}}
    found: dict[str, Any] = {name: part for name in ("node", "chain", "wallet", "keys", "channels", "provider")}
    found |= {"live": False, "devchain": None}
    daemons = {"flopd": {**daemon, "rules": None}, "escrowd": daemon, "airdropd": daemon}
    text = status.text({**found, "daemons": daemons, "fund": fund()}, Path("/run/duxnet"))
    assert "fund         50.00 of 100.00 FLOP, 50.00 missing\n" in text
    assert "rules        version 2\n" in text
    daemons["escrowd"] = {**daemon, "rules": 1}
    text = status.text({**found, "daemons": daemons, "fund": part}, Path("/run/duxnet"))
    assert "rules        escrowd use 1; airdropd use 2" in text
