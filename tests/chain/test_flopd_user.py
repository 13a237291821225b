"""dux-flopd as a mere user of a trial chain on another machine: TLS, password, a wallet by its unguessable path."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devchain_kit import DEVNET, LITECOIND, SECRETS
from devchain_service_kit import PASSWORD, ChainService, OwnerOf
from flopd_kit import OTHER, Flopd, TestChain, address, escrow, open_chain, until

from dux_setup.certificate import hosts_of, make_certificate
from duxcommon.coin.script import p2pkh_script, pubkey_of
from duxcommon.errors import (
    ChainAuthFailed,
    ChainDown,
    Conflict,
    DustAmount,
    DuxError,
    FaucetLimit,
    InvalidParams,
    NoFaucet,
)
from duxcommon.money import COIN, format_flop

WALLET_PATH = "/wallet/" + "5a" * 16


class ServiceChain(TestChain):
    """A chain service under the face that flopd's tests know."""

    kind = "devchain-user"

    def __init__(self, service: ChainService) -> None:
        self.service = service
        self.core = OwnerOf(service)
        self.core.params = DEVNET

    def wallet_path(self, name: str) -> str:
        return WALLET_PATH

    def mine(self, blocks: int = 1) -> list[str]:
        hashes: list[str] = self.service.owner("generatetoaddress", blocks, address(self, p2pkh_script(b"\0" * 33)))
        return hashes

    def pay(self, address: str, koinu: int) -> str:
        txid: str = self.service.owner("faucet", address, format_flop(koinu))
        return txid


class UserFlopd(Flopd):
    """Logs in by https with a password."""

    chain: ServiceChain

    def core_url(self) -> str:
        return f"https://127.0.0.1:{self.chain.service.tls_port}{WALLET_PATH}"

    def login(self, ca_file: Path, password: str = PASSWORD, user: str = "node") -> None:
        path = self.folder / "password"
        path.write_text(f"{password}\n")
        path.chmod(0o600)
        core = {"url": self.core_url(), "user": user, "password_file": str(path), "ca_file": str(ca_file)}
        self.reconfigure(core={**core, "timeout_s": 10})


@pytest.fixture
def service() -> Iterator[ChainService]:
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    with ChainService(folder, tls=True, busy_block_s=600, faucet_per_call=100 * COIN) as running:
        running.start()
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def node(service: ChainService, short_tmp: Path, daemon_logs: list[str]) -> Iterator[UserFlopd]:
    with UserFlopd(short_tmp, ServiceChain(service)) as made:
        made.login(service.certificate)
        made.start()
        yield made


def refused(error: type[DuxError], node: Flopd, method: str, params: dict[str, Any]) -> DuxError:
    with pytest.raises(error) as caught:
        node.call(method, params)
    assert type(caught.value) is error
    assert caught.value.hint
    return caught.value


def test_everything_that_a_node_does_with_its_chain_works_for_a_user(service: ChainService, node: UserFlopd) -> None:
    gift = node.call("wallet.faucet", {"amount": 20 * COIN, "key": "a"})
    assert (gift["amount"], gift["confirmations"] > 0, gift["network"]["worthless"]) == (20 * COIN, True, True)
    assert node.balance()["confirmed"] == 20 * COIN
    # Keys and scripts are imported, and what pays them is found.
    payout = node.call("key.payout")["address"]
    node.chain.pay(payout, 3 * COIN)
    _, script = escrow(pubkey_of(SECRETS[0]), bytes.fromhex(node.call("key.new", {"ref": "c/1"})["pubkey"]))
    node.call("chain.watch", {"script": script.hex(), "ref": "channel/1"})
    intent = node.broadcast(node.fund(script, 2 * COIN, "fund-1"))
    node.mine()
    until(lambda: node.intent(intent)["state"] == "confirmed", "confirmation")
    assert [output["amount"] for output in node.watched("channel/1")] == [2 * COIN]
    sent = node.call(
        "wallet.send", {"to": address(node.chain, p2pkh_script(pubkey_of(OTHER))), "amount": COIN, "key": "s"}
    )
    node.mine()
    until(lambda: node.intent(sent)["state"] == "confirmed", "confirmation")
    before, history = node.balance(), node.call("wallet.history")
    assert {entry["purpose"] for entry in history["entries"]} >= {"receive", "fund", "send"}
    # Both sides start again; coins that a built transaction holds are locked again.
    held = node.fund(script, COIN, "fund-2")
    service.stop()
    service.start()
    node.stop()
    node.login(service.certificate)
    node.start()
    assert node.balance()["reserved"] > 0
    assert node.intent(held)["state"] == "built"
    assert node.balance()["in_channels"] == before["in_channels"]
    node.call("tx.cancel", {"id": held["id"]})
    # After a reload the users are the same people; without a line they are nobody.
    service.write_users("other")
    service.signal(signal.SIGHUP)
    until(lambda: service.said("configuration reloaded"), "reload")
    until(lambda: "refused the login" in str(node.call("daemon.status")["notes"]), "note of the refused login")


def test_the_same_key_asks_the_faucet_once_even_when_the_answer_is_lost(service: ChainService, node: UserFlopd) -> None:
    first = node.call("wallet.faucet", {"amount": COIN, "key": "a", "wait_s": 0})
    assert node.call("wallet.faucet", {"amount": COIN, "key": "a"})["txid"] == first["txid"]
    refused(Conflict, node, "wallet.faucet", {"amount": 2 * COIN, "key": "a"})
    service.owner("devchain.fault", {"mode": "drop-reply", "method": "faucet", "count": 1})
    refused(ChainDown, node, "wallet.faucet", {"amount": COIN, "key": "b"})
    again = node.call("wallet.faucet", {"amount": COIN, "key": "b"})
    assert again["txid"] != first["txid"]
    until(lambda: node.balance()["confirmed"] == 2 * COIN, "both gifts, once each")


def test_the_faucet_has_limits_and_says_so(node: UserFlopd) -> None:
    said = refused(FaucetLimit, node, "wallet.faucet", {"amount": 101 * COIN, "key": "a"})
    assert "at most 100.00 FLOP at a time" in said.message
    refused(DustAmount, node, "wallet.faucet", {"amount": 1, "key": "b"})
    refused(InvalidParams, node, "wallet.faucet", {"amount": -1, "key": "c"})


def test_a_core_without_a_faucet_is_named(short_tmp: Path, daemon_logs: list[str]) -> None:
    if not LITECOIND.exists():
        pytest.skip("not run: needs litecoind")
    (short_tmp / "chain").mkdir()
    (short_tmp / "node").mkdir()
    chain = open_chain("litecoind", short_tmp / "chain")
    try:
        with Flopd(short_tmp / "node", chain) as running:
            running.start()
            said = refused(NoFaucet, running, "wallet.faucet", {"amount": COIN, "key": "a"})
            assert "has no faucet" in said.message
    finally:
        chain.close()


@pytest.mark.parametrize("hosts", [("192.168.7.7",), ("home.lan",)])
def test_a_certificate_for_another_address_is_refused_and_nothing_is_sent(
    service: ChainService, short_tmp: Path, hosts: tuple[str, ...], daemon_logs: list[str]
) -> None:
    service.reconfigure(**service.door(service.folder, *hosts))
    service.signal(signal.SIGHUP)
    until(lambda: service.said("configuration reloaded"), "reload")
    assert hosts_of(service.certificate.read_text()) == list(hosts)
    with UserFlopd(short_tmp, ServiceChain(service)) as node:
        node.login(service.certificate)
        node.start()
        said = refused(ChainDown, node, "wallet.balance", {})
        assert "certificate" in said.message.lower()


def test_a_chain_that_shows_another_certificate_than_the_invitations_is_refused(
    service: ChainService, short_tmp: Path, daemon_logs: list[str]
) -> None:
    other = short_tmp / "other.pem"
    other.write_text(make_certificate(["127.0.0.1"])[0])
    with UserFlopd(short_tmp, ServiceChain(service)) as node:
        node.login(other)
        node.start()
        assert "certificate" in refused(ChainDown, node, "wallet.balance", {}).message.lower()
        node.stop()
        node.login(service.certificate, password="wrong-password-of-length")
        node.start()
        refused(ChainAuthFailed, node, "wallet.balance", {})
