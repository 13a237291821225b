"""dux-devchain as a service: users and what they may do, the faucet's limits, TLS, reload, when blocks are made."""

import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from btclib.tx import OutPoint, Tx, TxIn, TxOut
from devchain_kit import NOBODY, SECRETS, Refused
from devchain_service_kit import PASSWORD, WALLET, ChainService, OwnerOf
from flopd_kit import until

from dux_devnet.chain import faucet, rules
from dux_devnet.chain.node import Node
from dux_devnet.chain.registry import COMMANDS
from dux_devnet.chain.users import ALLOWED
from dux_flopd import core as flopd_core
from duxcommon.coin.params import DEVNET
from duxcommon.coin.script import p2pkh_script, pubkey_of, wif_of
from duxcommon.money import COIN

MODERN_ONLY = {"createwallet", "getaddressinfo", "loadwallet", "signrawtransactionwithwallet"}
READ_BY_THE_DEMO = {"getblockheader", "getrawtransaction"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainService]:
    with ChainService(tmp_path_factory.mktemp("c"), tls=True, users=("node", "guest"), busy_block_s=600) as running:
        running.start()
        yield running


def check(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dux_devnet.chain", *options, "--config", str(folder / "devchain.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- who may what


def test_users_may_call_what_flopd_calls_and_the_faucet_and_nothing_else(chain: ChainService) -> None:
    assert (set(flopd_core.CALLS) - MODERN_ONLY) | READ_BY_THE_DEMO | {"faucet"} == ALLOWED
    for method in sorted(set(COMMANDS["flopcoin"]) - ALLOWED):
        assert chain.http({"method": method, "params": []})[0] == 403, method
        assert chain.http({"method": method, "params": []}, tls=True)[0] == 403, method
        assert chain.http([{"method": "getblockhash", "params": [0]}, {"method": method}])[0] == 403, method
    for method in MODERN_ONLY:
        with pytest.raises(Refused) as refused:
            chain.ask(method)
        assert refused.value.code == -32601
    assert chain.ask("getblockhash", 0) == DEVNET.genesis


@pytest.mark.parametrize(
    "path", ["/", "/wallet/", "/wallet/devchain-miner", f"/wallet/{'AB' * 16}", f"/wallet/{WALLET}0"]
)
@pytest.mark.parametrize("tls", [False, True])
def test_a_user_must_name_a_wallet_that_nobody_can_guess(chain: ChainService, path: str, tls: bool) -> None:
    status, body = chain.http({"method": "listunspent"}, path=path, tls=tls)
    assert (status, b"32 hex digits" in body) == (403, True)


def test_a_wallet_shows_nothing_of_another(chain: ChainService) -> None:
    mine, yours = (f"/wallet/{name * 16}" for name in ("01", "02"))
    address = chain.ask("getnewaddress", "a", path=mine)
    txid = chain.ask("faucet", address, "5", path=mine)
    assert [coin["txid"] for coin in chain.ask("listunspent", 0, path=mine)] == [txid]
    assert chain.ask("listunspent", 0, path=yours) == []
    assert chain.ask("validateaddress", address, path=yours)["ismine"] is False
    with pytest.raises(Refused):
        chain.ask("gettransaction", txid, path=yours)


@pytest.mark.parametrize(
    "login",
    [f"node:{PASSWORD}x", "node:", f"nobody:{PASSWORD}", f":{PASSWORD}", "node", f"node\x00:{PASSWORD}", "\xff\xfe:x"],
)
@pytest.mark.parametrize("tls", [False, True])
def test_a_wrong_login_gets_nothing(chain: ChainService, login: str, tls: bool) -> None:
    assert chain.http({"method": "getblockhash", "params": [0]}, login=login, tls=tls) == (401, b"")


def test_the_cookie_opens_everything_and_only_on_this_machine(chain: ChainService) -> None:
    cookie = chain.cookie.read_text()
    assert chain.http({"method": "help"}, login=cookie, path="/")[0] == 200
    assert chain.http({"method": "help"}, login=cookie, path="/", tls=True)[0] == 401


# --- the faucet


def test_the_faucet_gives_users_so_much_at_a_time_and_so_much_an_hour(tmp_path: Path) -> None:
    folder = tmp_path
    with ChainService(
        folder, users=("node", "guest"), faucet_per_call=10 * 10**8, faucet_per_hour=25 * 10**8, busy_block_s=600
    ) as chain:
        chain.start()
        with pytest.raises(Refused, match=r"at most 10\.00 FLOP at a time") as refused:
            chain.ask("faucet", NOBODY, "10.00000001")
        assert refused.value.code == -100
        for _ in range(2):
            chain.ask("faucet", NOBODY, "10")
        with pytest.raises(Refused, match=r"at most 25\.00 FLOP an hour"):
            chain.ask("faucet", NOBODY, "5.1")
        chain.ask("faucet", NOBODY, 5)
        chain.ask("faucet", NOBODY, "10", user="guest")
        # A reload is no way around it.
        chain.signal(signal.SIGHUP)
        until(lambda: chain.said("configuration reloaded"), "reload")
        with pytest.raises(Refused, match="an hour"):
            chain.ask("faucet", NOBODY, "1")
        assert chain.owner("faucet", NOBODY, 1000)


def test_searching_the_whole_chain_is_rationed(chain: ChainService) -> None:
    key = wif_of(SECRETS[0], DEVNET)
    for _ in range(20):
        chain.ask("importprivkey", key, "", True, user="guest")
    with pytest.raises(Refused, match="20 times an hour"):
        chain.ask("importprivkey", key, "", True, user="guest")
    chain.ask("importprivkey", key, "", False, user="guest")
    for anything in (NOBODY, "00", ""):
        with pytest.raises(Refused, match="say rescan false"):
            chain.ask("importaddress", anything, "", True)
    chain.ask("importaddress", NOBODY, "", False)


def test_no_user_fills_the_chains_memory_with_addresses_labels_wallets_or_locks(tmp_path: Path) -> None:
    with ChainService(tmp_path, users=("node", "guest"), busy_block_s=600) as chain:
        chain.start()
        for _ in range(8):
            chain.ask("importaddress", secrets.token_hex(250_000), "", False, user="guest")
        chain.ask("importaddress", (kept := secrets.token_hex(250_000)), "", False, user="guest")
        for _ in range(7):
            chain.ask("getnewaddress", "x" * 240_000, user="guest")
        for method, *params in (
            ("importaddress", secrets.token_hex(250_000), "", False),
            ("importaddress", NOBODY, "x" * 250_000, False),
            ("getnewaddress", "x" * 250_000),
        ):
            with pytest.raises(Refused, match="an hour") as refused:
                chain.ask(method, *params, user="guest")
            assert refused.value.code == -100
        # What is there already costs nothing, and neither does reading or another user's share.
        chain.ask("importaddress", kept, "", False, user="guest")
        assert chain.ask("getblockhash", 0, user="guest", path=f"/wallet/{secrets.token_hex(16)}") == DEVNET.genesis
        chain.ask("getnewaddress", "x" * 250_000)
        # Nobody's coins are not kept locked.
        chain.ask("lockunspent", False, [{"txid": "ab" * 32, "vout": vout} for vout in range(1000)])
        assert chain.ask("listunspent", 0) == []
        assert OwnerOf(chain).call("listlockunspent", wallet=WALLET) == []
        txid = chain.ask("faucet", chain.ask("getnewaddress"), 1)
        coin = next(coin for coin in chain.ask("listunspent", 0) if coin["txid"] == txid)
        chain.ask("lockunspent", False, [{"txid": txid, "vout": coin["vout"]}])
        assert chain.ask("listunspent", 0) == []
        assert [one["txid"] for one in OwnerOf(chain).call("listlockunspent", wallet=WALLET)] == [txid]


def test_no_users_transaction_holds_up_all_the_others(chain: ChainService) -> None:
    """Signing 1600 inputs took 49 s in one go; the watchdog gives the chain 30."""

    def spending(inputs: int, outputs: int = 1) -> str:
        given = [TxIn(OutPoint(number.to_bytes(32, "big"), 0)) for number in range(1, inputs + 1)]
        return (
            Tx(1, 0, given, [TxOut(COIN, p2pkh_script(bytes(33)))] * outputs, check_validity=False)
            .serialize(include_witness=False, check_validity=False)
            .hex()
        )

    def told(inputs: int) -> list[dict[str, Any]]:
        script = chain.ask("validateaddress", chain.ask("getnewaddress"))["scriptPubKey"]
        return [
            {"txid": number.to_bytes(32, "big").hex(), "vout": 0, "scriptPubKey": script}
            for number in range(1, inputs + 1)
        ]

    begun = time.monotonic()
    for method, *params in (
        ("signrawtransaction", spending(251), told(251)),
        ("sendrawtransaction", spending(251)),
        ("fundrawtransaction", spending(251)),
        ("signrawtransaction", spending(1, 3000)),
    ):
        with pytest.raises(Refused, match="a user's transaction has at most") as refused:
            chain.ask(method, *params)
        assert refused.value.code == -100
    assert time.monotonic() - begun < 30
    assert chain.ask("signrawtransaction", spending(250), told(250))["complete"] is True


# --- TLS


def test_other_machines_are_served_by_tls_1_3_alone_with_a_certificate_that_names_the_address(
    chain: ChainService,
) -> None:
    assert chain.ask("getblockhash", 0, tls=True) == DEVNET.genesis
    with socket.create_connection(("127.0.0.1", chain.tls_port), 10) as raw:
        tls = chain.context().wrap_socket(raw, server_hostname="127.0.0.1")
        assert tls.version() == "TLSv1.3"
    old = chain.context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    for context, name in (
        (old, "127.0.0.1"),
        (chain.context(), "192.168.7.7"),
        (ssl.create_default_context(), "127.0.0.1"),
    ):
        with socket.create_connection(("127.0.0.1", chain.tls_port), 10) as raw, pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname=name)


def test_an_address_that_the_machine_gets_only_later_is_listened_on_from_the_start(tmp_path: Path) -> None:
    """At boot the network may come after the chain; 192.0.2.0/24 is for documents, and nobody's."""
    with ChainService(tmp_path, tls=True) as late:
        late.reconfigure(listen="192.0.2.7:32554")
        late.start()
        assert late.said("other machines are served on 192.0.2.7")
        assert late.ask("getblockhash", 0) == DEVNET.genesis


# --- configuration


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prot": 1}, "unknown key 'prot'"),
        ({"port": "32553"}, "port"),
        ({"listen": "127.0.0.1:1"}, "needs `certificate`"),
        ({"listen": "127.0.0.1"}, "listen"),
        ({"busy_block_s": 5, "idle_block_s": 1}, "longer than"),
        ({"users": "/nowhere/users"}, "can't read the chain's users"),
        ({"listen": "127.0.0.1:1", "certificate": "/nowhere/c", "key": "/nowhere/k"}, "can't use /nowhere/c"),
        ({"faucet_per_call": 10**9, "faucet_per_hour": 10**8}, "is more than"),
    ],
    ids=str,
)
def test_a_bad_configuration_is_refused_with_its_fault(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with ChainService(tmp_path) as made:
        made.reconfigure(**settings)
        for options in (["--check"], []):
            done = check(tmp_path, *options)
            assert (done.returncode, said in done.stderr) == (78, True), done.stderr


@pytest.mark.parametrize("text", ["node", "node:zz$zz", "a b:00$00", "node:password"])
def test_a_bad_line_of_users_is_refused_by_its_number_and_not_shown(tmp_path: Path, text: str) -> None:
    with ChainService(tmp_path) as made:
        made.users.write_text(made.users.read_text() + text + "\n")
        done = check(tmp_path, "--check")
    assert done.returncode == 78
    assert "line 4: expected user:salt$hmac" in done.stderr
    assert text not in done.stderr


def test_a_user_twice_is_refused_and_a_good_configuration_is_good(tmp_path: Path) -> None:
    with ChainService(tmp_path, tls=True) as made:
        assert (check(tmp_path, "--check").stdout, check(tmp_path, "--check").returncode) == (
            f"{made.config}: good\n",
            0,
        )
        made.write_users("node", "node")
        assert "user 'node' stands twice" in check(tmp_path, "--check").stderr


def test_the_options_of_the_devnet_do_not_mix_with_a_configuration(tmp_path: Path) -> None:
    with ChainService(tmp_path):
        assert check(tmp_path, "--port", "5").returncode == 2
        assert check(tmp_path, "--datadir", "/tmp/x").returncode == 2


def test_sighup_takes_users_and_listen_and_keeps_the_old_where_the_new_is_bad(tmp_path: Path) -> None:
    with ChainService(tmp_path) as chain:
        chain.start()
        chain.write_users("other")
        chain.reconfigure(**chain.door(tmp_path))
        chain.signal(signal.SIGHUP)
        until(lambda: chain.said("configuration reloaded"), "reload")
        assert chain.http({"method": "getblockhash", "params": [0]})[0] == 401
        assert chain.ask("getblockhash", 0, user="other", tls=True) == DEVNET.genesis
        # The same address with a new certificate: no connection is refused in between.
        chain.reconfigure(**chain.door(tmp_path, "127.0.0.1", "home.lan"))
        chain.signal(signal.SIGHUP)
        until(lambda: len([1 for line in chain.lines() if "configuration reloaded" in line["message"]]) == 2, "reload")
        assert chain.ask("getblockhash", 0, user="other", tls=True) == DEVNET.genesis
        port = chain.tls_port
        chain.users.write_text("nonsense\n")
        chain.signal(signal.SIGHUP)
        until(lambda: chain.said("the configuration stays as it was"), "refusal")
        assert chain.ask("getblockhash", 0, user="other", tls=True) == DEVNET.genesis
        chain.write_users("other")
        chain.reconfigure(port=1)
        chain.signal(signal.SIGHUP)
        until(lambda: chain.said("port can't change"), "refusal")
        chain.reconfigure(port=0, listen=None)
        chain.signal(signal.SIGHUP)
        until(lambda: chain.said("listen None"), "reload")
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 5):
            pass
        assert chain.ask("getblockhash", 0, user="other") == DEVNET.genesis


@pytest.mark.parametrize(
    ("setting", "value", "hint"),
    [("port", "{port}", "set another `port` in /etc/duxnet/devchain.d/20-port.yaml"),
     ("listen", "127.0.0.1:{port}", "`dux-ctl network host --off`")],
    ids=["port", "listen"],
)  # fmt: skip
def test_a_port_that_is_taken_is_named_with_its_setting_and_tried_again(
    tmp_path: Path, setting: str, value: str, hint: str
) -> None:
    with socket.socket() as taken, ChainService(tmp_path, tls=True) as chain:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        chain.reconfigure(**{setting: yaml.safe_load(value.format(port=port))})
        chain.start(wait=False)
        # systemd tries again after 1, never after 78.
        assert chain.wait(60) == 1
        (line,) = [line for line in chain.lines() if line["message"].startswith("can't run")]
        assert (line["message"], line["error"]) == (
            f"can't run: port {port} of 127.0.0.1 is taken by another program", "PortTaken",
        )  # fmt: skip
        assert hint in line["hint"]
        assert any(f"STATUS={line['message']}. {line['hint']}" in message for message in chain.told())


def test_a_second_chain_on_the_same_folder_is_told_that_there_is_one(tmp_path: Path) -> None:
    with ChainService(tmp_path) as chain:
        chain.start()
        done = check(tmp_path)
        assert done.returncode == 1
        assert "dux-devchain is probably already running" in done.stderr
        assert "AlreadyRunning" in done.stderr


def test_systemd_hears_of_the_start_of_every_sign_of_life_and_of_the_end(tmp_path: Path) -> None:
    with ChainService(tmp_path) as chain:
        chain._env["WATCHDOG_USEC"] = "200000"
        chain.start()
        for _ in range(3):
            chain.wait_message("WATCHDOG=1", 10)
        chain.signal(signal.SIGTERM)
        chain.wait_message("STOPPING=1", 10)
        assert chain.process is not None
        assert chain.process.wait(60) == 0


# --- blocks


def test_a_waiting_transaction_gets_a_block_at_once_and_more_follow_while_somebody_works(tmp_path: Path) -> None:
    with ChainService(tmp_path, busy_block_s=0.3, idle_block_s=3600) as chain:
        chain.start()
        for _ in range(7):
            chain.owner("generatetoaddress", 1, NOBODY)
        time.sleep(0.6)
        height = chain.owner("getblockcount")
        time.sleep(0.6)
        assert chain.owner("getblockcount") == height, "a block was made while nobody did anything"
        chain.ask("faucet", chain.ask("getnewaddress", ""), "1")
        until(lambda: chain.ask("listunspent", 1), "confirmation", 60)
        confirmed = chain.owner("getblockcount")
        until(lambda: chain.owner("getblockcount") > confirmed + 2, "blocks on top", 60)


def test_without_transactions_blocks_come_at_the_idle_pace(tmp_path: Path) -> None:
    with ChainService(tmp_path, busy_block_s=0.1, idle_block_s=0.4) as chain:
        chain.start()
        first, begun = chain.owner("getblockcount"), time.monotonic()
        until(lambda: chain.owner("getblockcount") >= first + 3, "three blocks", 60)
        assert time.monotonic() - begun > 0.8


def test_the_faucet_keeps_few_coins_and_still_gives_what_is_asked(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for _ in range(faucet.PURSE + 30):
        with node.change():
            node.mine(faucet.idle_script(node))
    purse = faucet.miner_wallet(node)
    assert node.wallets.unspent_coins(purse, 10_000) == faucet.PURSE
    script = p2pkh_script(pubkey_of(SECRETS[0]))
    with node.change():
        txid = faucet.give(node, script, 100 * rules.SUBSIDY)
        node.mine(faucet.idle_script(node))
    assert txid not in node.mempool
    assert node.wallets.unspent_coins(purse, 10_000) < faucet.PURSE
    node.close()


def test_yaml_of_the_package_is_what_holds_without_it() -> None:
    folder = Path(__file__).resolve().parent.parent.parent / "etc-duxnet"
    assert yaml.safe_load((folder / "devchain.yaml").read_text()) == {
        "datadir": "/var/lib/duxnet/devchain",
        "log_dir": "/var/log/duxnet/devchain",
    }
