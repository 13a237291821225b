"""What dux-ctl shows of proposals, votes and parameters, and how its verbs ask, without any daemon."""

import json
from pathlib import Path
from typing import Any

import pytest
from ctl_kit import ADDRESS, HASH, KEY, LABEL, OTHER_KEY, OTHER_NODE, TXID, WARNING, Fake, network, run, wire

from dux_ctl import exits, screens_votes, why
from duxcommon.api import governance as models
from duxcommon.errors import InvalidParams
from duxcommon.money import COIN

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
