"""`dux-ctl setup flopcoin` followed on a real Core: Debian's litecoind stands in for Flopcoin Core.

The Core that DUX_COIND names is set up by the same tests (on Flopcoin's regtest).
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from devchain_kit import LITECOIND, Devchain
from firstboot_kit import first_boot, lay_out, needs_credentials
from flopd_kit import FLOPCOIND, definition_on, until
from support.process import DaemonProcess
from support.schema import CheckedBlockingClient

from dux_ctl import exits, main
from dux_devnet.layout import free_port
from dux_flopd.keystore import Keystore
from dux_setup import coreplan, joining, paths
from dux_setup.corecheck import Question, check
from dux_setup.corecommands import as_root
from dux_setup.coreconf import parse
from dux_setup.corefind import KINDS, listeners
from dux_setup.coreplan import Plan, Wish
from dux_setup.corerpc import CoreClient, CoreTrouble, Login, LoginRefused, NotListening, Refused
from dux_setup.paths import DAEMONS, Paths
from duxcommon.coin.params import CHAINS
from duxcommon.errors import CoreNotReady, DuxError, TwoCores
from duxcommon.network import dump_network

STAND_INS = [("litecoin-regtest", LITECOIND), *([("regtest", Path(FLOPCOIND))] if FLOPCOIND else [])]
ROOT = Path(__file__).resolve().parents[2]
FOREIGN = """\
# My own notes stay.
listen=0
dnsseed=0
printtoconsole=0
keypool=10
"""
LITECOIN = "vbparams=mweb:-2:0\naddresstype=legacy\nchangetype=legacy\nfallbackfee=0.01\n"


class StandIn:
    """A data folder with the configuration that its owner wrote, a Core to run on it, and a node beside it."""

    def __init__(self, folder: Path, chain: str, binary: Path) -> None:
        self.chain, self.kind, self.binary = chain, KINDS[chain], binary
        self.data = folder / "data"
        self.data.mkdir()
        self.conf = self.data / self.kind.conf
        self.paths = Paths(folder / "root")
        self.paths.etc.mkdir(parents=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, extra: str = "", section: str = "") -> None:
        """What the owner had: before any section for Flopcoin 2.0, and in one for newer Cores."""
        own = LITECOIN if "litecoin" in self.chain else ""
        top = f"regtest=1\n{FOREIGN}{own}rpcport={self.port}\n{extra}"
        self.conf.write_text(f"{top}[regtest]\nrpcport={self.port}\n{section}")

    def plan(self, *, deadline_s: float = 60.0, **wish: Any) -> Plan:
        return coreplan.make(self.paths, Wish(chain=self.chain, datadir=self.data, deadline_s=deadline_s, **wish))

    def state(self, name: str, **wish: Any) -> tuple[str, str]:
        """The worst state and the texts of one finding."""
        found = [one for one in self.plan(**wish).findings if one.name == name]
        worst = max((one.state for one in found), key=("ok", "missing", "wrong").index, default="")
        return worst, " ".join(f"{one.text} {one.do}" for one in found)

    def set_up(self) -> Path | None:
        """What `setup flopcoin --yes` writes."""
        return coreplan.configure(self.plan())

    def start(self, *options: str) -> None:
        self.process = subprocess.Popen([self.binary, f"-datadir={self.data}", *options])
        until(self._answers, "answer of Core")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "Core did not start with this configuration"
        try:
            self.client().call("getblockhash", 0)
        except (NotListening, FileNotFoundError):
            return False
        except Refused as refused:
            return refused.code != -28
        except CoreTrouble:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def client(self, user: str = "", password: str = "") -> CoreClient:
        """A client with the cookie, or with a password."""
        if not user:
            user, _, password = (self.data / "regtest" / ".cookie").read_text().partition(":")
        return CoreClient(self.port, Login(user, password, user))

    def password(self) -> str:
        return (self.paths.setup / "core.password").read_text().strip()

    @property
    def modern(self) -> bool:
        return self.plan().checked.dialect == "modern"


@pytest.fixture(params=STAND_INS, ids=lambda item: f"{item[1].name}-standing-in" if "lite" in item[0] else "DUX_COIND")
def core(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    chain, binary = request.param
    if not binary.exists():
        pytest.skip(f"not run: needs {binary}")
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        Path(name).chmod(0o755)
        made = StandIn(Path(name), chain, binary)
        try:
            yield made
        finally:
            made.stop()


def network_on(chain: str, folder: Path) -> Path:
    """The signed definition of a network on this chain, in a file."""
    path = folder / "a-network.yaml"
    path.write_text(dump_network(definition_on(chain, name="a-network")))
    return path


# --- the way that the documentation shows ---------------------------------------------------------------------------


def test_the_written_configuration_starts_core_and_lets_in_its_login_alone(core: StandIn) -> None:
    core.write()
    foreign = core.conf.read_text()
    kept = core.set_up()
    core.start()

    plan = core.plan()
    assert {one.name: one.state for one in plan.findings} == {
        "program": "ok", "conf": "ok", "listen": "ok", "login": "ok", "chain": "ok", "version": "ok", "sync": "ok",
        "peers": "ok", "wallet": "missing" if plan.checked.dialect == "modern" else "ok", "fees": "ok",
        "node": "missing",
    }  # fmt: skip
    assert plan.hindrances == []
    assert core.client("dux", core.password()).call("getblockcount") == 0
    for user, password in (("dux", core.password()[:-1] + "~"), ("dux", "x"), ("someone", core.password())):
        with pytest.raises(LoginRefused):
            core.client(user, password).call("getblockcount")

    assert kept is not None
    assert kept.read_text() == foreign
    lines = [line.raw for line in parse(core.conf.read_text())]
    assert [raw for raw in lines if "dux" not in raw and raw != "server=1\n"] == foreign.splitlines(keepends=True)
    assert [path.stat().st_mode & 0o777 for path in (core.conf, kept, core.paths.setup / "core.password")] == [
        0o600
    ] * 3


def test_core_listens_on_this_machine_alone_whatever_its_owner_had_written(core: StandIn) -> None:
    core.write(extra="rpcallowip=0.0.0.0/0\nrpcbind=0.0.0.0\n", section="rpcbind=0.0.0.0\n")
    core.start()
    assert not all(one.loopback for one in listeners(core.port))
    assert core.state("listen") == (
        "wrong",
        f"port {core.port} is open to other machines (0.0.0.0) "
        f"Take rpcbind and rpcallowip out of what starts Core, then: {core.plan().commands.restart}",
    )
    assert core.state("conf")[0] == "wrong"

    core.set_up()
    core.stop()
    core.start()
    assert listeners(core.port)
    assert all(one.loopback for one in listeners(core.port))
    assert (core.state("listen")[0], core.state("conf")[0], core.plan().hindrances) == ("ok", "ok", [])


def test_a_second_run_finds_nothing_to_change(core: StandIn) -> None:
    core.write()
    core.set_up()
    core.start()
    before = {path: path.read_bytes() for path in core.data.glob("*.conf*")}
    password = core.password()
    assert core.plan().conf.changes == []
    assert core.set_up() is None
    assert {path: path.read_bytes() for path in core.data.glob("*.conf*")} == before
    assert core.password() == password


def test_a_node_on_a_network_of_this_chain_stands_on_the_core_afterwards(core: StandIn, tmp_path: Path) -> None:
    core.write()
    core.set_up()
    core.start()
    core.paths.network.write_bytes(network_on(core.chain, tmp_path).read_bytes())
    core.paths.state("flopd").mkdir(parents=True)
    core.paths.config("flopd").write_text(yaml.safe_dump({"core": {"cookie": "/var/lib/flopcoin/.cookie"}}))
    assert core.state("node")[0] == "missing"

    plan = core.plan()
    assert plan.connects
    coreplan.connect(plan)
    assert core.state("node")[0] == "ok"
    assert not core.plan().connects

    made = yaml.safe_load(core.paths.drop_in("flopd").read_text())
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        folder = Path(name)
        Keystore.create(folder / "keystore.json", "a passphrase", log_n=10)
        (folder / "network.yaml").write_bytes(core.paths.network.read_bytes())
        with DaemonProcess(folder, "flopd", made).start() as flopd:
            client = CheckedBlockingClient(flopd.socket)
            status = until(lambda: (s := client.call("chain.status"))["best"] and s, "chain")
            client.call("wallet.balance")  # which makes the wallet, where Core has several
            client.close()
    assert status["height"] == 0
    assert core.state("wallet")[0] == "ok"


class OneDaemon:
    """A machine whose node is dux-flopd alone, run as its unit runs it; stopped and started like the whole."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def start(self) -> None:
        command = [sys.executable, "-m", "dux_flopd", "--config", str(self.paths.config("flopd"))]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def restart_chain(self) -> None:
        raise AssertionError("there is no trial chain here")

    def make_folders(self) -> None:
        for daemon in DAEMONS:
            self.paths.state(daemon).mkdir(exist_ok=True)

    def chain(self) -> dict[str, Any]:
        """What dux-flopd says of its chain."""
        client = CheckedBlockingClient(self.paths.run / "flopd.sock")
        try:
            return client.call("chain.status")
        finally:
            client.close()


def test_the_four_commands_of_the_documentation_put_a_node_from_its_trial_network_on_this_core(
    core: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_credentials()
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        node = lay_out(Path(name) / "r")
        assert first_boot(node).returncode == 0
        trial = node.network.read_bytes()
        machine = OneDaemon(node)
        monkeypatch.setattr(paths, "Paths", lambda: node)
        # Of the node's daemons only the one that meets Core runs here; the whole runs in tests/os.
        monkeypatch.setattr(joining, "this_machine", lambda paths: machine)
        monkeypatch.setattr(joining, "_wait_up", lambda paths, say: until(lambda: _follows(machine), "chain"))

        def ctl(*words: str) -> tuple[int, str]:
            status = main.main(["setup", "flopcoin", "--datadir", str(core.data), "--chain", core.chain, *words])
            shown = capsys.readouterr()
            return status, shown.out + shown.err

        core.write()
        core.paths = node
        try:
            status, said = ctl("--yes")
            own = as_root(f"dux-ctl setup flopcoin --chain {core.chain} --datadir {core.data}")
            assert (status, f"{own} --network FILE" in said) == (exits.OK, True)
            core.start()
            status, said = ctl("--check")
            assert (status, "the node stays on its private trial network" in said) == (exits.UNAVAILABLE, True)
            assert "WRONG" not in said
            assert node.network.read_bytes() == trial

            definition = network_on(core.chain, tmp_path)
            status, said = ctl("--yes", "--network", str(definition))
            assert (status, "The node is on the new network" in said) == (exits.OK, True), said
            assert machine.chain()["network"]["chain"] == core.chain
            (old,) = (node.var / "old").iterdir()
            assert [path.read_bytes() for path in old.rglob("network.yaml")] == [trial]
            assert not node.devchain_users.exists()

            status, said = ctl("--check")
            assert "ok       node     on network 'a-network'" in said
            again = ctl("--yes", "--network", str(definition))
            assert (again[0], "There is nothing to change." in again[1]) == (status, True)
        finally:
            machine.stop()


def _follows(machine: OneDaemon) -> bool:
    try:
        return bool(machine.chain()["best"])
    except DuxError:
        return False


@pytest.mark.parametrize("dialect", ["flopcoin", "modern"])
def test_both_dialects_are_checked_with_the_wallet_where_each_has_it(dialect: str, tmp_path: Path) -> None:
    # dux-devchain answers as Flopcoin Core 2.0 does, or as newer Cores do.
    folder = tmp_path / "c"
    folder.mkdir()
    chain = Devchain(folder, dialect)
    try:
        user, _, password = chain.cookie.read_text().partition(":")
        kind = replace(KINDS["regtest"], params=CHAINS["devnet"])
        login = Login(user, password, "its cookie")
        question = Question(
            kind=kind, ports=[chain.port], ours=login, others=[], start="", restart="", cli="", setup="", wallet="dux",
            trusted=None,
        )  # fmt: skip
        checked = check(question, listeners)
        assert checked.dialect == dialect
        states = {one.name: one.state for one in checked.findings}
        wallet = "ok" if dialect == "flopcoin" else "missing"
        expected = dict.fromkeys(("listen", "login", "chain", "version", "sync", "peers", "fees"), "ok")
        assert states == {**expected, "wallet": wallet}
    finally:
        chain.close()


# --- what a check finds ---------------------------------------------------------------------------------------------


def test_the_old_style_password_is_replaced_and_goes_on_working_for_other_programs(core: StandIn) -> None:
    core.write(extra="rpcuser=bob\nrpcpassword=Passwort1\n")
    core.conf.chmod(0o644)
    core.process = subprocess.Popen([core.binary, f"-datadir={core.data}"])
    old = core.client("bob", "Passwort1")
    until(lambda: _knows(old), "answer of Core")

    conf = core.state("conf")
    assert conf[0] == "wrong"
    assert all(text in conf[1] for text in ("rpcpassword: the password stood in the clear", "mode: others can read"))
    assert core.state("login")[0] == "missing"

    kept = core.set_up()
    assert core.state("login")[0] == "missing"
    core.stop()
    core.start()
    assert (core.state("login")[0], core.state("conf")[0]) == ("ok", "ok")
    assert old.call("getblockcount") == 0
    assert "Passwort1" not in core.conf.read_text()
    assert kept is not None
    assert "Passwort1" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == core.conf.stat().st_mode & 0o777 == 0o600


def _knows(client: CoreClient) -> bool:
    try:
        client.call("getblockcount")
    except CoreTrouble:
        return False
    return True


def test_a_core_that_does_not_run_is_told_with_the_command_that_starts_it(core: StandIn) -> None:
    core.write()
    core.set_up()
    state, text = core.state("running")
    assert state == "missing"
    assert f"nothing listens on port {core.port}" in text
    assert f"-datadir={core.data} -daemon" in text


def test_a_core_that_was_not_restarted_yet_is_asked_with_its_cookie(core: StandIn) -> None:
    core.write()
    core.start()
    core.set_up()
    state, text = core.state("login")
    assert state == "missing"
    assert "does not know the login dux yet; asked with its cookie" in text
    assert core.state("chain")[0] == "ok"
    with pytest.raises(CoreNotReady, match="login"):
        coreplan.connect(core.plan())


def test_another_chain_is_told_by_its_genesis(core: StandIn) -> None:
    core.write()
    core.start()
    other = "regtest" if "lite" in core.chain else "litecoin-regtest"
    plan = coreplan.make(core.paths, Wish(chain=other, conf=core.conf, datadir=core.data, deadline_s=5))
    (found,) = [one for one in plan.findings if one.name == "chain"]
    assert (found.state, found.text) == ("wrong", f"Core is on {core.chain}, and {other} is needed")
    assert "chain" in {one.name for one in plan.hindrances}


def test_a_core_that_still_reads_the_chain_is_told_how_far_it_is(core: StandIn) -> None:
    core.write()
    core.set_up()
    core.start()
    if not core.modern:
        pytest.skip("not run: needs a Core with submitheader")
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        ahead = StandIn(Path(name), core.chain, core.binary)
        ahead.write()
        ahead.start()
        try:
            ahead.client().call("createwallet", "w")
            target = ahead.client().call("getnewaddress", path="/wallet/w")
            for block in ahead.client().call("generatetoaddress", 5, target):
                core.client().call("submitheader", ahead.client().call("getblockheader", block, False))
        finally:
            ahead.stop()
    assert core.state("sync")[0] == "missing"
    assert "still reading the chain: block 0 of 5" in core.state("sync")[1]
    assert [one.name for one in core.plan().hindrances] == ["sync"]


def test_a_core_without_a_wallet_is_told(core: StandIn) -> None:
    core.write(extra="disablewallet=1\n")
    core.set_up()
    core.start()
    state, text = core.state("wallet")
    assert (state, "Take disablewallet=1 out" in text) == ("wrong", True)
    assert [one.name for one in core.plan().hindrances] == ["wallet"]


def test_a_locked_wallet_is_told_with_the_command_that_unlocks_it(core: StandIn) -> None:
    core.write()
    core.set_up()
    core.start()
    path = "/wallet/dux" if core.modern else "/"
    if core.modern:
        core.client().call("createwallet", "dux", False, False, "", False, False)
        assert core.state("wallet")[0] == "ok"
    core.client().call("encryptwallet", "a passphrase", path=path)
    if not core.modern:
        assert core.process is not None
        core.process.wait(60)
        core.start()
    state, text = core.state("wallet")
    assert (state, f"{core.plan().commands.cli} walletpassphrase" in text) == ("wrong", True)
    core.client().call("walletpassphrase", "a passphrase", 1000, path=path)
    assert core.state("wallet")[0] == "ok"


def test_a_password_on_the_command_line_is_told(core: StandIn) -> None:
    core.write()
    core.set_up()
    core.process = subprocess.Popen([core.binary, f"-datadir={core.data}", "-rpcuser=bob", "-rpcpassword=geheim"])
    until(lambda: _knows(core.client("bob", "geheim")), "answer of Core")
    assert core.state("options")[0] == "wrong"
    assert "geheim" not in core.state("options")[1]


def test_two_cores_are_not_confused(core: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    core.write()
    core.start()
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        second = StandIn(Path(name), core.chain, core.binary)
        second.write()
        second.start()
        try:
            with pytest.raises(TwoCores, match="several Cores") as raised:
                coreplan.make(core.paths, Wish(chain=core.chain))
            assert str(core.data) in raised.value.message
            assert str(second.data) in raised.value.message
            assert core.plan().checked.port == core.port
            assert second.plan().checked.port == second.port
        finally:
            second.stop()


def test_a_cookie_that_can_not_be_read_is_told(core: StandIn) -> None:
    core.write()
    core.start()
    cookie = core.data / "regtest" / ".cookie"
    if os.geteuid() == 0:
        # Root looks with the rights of the folder's owner.
        os.chown(core.data, 65534, 65534)
    cookie.chmod(0)
    core.conf.chmod(0o644)
    plan = core.plan()
    assert [one.state for one in plan.findings if one.name == "cookie"] == ["missing"]
    assert [one.text for one in plan.findings if one.name == "login"] == [
        "Core runs, but no login for it can be read by you"
    ]


def test_a_core_that_throws_old_blocks_away_is_told(core: StandIn) -> None:
    core.write(extra="prune=550\n")
    core.set_up()
    core.start()
    assert core.state("blocks")[0] == "wrong"


def test_a_check_of_a_healthy_core_does_not_wait_for_its_time_limit(core: StandIn) -> None:
    core.write()
    core.set_up()
    core.start()
    begun = time.monotonic()
    core.plan(deadline_s=120.0)
    assert time.monotonic() - begun < 60
