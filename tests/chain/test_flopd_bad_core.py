"""A Core that is away, wrong, behind, hanging or forgetful: clear errors, and no coin spent twice or lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from devchain_kit import Devchain
from flopd_kit import OTHER, PASSPHRASE, DevTestChain, Flopd, address, until

from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import p2pkh_script, pubkey_of
from duxcommon.errors import (
    ChainAuthFailed,
    ChainDown,
    ChainSyncing,
    DuxError,
    WrongChain,
)
from duxcommon.identity import Identity
from duxcommon.money import COIN
from duxcommon.network import Member, NetworkDefinition, dump_network

STRANGER = p2pkh_script(pubkey_of(OTHER))
DIALECTS = ("flopcoin", "modern")


@pytest.fixture(params=DIALECTS)
def node(request: pytest.FixtureRequest, short_tmp: Path, daemon_logs: list[str]) -> Iterator[Flopd]:
    chain = DevTestChain(short_tmp, request.param)
    (short_tmp / "n").mkdir()
    settings = {"core": None}
    with Flopd(short_tmp / "n", chain) as running:
        value = yaml.safe_load(running.config.read_text())
        value["core"]["timeout_s"] = 1
        running.reconfigure(**{**settings, "core": value["core"]})
        yield running.start()
    chain.close()


def pay(node: Flopd, key: str, amount: int = COIN) -> dict[str, Any]:
    return node.call("wallet.send", {"to": address(node.chain, STRANGER), "amount": amount, "key": key})


def refused(error: type[DuxError], node: Flopd, method: str, params: dict[str, Any] | None = None) -> DuxError:
    with pytest.raises(error) as caught:
        node.call(method, params)
    assert type(caught.value) is error
    assert caught.value.hint
    return caught.value


def stranger_got(node: Flopd) -> int:
    """Koinu in blocks that pay the stranger."""
    total = 0
    for height in range(node.chain.call("getblockcount") + 1):
        from dux_flopd.blocks import parse_block

        raw = node.chain.call("getblock", node.chain.call("getblockhash", height), *raw_block(node))
        for tx in parse_block(bytes.fromhex(raw)).txs:
            total += sum(amount for script, amount in tx.pays if script == STRANGER)
    return total


def raw_block(node: Flopd) -> list[Any]:
    return [0] if node.chain.core.dialect == "modern" else [False]


def restart_core(node: Flopd) -> None:
    """kill -9 of the chain and a start on the same port."""
    chain = node.chain.core
    assert isinstance(chain, Devchain)
    port = chain.port
    chain.kill()
    chain.options = ("--port", str(port))
    chain.start()


MODES = ("refuse", "drop-reply", "hang")
STEPS = (
    "listunspent",
    "fundrawtransaction",
    "signrawtransaction",
    "sendrawtransaction",
    "getblockchaininfo",
    "getblock",
)


@pytest.mark.parametrize(
    ("node", "method", "mode"),
    [("flopcoin", method, mode) for method in STEPS for mode in MODES]
    + [("modern", "signrawtransactionwithwallet", mode) for mode in MODES],
    indirect=["node"],
)
def test_one_bad_answer_anywhere_pays_once_and_exactly(node: Flopd, method: str, mode: str) -> None:
    node.fill(10 * COIN)
    node.faults(mode, method, 1)
    for _ in range(3):
        try:
            pay(node, "k")
            break
        except ChainDown:
            continue
    node.faults("none")
    sent = pay(node, "k")
    node.mine()
    until(lambda: node.intent(sent)["state"] == "confirmed", "confirmation")
    assert stranger_got(node) == COIN
    assert node.balance()["confirmed"] == 9 * COIN - sent["fee"]
    assert node.balance()["reserved"] == 0


def test_a_payment_whose_sending_was_never_answered_goes_out_by_itself(node: Flopd) -> None:
    node.fill(10 * COIN)
    node.faults("refuse", "sendrawtransaction")
    sent = pay(node, "k")
    assert sent["state"] == "sent"
    assert node.chain.call("getrawmempool") == []
    node.faults("none")
    node.mine()
    until(lambda: node.chain.call("getrawmempool") == [sent["txid"]], "payment in the mempool")
    node.mine()
    assert stranger_got(node) == COIN


def test_a_chain_that_is_down_says_so_and_is_found_again(node: Flopd) -> None:
    node.fill(10 * COIN)
    held = node.fund(STRANGER, COIN, "hold")
    chain = node.chain.core
    port = chain.port
    chain.kill()
    for method, params in (
        ("chain.status", None),
        ("wallet.balance", None),
        ("wallet.receive", None),
        ("wallet.history", None),
        ("chain.watch", {"script": STRANGER.hex(), "ref": "r"}),
        ("chain.wait", {"best": "0" * 64, "timeout_s": 0.2}),
        ("wallet.send", {"to": address(node.chain, STRANGER), "amount": COIN, "key": "k"}),
    ):
        error = refused(ChainDown, node, method, params)
        assert (error.code, error.retry) == (2010, True)
    assert node.call("wallet.status")["exists"]
    assert any("can't be reached" in note for note in node.call("daemon.status")["notes"])
    assert isinstance(chain, Devchain)
    chain.options = ("--port", str(port))
    chain.start()
    until(lambda: not node.call("daemon.status")["notes"], "chain again")
    # Core has forgotten its locks; ours are put back before anything else picks coins.
    locked = node.chain.call("listlockunspent", wallet=node.wallet)
    assert len(locked) == 1
    node.broadcast(held)
    node.mine()
    assert node.intent(held)["state"] == "confirmed"
    assert node.watched("r") != []


def test_coins_that_are_promised_stay_promised_when_core_forgets_its_locks(node: Flopd) -> None:
    node.fill(2 * COIN, 2 * COIN)
    held = node.fund(STRANGER, COIN, "hold")
    node.chain.call("lockunspent", True, wallet=node.wallet)
    other = node.fund(STRANGER, COIN, "other")
    balance = node.balance()
    assert (balance["confirmed"], balance["reserved"], balance["spendable"]) == (4 * COIN, 4 * COIN, 0)
    for intent in (held, other):
        assert node.broadcast(intent)["state"] == "sent"
    node.mine()
    assert stranger_got(node) == 2 * COIN


def test_what_was_sent_survives_a_chain_that_lost_its_mempool(node: Flopd) -> None:
    node.fill(10 * COIN)
    sent = pay(node, "k")
    restart_core(node)
    until(lambda: sent["txid"] in node.chain.call("getrawmempool"), "payment in the mempool again")
    node.mine()
    assert node.intent(sent)["state"] == "confirmed"


def test_a_core_that_is_behind_is_not_paid_with(node: Flopd) -> None:
    node.fill(10 * COIN)
    node.chain.call("devchain.syncing", True)
    status = until(lambda: (s := node.call("chain.status"))["syncing"] and s, "syncing")
    assert status["headers"] > status["height"]
    error = refused(
        ChainSyncing, node, "wallet.send", {"to": address(node.chain, STRANGER), "amount": COIN, "key": "k"}
    )
    assert (error.code, error.retry) == (2012, True)
    assert str(status["headers"]) in error.message
    assert node.balance()["confirmed"] == 10 * COIN
    node.chain.call("devchain.syncing", False)
    until(lambda: not node.call("chain.status")["syncing"], "end of syncing")
    assert pay(node, "k")["state"] == "sent"


def test_a_wrong_cookie_is_named(node: Flopd) -> None:
    good = node.chain.core.cookie.read_text()
    node.stop()
    copy = node.folder / "cookie"
    copy.write_text("__cookie__:wrong")
    value = yaml.safe_load(node.config.read_text())
    node.reconfigure(core={**value["core"], "cookie": str(copy)})
    node.start()
    error = refused(ChainAuthFailed, node, "chain.status")
    assert (error.code, error.name) == (2013, "ChainAuthFailed")
    copy.write_text(good)
    until(lambda: not node.call("daemon.status")["notes"], "login")
    assert node.call("chain.status")["height"] >= 0


def rewrite_network(folder: Path, chain: str, genesis: str, birth_height: int = 0) -> None:
    guardian = Identity.generate()
    member = Member(node=guardian.node_id, pubkey=pubkey_of(b"\x01" * 32).hex())
    network = NetworkDefinition(
        name="testnet",
        chain=chain,  # type: ignore[arg-type]
        genesis=genesis,
        birth_height=birth_height,
        bootstrap=[],
        guardians=[member],
        guardians_m=1,
        arbiters=[member],
    ).signed_by(guardian)
    (folder / "network.yaml").write_text(dump_network(network))


def test_a_core_on_another_chain_is_refused(node: Flopd) -> None:
    node.stop()
    rewrite_network(node.folder, "regtest", CHAINS["regtest"].genesis)
    node.start()
    for method, params in (
        ("chain.status", None),
        ("wallet.send", {"to": "n1gZ27HhWdBc2gHipgVweuc6s6zJRfKvBp", "amount": COIN, "key": "k"}),
        ("wallet.balance", None),
    ):
        error = refused(WrongChain, node, method, params)
        assert (error.code, error.retry) == (2011, False)
        assert CHAINS["regtest"].genesis in error.message
        assert CHAINS["devnet"].genesis in error.message


# --- refused before the start ----------------------------------------------------------------------------------


def start_refused(folder: Path, chain: str, genesis: str, birth_height: int = 0, **settings: Any) -> tuple[int, str]:
    rewrite_network(folder, chain, genesis, birth_height)
    (folder / "cookie").write_text("a:b")
    core = {"url": "http://127.0.0.1:9/", "cookie": str(folder / "cookie")}
    value = {"run_dir": str(folder), "state_dir": str(folder), "log_dir": None, "core": core}
    value |= {"network": str(folder / "network.yaml"), **settings}
    (folder / "flopd.yaml").write_text(yaml.safe_dump(value))
    command = [sys.executable, "-m", "dux_flopd", "--config", str(folder / "flopd.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_the_main_chain_is_refused_with_the_reason(short_tmp: Path) -> None:
    code, text = start_refused(short_tmp, "main", CHAINS["main"].genesis, CHAINS["main"].cltv_height)
    assert code != 0
    assert "coins have value" in text
    assert "accept_main_chain_risk" in text
    assert not (short_tmp / "flopd.sqlite").exists()


def test_the_main_chain_is_used_when_the_risk_is_accepted(short_tmp: Path) -> None:
    rewrite_network(short_tmp, "main", CHAINS["main"].genesis, CHAINS["main"].cltv_height)
    (short_tmp / "cookie").write_text("a:b")
    value = {"run_dir": str(short_tmp), "state_dir": str(short_tmp), "log_dir": None, "accept_main_chain_risk": True}
    value |= {"core": {"url": "http://127.0.0.1:9/", "cookie": str(short_tmp / "cookie")}}
    (short_tmp / "flopd.yaml").write_text(yaml.safe_dump(value | {"network": str(short_tmp / "network.yaml")}))
    command = [sys.executable, "-m", "dux_flopd", "--config", str(short_tmp / "flopd.yaml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        end = time.monotonic() + 30
        while "ready" not in (line := process.stderr.readline()):
            assert line, "it ended"
            assert time.monotonic() < end
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


def test_a_network_from_before_the_chain_enforces_lock_heights_is_refused(short_tmp: Path) -> None:
    before = CHAINS["main"].cltv_height - 1
    code, text = start_refused(short_tmp, "main", CHAINS["main"].genesis, before, accept_main_chain_risk=True)
    assert code == os.EX_CONFIG
    assert "lock heights" in text


def test_a_main_chain_in_disguise_is_refused(short_tmp: Path) -> None:
    code, text = start_refused(short_tmp, "devnet", CHAINS["main"].genesis)
    assert code == os.EX_CONFIG
    assert "genesis" in text


def test_a_core_elsewhere_without_tls_is_refused_with_file_and_line(short_tmp: Path) -> None:
    core = {"url": "http://192.0.2.1:32551/", "cookie": str(short_tmp / "cookie")}
    code, text = start_refused(short_tmp, "devnet", CHAINS["devnet"].genesis, core=core)
    assert code == os.EX_CONFIG
    assert "use https" in text
    assert f"{short_tmp}/flopd.yaml, line" in text


def test_no_log_holds_a_secret(node: Flopd) -> None:
    node.fill(2 * COIN)
    pay(node, "k")
    node.call("key.new", {"ref": "c"})
    text = node.output() + json.dumps(node.log_lines())
    words = node.keystore.words.split()
    assert not any(f" {one} {two} " in text for one, two in pairwise(words))
    assert node.chain.core.cookie.read_text().split(":")[1] not in text


# --- the passphrase at the start -------------------------------------------------------------------------------


def test_a_passphrase_file_that_others_can_read_unlocks_nothing(short_tmp: Path) -> None:
    chain = DevTestChain(short_tmp, "flopcoin")
    (short_tmp / "n").mkdir()
    (short_tmp / "pass").write_text(PASSPHRASE)
    (short_tmp / "pass").chmod(0o644)
    settings = {"passphrase_file": str(short_tmp / "pass")}
    with Flopd(short_tmp / "n", chain, settings=settings, unlocked=False) as node:
        node.start()
        status = node.call("wallet.status")
        assert status["locked"]
        assert f"{short_tmp}/pass can be read by other users" in status["why"]
        assert "chmod 600" in status["why"]
        assert PASSPHRASE not in node.output()
    chain.close()


@pytest.mark.parametrize("passphrase", [PASSPHRASE, "another one"])
def test_systemds_credential_unlocks_unless_it_is_wrong(
    short_tmp: Path, daemon_logs: list[str], passphrase: str
) -> None:
    chain = DevTestChain(short_tmp, "flopcoin")
    (short_tmp / "n").mkdir()
    (short_tmp / "credentials").mkdir()
    (short_tmp / "credentials" / "wallet").write_text(passphrase)
    env = {"CREDENTIALS_DIRECTORY": str(short_tmp / "credentials")}
    with Flopd(short_tmp / "n", chain, env=env, unlocked=False) as node:
        node.start()
        assert node.call("wallet.status")["locked"] == (passphrase != PASSPHRASE)
        assert passphrase not in node.output()
    chain.close()


@pytest.mark.parametrize("node", ["flopcoin"], indirect=True)
def test_a_reload_takes_the_fee_rate_and_refuses_another_core(node: Flopd) -> None:
    node.fill(10 * COIN)
    pay = {"to": address(node.chain, STRANGER), "amount": COIN, "key": "k", "dry_run": True}
    before = node.call("wallet.send", pay)["fee"]
    node.reconfigure(fee_rate=2_040_000)
    node.signal(signal.SIGHUP)
    node.wait_log("configuration reloaded")
    assert node.call("wallet.send", pay)["fee"] == 2 * before
    value = yaml.safe_load(node.config.read_text())
    node.reconfigure(core={**value["core"], "url": "http://127.0.0.1:1/"}, fee_rate=1_020_000)
    node.signal(signal.SIGHUP)
    node.wait_log("the new configuration is not used")
    assert node.call("wallet.send", pay)["fee"] == 2 * before
