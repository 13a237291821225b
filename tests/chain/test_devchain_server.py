"""dux-devchain as a process and an HTTP server: logins, malformed requests, faults on demand, start and stop."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bitcoinrpc.authproxy import JSONRPCException
from devchain_kit import NOBODY, Devchain, Refused

from dux_devnet.chain.registry import COMMANDS, DIALECTS
from dux_devnet.chain.server import commands
from dux_flopd import core as flopd_core
from duxcommon.coin.params import DEVNET

MODERN_ONLY = {"createwallet", "getaddressinfo", "loadwallet", "signrawtransactionwithwallet"}
FLOPCOIN_ONLY = {"generate", "signrawtransaction"}
FOR_PEOPLE_AND_TESTS = {
    "createrawtransaction",
    "estimatesmartfee",
    "generate",
    "generateblock",
    "generatetoaddress",
    "getbalance",
    "getblockcount",
    "getblockheader",
    "getrawmempool",
    "getrawtransaction",
    "gettxout",
    "getwalletinfo",
    "help",
    "listlockunspent",
    "invalidateblock",
    "reconsiderblock",
    "validateaddress",
}
OWN = {"devchain.fault", "devchain.syncing", "faucet"}


@pytest.fixture(scope="module", params=DIALECTS)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devchain]:
    running = Devchain(tmp_path_factory.mktemp("chain") / "c", request.param)
    if running.dialect == "modern":
        running.call("createwallet", "")
    yield running
    running.close()


def test_exactly_the_calls_that_flopd_people_and_tests_make_are_served() -> None:
    called = set(flopd_core.CALLS)
    assert commands("flopcoin") == (called | FOR_PEOPLE_AND_TESTS | OWN) - MODERN_ONLY
    assert commands("modern") == (called | FOR_PEOPLE_AND_TESTS | OWN) - FLOPCOIN_ONLY


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_call_has_help_that_names_its_parameters(dialect: Any) -> None:
    for made in COMMANDS[dialect].values():
        usage, _, text = made.help.partition("\n\n")
        assert usage.startswith(made.name)
        assert len(text.split()) > 3, made.name


def test_the_chain_is_the_devnet_and_says_so(chain: Devchain) -> None:
    assert chain.call("getblockhash", 0) == DEVNET.genesis
    assert chain.call("getblock", DEVNET.genesis)["hash"] == DEVNET.genesis
    info = chain.call("getblockchaininfo")
    assert (info["chain"], info["initialblockdownload"]) == ("devnet", False)
    assert "Devchain" in chain.call("getnetworkinfo")["subversion"]
    assert "generatetoaddress nblocks address" in chain.call("help")
    assert chain.call("help", "getblockhash").startswith("getblockhash height\n")
    assert chain.call("help", "nosuch") == "help: unknown command: nosuch\n"


def test_without_the_cookie_nothing_is_answered(chain: Devchain) -> None:
    assert stat.S_IMODE(chain.cookie.stat().st_mode) == 0o600
    for login in ("", "Basic !!!", "Basic " + base64.b64encode(b"__cookie__:wrong").decode(), "Bearer x"):
        connection = http.client.HTTPConnection("127.0.0.1", chain.port, timeout=10)
        connection.request("POST", "/", '{"method":"stop"}', {"Authorization": login} if login else {})
        response = connection.getresponse()
        assert (response.status, response.read()) == (401, b"")
        connection.close()


def test_only_posts_are_answered(chain: Devchain) -> None:
    token = base64.b64encode(chain.cookie.read_bytes()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", chain.port, timeout=10)
    connection.request("GET", "/", headers={"Authorization": f"Basic {token}"})
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("", 500, -32700),
        ("{", 500, -32700),
        ('{"method": "getblockhash", "params": [NaN]}', 500, -32700),
        ('{"method": "getblockhash", "params": [Infinity]}', 500, -32700),
        ("[" * 100_000, 500, -32700),
        ('{"a":' * 100_000, 500, -32700),
        ('{"params": []}', 400, -32600),
        ('{"method": 5}', 400, -32600),
        ('{"method": "getblockcount", "params": "x"}', 400, -32600),
        ('"getblockcount"', 400, -32600),
        ('{"method": "nosuch"}', 404, -32601),
        ('{"method": "getblockcount", "params": [1]}', 500, -1),
        ('{"method": "getblockhash", "params": []}', 500, -1),
        ('{"method": "getblockhash", "params": [null]}', 500, -1),
        ('{"method": "getblockhash", "params": ["0"]}', 500, -1),
        ('{"method": "getblockhash", "params": [true]}', 500, -1),
        ('{"method": "getblockhash", "params": [0.5]}', 500, -1),
        ('{"method": "getblockhash", "params": [1e400]}', 500, -1),
        ('{"method": "getblockhash", "params": [99999999999999999999]}', 500, -1),
        ('{"method": "getblockhash", "params": [9999]}', 500, -8),
        ('{"method": "getblockhash", "params": [-1]}', 500, -8),
        ('{"method": "getblockhash", "params": {"nosuch": 1}}', 500, -8),
        ('{"method": "gettxout", "params": ["%s", -5]}' % ("00" * 32), 200, 0),
        ('{"method": "createrawtransaction", "params": [[], {"NOBODY": 0.123456789}]}', 500, -3),
        ('{"method": "createrawtransaction", "params": [[], {"NOBODY": "nan"}]}', 500, -3),
        ('{"method": "createrawtransaction", "params": [[], {"NOBODY": 1e20}]}', 500, -3),
        ('{"method": "createrawtransaction", "params": [[], {"NOBODY": 1e-999999999}]}', 500, -3),
        ('{"method": "createrawtransaction", "params": [[{"txid": "00", "vout": 0}], {}]}', 500, -8),
        ('{"method": "createrawtransaction", "params": [[5], {}]}', 500, -8),
        ('{"method": "createrawtransaction", "params": ["x", {}]}', 500, -3),
        ('{"method": "getrawtransaction", "params": ["%s"]}' % ("zz" * 32), 500, -8),
        ('{"method": "getrawtransaction", "params": ["\\ud800"]}', 500, -8),
    ],
)
def test_a_malformed_request_gets_cores_code_and_harms_nothing(
    chain: Devchain, body: str, status: int, code: int
) -> None:
    got_status, got = chain.http(body.replace("NOBODY", NOBODY))
    answer = json.loads(got)
    assert got_status == status
    assert (answer["error"] or {"code": 0})["code"] == code
    assert chain.height() >= 0


def test_a_batch_is_answered_in_order_with_its_errors_inside(chain: Devchain) -> None:
    calls = [{"id": n, "method": "getblockhash", "params": [0 if n % 2 else 10**6]} for n in range(1000)]
    status, body = chain.http(json.dumps([*calls, 5]))
    answers = json.loads(body)
    assert status == 200
    assert [answer["id"] for answer in answers[:-1]] == list(range(1000))
    assert {answer["result"] for answer in answers[1::2]} == {DEVNET.genesis}
    assert {answer["error"]["code"] for answer in answers[0:-1:2]} == {-8}
    assert answers[-1]["error"]["code"] == -32600


def test_a_request_beyond_cores_size_is_refused(chain: Devchain) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        status, _ = chain.http(b" " * (33 * 1024 * 1024))
        assert status == 413
    assert chain.height() >= 0


def test_what_is_no_http_or_breaks_off_harms_nothing(chain: Devchain) -> None:
    token = base64.b64encode(chain.cookie.read_bytes()).decode()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
    for text in (
        "GARBAGE\r\n\r\n",
        "\x00\xff" * 1000,
        head + "Content-Length: 100\r\n\r\n{",
        head + "Content-Length: -1\r\n\r\n{}",
        head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + "X: " + "y" * 100_000 + "\r\n\r\n",
        "POST / HTTP/1.1\r\n",
    ):
        with socket.create_connection(("127.0.0.1", chain.port), timeout=5) as raw:
            raw.sendall(text.encode("latin-1"))
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while raw.recv(65536):
                    pass
        assert chain.height() >= 0


def test_named_parameters_work(chain: Devchain) -> None:
    status, body = chain.http('{"method": "getblockhash", "params": {"height": 0}}')
    assert (status, json.loads(body)["result"]) == (200, DEVNET.genesis)


def test_python_bitcoinrpc_keeps_its_connection_over_refusals(chain: Devchain) -> None:
    proxy = chain.proxy()
    for _ in range(3):
        with pytest.raises(JSONRPCException) as refused:
            proxy.getblockhash(10**6)
        assert refused.value.code == -8
        assert proxy.getbalance() == Decimal(0)


def test_a_refused_call_is_not_done_and_the_fault_counts_down(chain: Devchain) -> None:
    height = chain.height()
    chain.call("devchain.fault", {"mode": "refuse", "method": "generatetoaddress", "count": 2})
    for _ in range(2):
        status, body = chain.http(json.dumps({"method": "generatetoaddress", "params": [1, NOBODY]}))
        assert (status, body) == (503, b"Work queue depth exceeded")
        assert chain.height() == height
    chain.mine(1)
    assert chain.height() == height + 1


def test_a_dropped_reply_is_work_done_without_an_answer(chain: Devchain) -> None:
    height = chain.height()
    chain.call("devchain.fault", {"mode": "drop-reply", "method": "generatetoaddress", "count": 1})
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        chain.mine(1)
    assert chain.height() == height + 1
    chain.mine(1)


def test_a_hanging_call_is_not_done_and_holds_up_nobody_else(chain: Devchain) -> None:
    height = chain.height()
    chain.call("devchain.fault", {"mode": "hang", "method": "generatetoaddress"})
    with pytest.raises(TimeoutError):
        chain.call("generatetoaddress", 1, NOBODY, timeout=0.3)
    assert chain.height() == height
    chain.call("devchain.fault", {"mode": "none"})
    chain.mine(1)


def test_a_fault_without_a_method_hits_all_but_the_switch_itself(chain: Devchain) -> None:
    chain.call("devchain.fault", {"mode": "refuse"})
    try:
        for method in ("getblockcount", "getbestblockhash"):
            status, _ = chain.http(json.dumps({"method": method}))
            assert status == 503
    finally:
        chain.call("devchain.fault", {"mode": "none"})
    assert chain.height() >= 0
    for bad in (
        {"mode": "x"},
        {},
        {"mode": "hang", "count": 0},
        {"mode": "hang", "method": 5},
        {"mode": "none", "x": 1},
    ):
        with pytest.raises(Refused):
            chain.call("devchain.fault", bad)


def test_a_chain_can_look_as_if_it_were_catching_up(chain: Devchain) -> None:
    assert chain.call("devchain.syncing", True) is True
    info = chain.call("getblockchaininfo")
    assert info["headers"] > info["blocks"]
    assert info["initialblockdownload"] is True
    chain.call("devchain.syncing", False)
    info = chain.call("getblockchaininfo")
    assert info["headers"] == info["blocks"]


def test_only_loopback_is_offered(short_tmp: Path) -> None:
    command = [sys.executable, "-m", "dux_devnet.chain", "--datadir", str(short_tmp), "--bind", "0.0.0.0"]  # noqa: S104
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "127.0.0.1" in ended.stderr


def test_help_shows_an_example() -> None:
    command = [sys.executable, "-m", "dux_devnet.chain", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0
    assert "example:\n  dux-devchain --datadir" in ended.stdout


def test_a_second_process_on_the_same_folder_is_refused_and_the_first_goes_on(short_tmp: Path) -> None:
    first = Devchain(short_tmp / "c")
    command = [sys.executable, "-m", "dux_devnet.chain", "--datadir", str(short_tmp / "c")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "Cannot obtain a lock on data directory" in ended.stderr
    first.mine(1)
    first.close()


def test_a_port_that_is_taken_is_named(short_tmp: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "dux_devnet.chain", "--datadir", str(short_tmp), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert str(port) in ended.stderr
    assert "Traceback" not in ended.stderr


def _mine_until_it_dies(chain: Devchain, address: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        chain.call("generatetoaddress", 200_000, address)


def test_term_ends_it_soon_even_in_the_middle_of_mining(short_tmp: Path) -> None:
    chain = Devchain(short_tmp / "c")
    miner = threading.Thread(target=_mine_until_it_dies, args=(chain, NOBODY))
    miner.start()
    while chain.height() < 50:
        time.sleep(0.01)
    started = time.monotonic()
    assert chain.stop() == 0
    assert time.monotonic() - started < 30
    miner.join(60)
    assert not (chain.folder / "rpc.json").exists()
    assert not chain.cookie.exists()
    chain.start()
    assert 50 <= chain.height() < 200_000
    assert chain.call("getblock", chain.call("getbestblockhash"))["height"] == chain.height()
    chain.close()


def test_a_kill_in_the_middle_of_mining_leaves_a_whole_chain(short_tmp: Path) -> None:
    chain = Devchain(short_tmp / "c")
    miner = chain.new_wallet("miner")
    address = miner.address()
    worker = threading.Thread(target=_mine_until_it_dies, args=(chain, address))
    worker.start()
    while chain.height() < 300:
        time.sleep(0.01)
    chain.kill()
    worker.join(60)
    chain.start()
    height = chain.height()
    assert height >= 300
    assert miner.getbalance() == 500_000 * (height - 6)
    assert len(miner.listunspent()) == height - 6
    chain.mine(1)
    chain.close()


def test_auto_mining_confirms_what_waits_and_makes_blocks_in_time(short_tmp: Path) -> None:
    chain = Devchain(short_tmp / "c", "flopcoin", "--auto-mine", "60")
    bob = chain.wallet("bob")
    chain.call("faucet", bob.address(), "5")
    _until(lambda: bob.getbalance() == 5)
    paid = bob.pay({NOBODY: "1"})
    _until(lambda: bob.gettransaction(paid)["confirmations"] == 1)
    assert chain.call("getrawmempool") == []
    chain.close()
    often = Devchain(short_tmp / "c", "flopcoin", "--auto-mine", "0.2")
    start = often.height()
    _until(lambda: often.height() >= start + 3)
    often.close()


def _until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen in a minute"
        time.sleep(0.02)


def test_it_tells_the_service_manager_when_it_is_ready_and_when_it_stops(short_tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_tmp / "n"))
        manager.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": str(short_tmp / "n")}
        command = [sys.executable, "-m", "dux_devnet.chain", "--datadir", str(short_tmp / "c")]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        assert manager.recv(100) == b"READY=1"
        assert (short_tmp / "c" / "rpc.json").exists()
        process.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert process.wait(30) == 0
