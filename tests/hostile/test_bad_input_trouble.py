"""A node in trouble: a locked wallet, a chain or a daemon that is away, a second daemon, a caller without the group.

Each is told with code, name and hint, over the sockets and through dux-ctl; nothing is lost, and when the trouble is
over everything goes on. A Core on another chain: tests/chain/test_flopd_bad_core.py.
"""

import contextlib
import io
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from dux_ctl import exits
from dux_ctl.main import main as dux_ctl
from dux_devnet.forkserver import import_daemons
from dux_devnet.layout import DAEMONS
from dux_devnet.network import wait_until
from duxcommon.errors import (
    AlreadyRunning,
    ChainDown,
    ChainSyncing,
    DaemonDown,
    DuxError,
    NotAllowed,
    SandboxFault,
    WalletLocked,
    WrongPassphrase,
)
from duxcommon.money import COIN
from tests.support.devnet import APPS, ROOT, TestNet, running_devnet
from tests.support.refusals import assert_error, refused, refused_call, unchanged

PRICE = COIN // 2
"""Of both apps."""
NOBODY_UID = 65_534
DAEMON_MAINS = import_daemons()


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """alice sells hello-words; bob has a channel to her that is good for all calls here."""
    with running_devnet(overrides={"bob/taskd": {"buyer": {"silence_s": 2, "listing_s": 0}}}) as net:
        net.fund("bob", 30)
        provider = net.layout.node_ids["alice"]
        opened = net.call("bob", "channel.open", {"provider": provider, "amount": 15 * COIN, "key": net.key()})
        net.publish("alice", APPS / "hello-words")
        net.publish("alice", ROOT / "tests" / "apps" / "slow-echo")
        net.wait_channel("bob", opened["id"], "OPEN")
        net.run_task("bob", "hello-words", b"one")
        yield net
        net.assert_audit()


@pytest.fixture
def text(short_tmp: Path) -> str:
    """A file that hello-words takes."""
    (short_tmp / "text.txt").write_bytes(b"one two two")
    return str(short_tmp / "text.txt")


def gross(net: TestNet) -> int:
    """What bob has signed away to alice."""
    return int(net.call("bob", "channel.list", {"state": "OPEN"})["channels"][0]["gross"])


def pays_again(net: TestNet) -> None:
    """A call goes through and is paid, once the network has found together again."""

    def tried() -> bool:
        with contextlib.suppress(DuxError):
            before = gross(net)
            done = net.wait_task("bob", net.order("bob", "hello-words", b"again")["id"])["state"] == "DONE"
            assert gross(net) == before + (PRICE if done else 0)
            return bool(done)
        return False

    wait_until(tried, 60, "a paid call")


# --- the wallet ------------------------------------------------------------------------------------------------------


@contextmanager
def locked(net: TestNet) -> Iterator[str]:
    """bob's wallet is locked inside; its passphrase."""
    passphrase = (net.layout.folder / "bob" / "etc" / "wallet.pass").read_text().strip()
    net.call("bob", "wallet.lock")
    try:
        yield passphrase
    finally:
        assert net.ctl("bob", "wallet", "unlock", stdin=passphrase.encode() + b"\n").returncode == exits.OK


def holds_are_refused(net: TestNet) -> bool:
    """Whether bob's escrowd has noticed the lock: a signature of half a second ago still counts as unlocked."""
    holding = {"provider": net.layout.node_ids["alice"], "amount": PRICE, "key": net.key()}
    try:
        hold = net.call("bob", "payment.hold", holding)
    except WalletLocked:
        return True
    net.call("bob", "payment.refund", {"id": hold["payment"]["id"], "reason": "too early", "key": net.key()})
    return False


def test_a_locked_wallet_spends_nothing_and_says_how_to_unlock_it(net: TestNet) -> None:
    address = net.call("alice", "wallet.receive")["address"]
    channel = net.call("bob", "channel.list", {"state": "OPEN"})["channels"][0]["id"]
    with unchanged(net, "bob"), locked(net):
        command = ["wallet", "send", address, "1"]
        error = refused(net, "bob", WalletLocked, exits.NOT_ALLOWED, command, "the wallet is locked")
        assert "dux-ctl wallet unlock" in error["data"]["hint"]
        refused(net, "bob", WalletLocked, exits.NOT_ALLOWED, ["channel", "topup", channel, "1"])
        # Neither does a program that asks the daemons itself order what could not be paid.
        wait_until(lambda: holds_are_refused(net), 60, "escrowd to ask for the wallet again")
        holding = {"provider": net.layout.node_ids["alice"], "amount": PRICE, "key": net.key()}
        refused_call(net, "bob", WalletLocked, "payment.hold", holding)
        task = net.wait_task("bob", net.order("bob", "hello-words", b"one")["id"])
        assert task["state"] == "FAILED", task
        assert_error(task["error"], WalletLocked, "the wallet is locked")
        wrong = net.ctl("bob", "wallet", "unlock", stdin=b"not the passphrase\n")
        assert wrong.returncode == exits.FAILED
        assert f"(WrongPassphrase {WrongPassphrase.code})" in wrong.stderr.decode()
        assert net.call("bob", "wallet.status")["locked"]


def test_a_result_that_arrives_while_the_wallet_is_locked_is_paid_once_it_is_unlocked(net: TestNet) -> None:
    before = gross(net)
    task = net.order("bob", "slow-echo", b"one two", params={"seconds": 3})["id"]

    def look() -> dict[str, Any]:
        found: dict[str, Any] = net.call("bob", "task.status", {"id": task})
        return found

    wait_until(lambda: look()["progress"], 60, "the app to run")
    with locked(net):
        wait_until(lambda: "the wallet is locked" in look()["step"], 60, "the task to wait for the wallet")
        assert gross(net) == before
    assert net.wait_task("bob", task)["state"] == "DONE"
    assert gross(net) == before + PRICE


# --- the chain -------------------------------------------------------------------------------------------------------


def test_without_the_chain_every_coin_stays_and_open_channels_go_on_paying(net: TestNet) -> None:
    address = net.call("alice", "wallet.receive")["address"]
    coins = {node: net.call(node, "wallet.balance") for node in ("alice", "bob")}
    net.stop(["chain"])
    try:
        wait_until(lambda: _says(net, "bob") == "ChainDown", 60, "flopd to notice")
        for command in (["wallet", "balance"], ["wallet", "send", address, "1"], ["chain", "status"]):
            error = refused(net, "bob", ChainDown, exits.UNAVAILABLE, command)
            assert "Start Flopcoin Core" in error["data"]["hint"]
        sending = {"to": address, "amount": COIN, "key": "while-down"}
        refused_call(net, "bob", ChainDown, "wallet.send", sending)
        before = gross(net)
        net.run_task("bob", "hello-words", b"offline")
        assert gross(net) == before + PRICE
    finally:
        net.restart("chain")
    for node, balance in coins.items():
        wait_until(lambda node=node: _says(net, node) == "", 60, f"{node}'s flopd to find the chain again")  # type: ignore[misc]
        assert net.call(node, "wallet.balance") == balance
    # What was refused was not done: the same key now pays for the first time.
    net.call("bob", "wallet.send", sending)
    paid = coins["alice"]["confirmed"] + COIN
    wait_until(lambda: net.call("alice", "wallet.balance")["confirmed"] == paid, 60, "the payment")


def _says(net: TestNet, node: str) -> str:
    """The name of the error that a node's flopd answers with."""
    try:
        net.call(node, "chain.status")
    except DuxError as error:
        return error.name
    return ""


def test_while_core_catches_up_nothing_is_sent_and_the_balance_is_shown(net: TestNet) -> None:
    address = net.call("alice", "wallet.receive")["address"]
    net.chain("devchain.syncing", True)
    try:
        wait_until(lambda: net.call("bob", "chain.status")["syncing"], 60, "flopd to notice")
        wait_until(lambda: net.call("carol", "chain.status")["syncing"], 60, "carol's flopd to notice")
        with unchanged(net, "bob"):
            command = ["wallet", "send", address, "1"]
            error = refused(net, "bob", ChainSyncing, exits.UNAVAILABLE, command, "Core is at block")
            assert error["data"]["details"]["headers"] > error["data"]["details"]["height"]
            opening = ["channel", "open", net.layout.node_ids["alice"], "1"]
            refused(net, "carol", ChainSyncing, exits.UNAVAILABLE, opening, "Core is at block")
            assert net.ctl("bob", "wallet", "balance").returncode == exits.OK
    finally:
        net.chain("devchain.syncing", False)
    wait_until(lambda: not net.call("bob", "chain.status")["syncing"], 60, "flopd to notice")


# --- daemons ---------------------------------------------------------------------------------------------------------

ASKS = {
    "flopd": ["wallet", "balance"],
    "escrowd": ["channel", "list"],
    "taskd": ["task", "list"],
    "registryd": ["app", "search"],
    "sandbox": ["sandbox", "status"],
    "airdropd": ["fund", "status"],
}


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_daemon_that_is_down_is_named_and_everything_goes_on_when_it_is_back(net: TestNet, daemon: str) -> None:
    net.stop([f"bob/{daemon}"])
    try:
        error = refused(net, "bob", DaemonDown, exits.UNAVAILABLE, ASKS[daemon], f"can't reach dux-{daemon}")
        assert f"systemctl start dux-{daemon}" in error["data"]["hint"]
        whole = net.ctl("bob", "status")
        assert whole.returncode == exits.UNAVAILABLE
        lines = [line for line in whole.stdout.decode().splitlines() if line.startswith("dux-")]
        assert [line.split()[0] for line in lines if "DOWN" in line] == [f"dux-{daemon}"]
    finally:
        net.restart(f"bob/{daemon}")
    pays_again(net)


@pytest.mark.parametrize("daemon", ["flopd", "escrowd"])
def test_a_task_names_the_daemon_that_it_waits_for_and_is_paid_once_when_it_is_back(net: TestNet, daemon: str) -> None:
    before = gross(net)
    net.stop([f"bob/{daemon}"])
    try:
        task = net.order("bob", "hello-words", b"patience")["id"]

        def waits() -> bool:
            return f"dux-{daemon}" in net.call("bob", "task.status", {"id": task})["step"]

        wait_until(waits, 60, f"the task to wait for dux-{daemon}")
    finally:
        net.restart(f"bob/{daemon}")
    assert net.wait_task("bob", task)["state"] == "DONE"
    assert gross(net) == before + PRICE


def test_without_the_registry_a_call_is_refused_and_not_queued(net: TestNet, text: str) -> None:
    tasks = len(net.call("bob", "task.list")["tasks"])
    net.stop(["bob/registryd"])
    try:
        refused(net, "bob", DaemonDown, exits.UNAVAILABLE, ["task", "run", "hello-words", text], "dux-registryd")
        assert len(net.call("bob", "task.list")["tasks"]) == tasks
    finally:
        net.restart("bob/registryd")
    pays_again(net)


def test_a_provider_without_its_sandbox_runs_nothing_and_is_not_paid(net: TestNet) -> None:
    net.stop(["alice/sandbox"])
    try:
        with unchanged(net, "bob"):
            task = net.wait_task("bob", net.order("bob", "hello-words", b"one")["id"])
            assert task["state"] == "FAILED", task
            error = assert_error(task["error"], SandboxFault)
            # Where the other machine keeps its sockets is its own business.
            assert str(net.layout.folder) not in json.dumps(error)
    finally:
        net.restart("alice/sandbox")
    pays_again(net)


def second(net: TestNet, daemon: str, folder: Path, **changes: str) -> None:
    """A daemon started again on bob's configuration ends by itself, with reason and hint and no traceback."""
    settings = yaml.safe_load((net.layout.folder / "bob" / "etc" / f"{daemon}.yaml").read_text())
    config, said = folder / f"{daemon}.yaml", folder / f"{daemon}.err"
    config.write_text(yaml.safe_dump(settings | {"log_dir": None} | changes))
    child = os.fork()
    if child == 0:
        with said.open("w") as sys.stderr:
            status = DAEMON_MAINS[daemon](["--config", str(config)])
        os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1, said.read_text()
    assert "Traceback" not in said.read_text()
    last = json.loads(said.read_text().splitlines()[-1])
    assert last["error"] == AlreadyRunning.__name__, last
    words = "is in use by another process" if changes else f"another process serves {net.socket_path('bob', daemon)}"
    assert words in last["message"], last
    assert last["hint"] == AlreadyRunning.hint_default


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on(
    net: TestNet, daemon: str, short_tmp: Path
) -> None:
    with unchanged(net, "bob"):
        second(net, daemon, short_tmp)


@pytest.mark.parametrize("daemon", [daemon for daemon in DAEMONS if daemon != "sandbox"])  # which has no database
def test_a_second_daemon_on_the_same_database_is_refused_and_the_first_goes_on(
    net: TestNet, daemon: str, short_tmp: Path
) -> None:
    with unchanged(net, "bob"):
        second(net, daemon, short_tmp, run_dir=str(short_tmp))
        assert not list(short_tmp.glob("*.sock"))


# --- the caller ------------------------------------------------------------------------------------------------------


def as_nobody(words: list[str]) -> dict[str, Any]:
    """dux-ctl run by a user in no group: its status and what it printed.

    A fork, not a new program: the interpreter may lie where that user can't read.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        printed = io.StringIO()
        try:
            os.setgroups([])
            os.setresgid(NOBODY_UID, NOBODY_UID, NOBODY_UID)
            os.setresuid(NOBODY_UID, NOBODY_UID, NOBODY_UID)
            with contextlib.redirect_stdout(printed):
                status: Any = dux_ctl(words)
        except BaseException as error:
            status = repr(error)
        os.write(writing, json.dumps({"status": status, "printed": printed.getvalue()}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told: dict[str, Any] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return told


@contextmanager
def opened(*paths: Path) -> Iterator[None]:
    """Everybody may reach these inside."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path in paths:
        path.chmod(0o777)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_caller_without_the_right_group_is_told_which_one_it_needs(net: TestNet) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    run_dir = net.layout.run_dir("bob")
    folders = (net.layout.folder, net.layout.folder / "bob", run_dir)
    words = ["--json", "--run-dir", str(run_dir), "wallet", "balance"]
    assert dux_ctl(words) == exits.OK  # and everything is imported
    with unchanged(net, "bob"), opened(*folders):
        told = as_nobody(words)
        assert told["status"] == exits.NOT_ALLOWED, told
        error = assert_error(json.loads(told["printed"])["error"], NotAllowed, "may not connect to dux-flopd")
        assert "duxnet" in error["data"]["hint"]
        with opened(net.socket_path("bob", "flopd")):
            told = as_nobody(words)
            assert told["status"] == exits.NOT_ALLOWED, told
            assert_error(json.loads(told["printed"])["error"], NotAllowed, "needs group duxnet")
