"""Eligibility and bonds on a real chain: dux-flopd reads it, dux-registryd decides, whatever the directory says."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eligibility_kit import FOR_EVER, PARAMETERS, WINDOW, Registryd, World, world

from dux_devnet.network import wait_until
from duxcommon.api.airdropd import RuleBook
from duxcommon.coin.script import pubkey_of
from duxcommon.errors import Conflict, DaemonDown, InsufficientFunds, InvalidParams, RulesPending
from duxcommon.identity import Identity
from duxcommon.money import COIN, DUST
from duxcommon.parameters import Parameters
from duxcommon.records import sign_record
from duxcommon.rulebook import first_rules
from tests.registryd_kit import Member, free_udp_port, until
from tests.support.devnet import APPS, running_devnet

P1, P2, P3 = (bytes([number]) * 32 for number in (0x41, 0x42, 0x43))
KEY1, KEY2, KEY3 = (pubkey_of(secret).hex() for secret in (P1, P2, P3))
GHOST: dict[str, Any] = {
    "name": "ghost", "addresses": ["127.0.0.1:9"], "version": "1", "heartbeat_s": 300,
    "hardware": {"cpu_cores": 2, "memory_mb": 1024, "storage_mb": 10, "arch": "x86_64"},
}  # fmt: skip


@pytest.fixture
def made(short_tmp: Path) -> Iterator[World]:
    with world(short_tmp) as running:
        yield running


def lacks(registryd: Registryd, key: str, height: int) -> list[str]:
    """What a key is told to lack; empty when it is eligible."""
    standing = registryd.ask("node.standing", pubkey=key, height=height)
    found = [one["condition"] for one in standing["missing"]]
    assert standing["eligible"] == (not found)
    return found


def listed(registryd: Registryd, height: int, **more: Any) -> list[str]:
    return [key["pubkey"] for key in registryd.ask("node.eligible", height=height, **more)["keys"]]


def three_workers(made: World) -> int:
    """P1 does everything right, P2's bond paid the fund nothing, P3 has none; the first snapshot with P1."""
    made.bond(P1, lock_height=500)
    bonded = made.height
    made.bond(P2, lock_height=500, paid=0)
    for provider in (P1, P2, P3):
        made.work(provider)
    made.mine_to(45)
    for provider in (P1, P2, P3):
        made.work(provider)
    made.mine_to(bonded + WINDOW + 3)
    return bonded + WINDOW


def test_who_worked_and_locked_is_eligible_from_the_exact_block_on(made: World) -> None:
    first = three_workers(made)
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.caught_up(node)
        assert [lacks(node, KEY1, height) for height in (first - 1, first)] == [["bond"], []]
        assert lacks(node, KEY2, first) == ["bond"]
        assert lacks(node, KEY3, first) == ["bond"]
        assert listed(node, first) == [KEY1]
        assert node.ask("node.eligible")["height"] == made.height - 60
        page = node.ask("node.eligible", height=first, limit=0)
        assert (page["total"], page["qualified"], page["keys"], page["next"]) == (1, 1, [], None)
        made.airdropd.spendable = 100 * COIN
        page = node.ask("node.eligible", height=first)
        assert (page["total"], page["share"], page["full"]) == (1, 10 * DUST * 4, False), "the cap, and the rest waits"
        made.airdropd.shares_paid = 10 * DUST * 4
        assert lacks(node, KEY1, first) == ["cap"]
        assert listed(node, first) == []
        assert listed(node, first, who="qualified") == [KEY1]
        with pytest.raises(RulesPending, match="has read settled work up to block"):
            node.ask("node.eligible", height=made.height + 1)
        # The node's own key has done nothing yet, and is told everything at once.
        own = node.ask("node.standing")
        assert own["pubkey"] == pubkey_of(made.payout).hex()
        assert [one["condition"] for one in own["missing"]] == ["tax", "epochs", "bond"]


def test_the_cheat_s_work_counts_for_nothing(made: World) -> None:
    made.bond(P1, lock_height=500)
    bonded = made.height
    made.work(P1)
    honest = made.height
    made.work(P1, gross=2 * COIN, bps=499)
    made.work(P1, gross=2 * COIN, bps=501)
    made.work(P1, gross=2 * COIN, fund=b"\xa9\x14" + b"\x01" * 20 + b"\x87")
    made.work(P1, gross=2 * COIN, noted=False)
    made.mine_to(bonded + WINDOW)
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.caught_up(node)
        standing = node.ask("node.standing", pubkey=KEY1, height=bonded + WINDOW)
        assert (standing["tax"], standing["epochs"]) == (5 * DUST, 1), honest


def test_keys_are_listed_page_by_page_in_order(made: World) -> None:
    for provider in (P1, P2, P3):
        made.bond(provider, lock_height=500)
    bonded = made.height
    for provider in (P1, P2, P3, P1, P2, P3):
        made.work(provider)
    made.mine_to(bonded + WINDOW)
    with Registryd(made.folder.parent / "a", made).start() as node:
        height = made.caught_up(node)
        assert listed(node, height) == sorted([KEY1, KEY2, KEY3])
        after, found = None, []
        while True:
            page = node.ask("node.eligible", height=height, limit=1, after=after)
            found += [key["pubkey"] for key in page["keys"]]
            if (after := page["next"]) is None:
                break
        assert found == sorted([KEY1, KEY2, KEY3])


def test_a_directory_that_shows_different_records_to_different_nodes_changes_nothing(made: World) -> None:
    first = three_workers(made)
    folder, port = made.folder.parent, free_udp_port()
    with (
        Registryd(folder / "a", made).start() as alone,
        Registryd(folder / "b", made, {"directory_port": port, "roles": ["provider"]}).start() as told,
    ):
        ghosts = [Identity.generate() for _ in range(3)]
        with Member(made.network.id, f"127.0.0.1:{port}") as member:
            for ghost in ghosts:
                member.announce(sign_record(ghost, "node", made.network.id, 1, GHOST))
            until(lambda: len(told.ask("node.list")["nodes"]) == 4, "b's directory is full of ghosts")
        assert len(alone.ask("node.list")["nodes"]) == 1
        made.caught_up(alone)
        made.caught_up(told)
        assert alone.ask("node.eligible", height=first) == told.ask("node.eligible", height=first)
        assert listed(told, first) == [KEY1]


def test_a_newcomer_and_a_node_that_watched_all_along_say_the_same(made: World) -> None:
    with Registryd(made.folder.parent / "a", made).start() as old:
        first = three_workers(made)
        made.caught_up(old)
        with Registryd(made.folder.parent / "b", made).start() as new:
            made.caught_up(new)
            assert old.ask("node.eligible", height=first) == new.ask("node.eligible", height=first)


def test_a_reorganisation_under_the_snapshot_is_taken_into_account(made: World) -> None:
    made.bond(P1, lock_height=500)
    bonded = made.height
    fork = made.height + 1
    made.work(P1)
    made.mine_to(45)
    made.work(P1)
    made.mine_to(bonded + WINDOW + 2)
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.caught_up(node)
        assert lacks(node, KEY1, bonded + WINDOW) == []
        made.chain.call("invalidateblock", made.chain.call("getblockhash", fork))
        # The same transactions again, but all at once.
        made.mine_to(bonded + WINDOW + 4)
        made.caught_up(node)
        until(lambda: lacks(node, KEY1, bonded + WINDOW) == ["epochs"], "the new blocks decide")
        # Who asks can tell that the answer is of the chain that he has himself.
        tip = {"height": made.height, "hash": made.chain.call("getblockhash", made.height)}
        assert node.ask("node.eligible", height=bonded + WINDOW)["tip"] == tip
        with Registryd(made.folder.parent / "b", made).start() as new:
            made.caught_up(new)
            assert node.ask("node.eligible", height=bonded + WINDOW) == new.ask("node.eligible", height=bonded + WINDOW)


# --- airdropd -------------------------------------------------------------------------------------------------------


def test_while_airdropd_says_nothing_of_rules_the_last_ones_go_on_even_after_a_restart(short_tmp: Path) -> None:
    hasty = PARAMETERS.model_copy(update={"vote_blocks": 10, "time_lock_blocks": 10})
    with world(short_tmp, hasty) as made:
        with Registryd(short_tmp / "a", made).start() as node:
            made.caught_up(node)
        made.airdropd.silent = True
        made.mine_to(100)
        with Registryd(short_tmp / "a", made).start() as node:
            assert made.caught_up(node) == 100
            until(lambda: node.ask("daemon.status")["notes"], "it says what it misses")
            assert any("rules" in note for note in node.ask("daemon.status")["notes"])
        # A node that never heard of any rules knows only how long the definition's can't have changed.
        with Registryd(short_tmp / "b", made).start() as new:
            until(lambda: reads_to(new, 80), "it reads as far as the rules are certain")
            with pytest.raises(RulesPending):
                new.ask("node.eligible", height=81)
            made.airdropd.silent = False
            made.caught_up(new)


def reads_to(node: Registryd, height: int) -> bool:
    try:
        node.ask("node.eligible", height=height, limit=0)
    except RulesPending:
        return False
    return True


def test_without_airdropd_the_chain_is_read_but_nobody_is_called_eligible(made: World) -> None:
    node = Registryd(made.folder.parent / "a", made)
    (node.folder / "airdropd.sock").unlink()
    with node.start():

        def told() -> bool:
            try:
                node.ask("node.eligible", height=made.height)
            except RulesPending:
                return False
            except DaemonDown:
                return True
            raise AssertionError("there was no airdropd to ask what the fund holds")

        until(told, "the chain is read, and what is missing is airdropd")
        (node.folder / "airdropd.sock").symlink_to(made.folder / "airdropd.sock")
        made.caught_up(node)


def test_rules_that_turn_out_otherwise_are_applied_to_the_blocks_they_are_about(made: World) -> None:
    first = three_workers(made)
    base = first_rules(made.network)
    dearer = base.model_copy(
        update={
            "version": 1,
            "from_height": 10,
            "proposal": "ab" * 32,
            "parameters": base.parameters.model_copy(update={"min_tax_paid": COIN}),
        }
    )
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.caught_up(node)
        assert lacks(node, KEY1, first) == []
        made.airdropd.book = RuleBook(network=made.network.id, rules=[base, dearer], known_to=FOR_EVER)
        made.chain.mine(1)
        until(lambda: lacks(node, KEY1, first) == ["tax"], "the new rules hold")
        assert node.ask("node.standing", pubkey=KEY1, height=first)["rules"] == 1
        assert node.ask("daemon.status")["rules"] == 1


# --- this node's bonds ----------------------------------------------------------------------------------------------


def bonds(node: Registryd) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.ask("node.bonds")["bonds"]
    return found


def states(node: Registryd) -> list[str]:
    return [bond["state"] for bond in bonds(node)]


def test_auto_bond_makes_renews_and_takes_back_and_leaves_no_window_uncovered(made: World) -> None:
    made.flopd.fill(10 * COIN)
    settings = {"auto_bond": True, "bond_windows": 3}
    with Registryd(made.folder.parent / "a", made, settings).start() as node:
        made.caught_up(node)
        until(lambda: "no settled work" in node.ask("node.bonds")["note"], "without work it waits")
        made.work(made.payout)
        made.caught_up(node)
        until(lambda: states(node) == ["sent"], "after the first work a bond is on its way")
        made.chain.mine(1)
        made.caught_up(node)
        first = until(lambda: [bond for bond in bonds(node) if bond["confirmed"]], "the first bond is confirmed")[0]
        assert first["amount"] == COIN * 110 // 100

        worked = made.height
        while made.height < first["lock_height"] + 2:
            if made.height - worked > WINDOW // 2:
                made.work(made.payout)
                worked = made.height
            made.chain.mine(2)
            made.caught_up(node)
            until(lambda: stepped(made, node), "the node looked after its bonds")
        until(lambda: {"releasing", "released"} & set(states(node)), "what is free is taken back")
        made.chain.mine(1)
        until(lambda: "released" in states(node), "it came back")

        tip = made.caught_up(node)
        held = [node.ask("node.standing", height=height)["bond"] for height in range(first["confirmed"] + WINDOW, tip)]
        assert min(held) >= COIN, "no window was uncovered"
        assert max(held) <= 2 * COIN * 110 // 100, "and no more was locked than the old bond and the new one"
        released = next(bond for bond in bonds(node) if bond["state"] == "released")
        assert released["txid"] == first["txid"]
        payout = made.flopd.call("wallet.status")["payout_address"]
        history = made.flopd.call("wallet.history")["entries"]
        assert any(entry["purpose"] == "release" for entry in history), payout


def stepped(made: World, node: Registryd) -> bool:
    """The loop that looks after bonds has seen the tip: nothing is due that is not on its way."""
    return made.height + 2 * WINDOW <= max(bond["lock_height"] for bond in bonds(node))


def test_a_rising_price_is_met_by_a_second_bond_of_what_is_missing(made: World) -> None:
    made.flopd.fill(10 * COIN)
    with Registryd(made.folder.parent / "a", made, {"auto_bond": True, "bond_windows": 6}).start() as node:
        made.work(made.payout)
        made.caught_up(node)
        until(lambda: len(bonds(node)) == 1, "the first bond")
        made.airdropd.bond_price = 3 * COIN
        made.chain.mine(1)
        until(lambda: len(bonds(node)) == 2, "the second one")
        first = COIN * 110 // 100
        missing = 3 * COIN - first
        assert sorted(bond["amount"] for bond in bonds(node)) == [first, missing + missing // 10]
        made.chain.mine(2)
        made.caught_up(node)
        assert node.ask("node.bonds")["needed"] == 3 * COIN
        until(lambda: node.ask("node.bonds")["locked"] == first + missing + missing // 10, "both count")


def test_a_node_that_can_not_pay_for_a_bond_says_so_and_makes_it_as_soon_as_it_can(made: World) -> None:
    made.flopd.fill(COIN)
    with Registryd(made.folder.parent / "a", made, {"auto_bond": True}).start() as node:
        made.work(made.payout, gross=4 * DUST)
        made.caught_up(node)
        until(lambda: "can't be now" in node.ask("node.bonds")["note"], "it says why there is no bond")
        assert bonds(node) == []
        made.flopd.fill(COIN)
        until(lambda: len(bonds(node)) == 1, "the bond")


def test_by_hand_one_key_makes_one_bond_and_only_sensible_locks_are_taken(made: World) -> None:
    made.flopd.fill(10 * COIN)
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.caught_up(node)
        asked = {"key": "mine", "amount": 2 * COIN, "lock_blocks": 2 * WINDOW + 1}
        first = node.ask("node.bond", **asked)
        made.chain.mine(1)
        assert node.ask("node.bond", **asked)["txid"] == first["txid"]
        with pytest.raises(Conflict):
            node.ask("node.bond", key="mine", amount=COIN)
        for blocks in (2 * WINDOW, 25 * WINDOW):
            with pytest.raises(InvalidParams, match="nothing or be out of reach"):
                node.ask("node.bond", key="other", lock_blocks=blocks)
        with pytest.raises(InsufficientFunds):
            node.ask("node.bond", key="too-much", amount=100 * COIN)
        made.caught_up(node)
        until(lambda: states(node) == ["locked"], "it is confirmed")
        assert node.ask("node.unbond")["bonds"][0]["state"] == "locked"
        assert "auto_bond" in node.ask("node.bonds")["note"]

        made.mine_to(first["lock_height"])
        made.caught_up(node)
        until(lambda: states(node) == ["free"], "it is free, and nobody asked for it yet")
        assert node.ask("node.unbond")["bonds"][0]["state"] == "releasing"
        made.chain.mine(1)
        made.caught_up(node)
        until(lambda: states(node) == ["released"], "it is back")
        back = made.flopd.balance()["confirmed"]
        assert 10 * COIN - 2 * DUST < back < 10 * COIN - DUST, "all but the fund's 0.01 FLOP and two fees"


def test_without_a_number_what_is_missing_is_locked(made: World) -> None:
    made.flopd.fill(10 * COIN)
    with Registryd(made.folder.parent / "a", made, {"bond_windows": 4}).start() as node:
        tip = made.caught_up(node)
        made_bond = node.ask("node.bond", key="k")
        assert made_bond["amount"] == COIN * 110 // 100
        assert made_bond["lock_height"] in (tip + 4 * WINDOW, tip + 4 * WINDOW - 1)


def test_a_gift_bond_counts_for_the_key_it_names_and_comes_back_to_it(made: World) -> None:
    made.bond(made.payout, lock_height=made.height + 6, amount=5 * COIN)
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.mine_to(made.height + 8)
        made.caught_up(node)
        until(lambda: states(node) == ["free"], "it is the node's")
        node.ask("node.unbond")
        made.chain.mine(1)
        made.caught_up(node)
        assert made.flopd.balance()["confirmed"] > 4 * COIN


# --- crashes --------------------------------------------------------------------------------------------------------


def killed(made: World, point: str, cause: Callable[[], None]) -> None:
    """Run a node that dies at a point."""
    folder = made.folder.parent / "a"
    (folder / "registryd.yaml").unlink(missing_ok=True)
    with Registryd(folder, made, {"auto_bond": True}, env={"DUXNET_FAILPOINT": f"registryd:{point}"}).start() as node:
        cause()
        assert node.wait() == -9


@pytest.mark.parametrize("point", ["bond-planned", "bond-built", "bond-built-committed", "bond-sent"])
def test_a_node_that_is_killed_while_it_makes_a_bond_makes_one(made: World, point: str) -> None:
    made.flopd.fill(10 * COIN)
    made.work(made.payout)
    killed(made, point, made.flopd.at_tip)
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.caught_up(node)
        until(lambda: len(bonds(node)) == 1, "the bond")
        made.chain.mine(3)
        made.caught_up(node)
        until(lambda: states(node) == ["locked"], "it is confirmed, and there is no other")
        spent = 10 * COIN + COIN * 95 // 100 - made.flopd.balance()["confirmed"]
        assert COIN < spent < COIN * 110 // 100 + 2 * DUST


@pytest.mark.parametrize("point", ["release-planned", "release-sent"])
def test_a_node_that_is_killed_while_it_takes_a_bond_back_takes_it_back_once(made: World, point: str) -> None:
    made.bond(made.payout, lock_height=made.height + 3, amount=5 * COIN)
    made.mine_to(made.height + 4)
    killed(made, point, made.flopd.at_tip)
    with Registryd(made.folder.parent / "a", made).start() as node:
        made.caught_up(node)
        until(lambda: states(node) == ["releasing"], "it is on its way")
        made.chain.mine(1)
        made.caught_up(node)
        until(lambda: states(node) == ["released"], "it is back")


# --- whole nodes ----------------------------------------------------------------------------------------------------


def test_a_provider_that_earned_locks_its_bond_by_itself_and_every_node_sees_it_eligible() -> None:
    parameters = Parameters(window_blocks=30, epochs_needed=1, min_tax_paid=DUST, bond_min=10 * DUST)
    overrides = {"alice/registryd": {"auto_bond": True, "bond_windows": 3}}
    with running_devnet(parameters=parameters, overrides=overrides) as net:
        net.fund("alice", 5)
        net.fund("bob", 20)
        net.publish("alice", APPS / "hello-words")

        def settle() -> None:
            net.run_task("bob", "hello-words", b"to be or not to be")
            channel = net.call("alice", "channel.list", {"state": "OPEN"})["channels"][0]["id"]
            net.call("bob", "channel.close", {"id": channel, "key": net.key()})
            net.wait_channel("alice", channel, "CLOSED")

        settle()

        def locked() -> Any:
            return [bond for bond in net.call("alice", "node.bonds")["bonds"] if bond["state"] == "locked"]

        (bond,) = wait_until(locked, 60, "alice's bond to be in a block")
        assert bond["amount"] == 11 * DUST
        settle()
        snapshot = bond["confirmed"] + parameters.window_blocks
        height = net.call("alice", "chain.status")["height"]
        net.mine(max(0, snapshot + 1 - height))
        pubkey = net.call("alice", "wallet.status")["payout_pubkey"]

        def answer(node: str) -> Any:
            try:
                return net.call(node, "node.eligible", {"height": snapshot})
            except RulesPending:
                return None

        told = [wait_until(lambda node=node: answer(node), 60, f"{node} to read on") for node in net.layout.nodes]
        assert [key["pubkey"] for key in told[0]["keys"]] == [pubkey]
        assert told[0] == told[1] == told[2]
        assert net.call("bob", "node.standing", {"pubkey": pubkey, "height": snapshot})["eligible"]
        assert not net.call("bob", "node.standing", {"height": snapshot})["eligible"]
