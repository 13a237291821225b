"""`dux-ctl setup flopcoin` at the terminal: what it says and changes, and how it ends, where no Core runs yet."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dux_ctl import exits, main
from dux_devnet.layout import free_port
from dux_setup import corecommands, corefiles, corefind, corenode, coreplan, paths
from dux_setup.coreconf import parse
from dux_setup.corefind import Process
from dux_setup.rpcauth import accepts
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import pubkey_of
from duxcommon.files import write_atomic
from duxcommon.identity import Identity
from duxcommon.network import Member, NetworkDefinition, dump_network

Run = Callable[..., tuple[int, str, str]]


class Machine:
    """A machine below a folder: /etc/duxnet, /var/lib/duxnet and a data folder of Core."""

    def __init__(self, folder: Path) -> None:
        self.paths = paths.Paths(folder / "root")
        self.paths.etc.mkdir(parents=True)
        self.data = folder / "home" / ".flopcoin"
        self.data.mkdir(parents=True, mode=0o700)
        self.conf = self.data / "flopcoin.conf"
        self.port = free_port()

    def definition(self, chain: str = "test") -> Path:
        """A signed definition of a network, in a file."""
        guardian = Identity.generate()
        member = Member(node=guardian.node_id, pubkey=pubkey_of(b"\x01" * 32).hex())
        value = {"name": f"net-{chain}", "chain": chain, "genesis": CHAINS[chain].genesis, "birth_height": 0}
        value |= {"bootstrap": [], "guardians": [member], "guardians_m": 1, "arbiters": [member]}
        path = self.paths.root / f"{chain}.yaml"
        path.write_text(dump_network(NetworkDefinition.model_validate(value).signed_by(guardian)))
        return path

    def files(self) -> dict[str, bytes]:
        """Everything that a run could have changed."""
        both = [*self.data.rglob("*"), *self.paths.root.rglob("*")]
        return {str(path): path.read_bytes() for path in both if path.is_file()}


def open_way(folder: Path) -> None:
    """Let other users get to a test's folder."""
    for part in (folder, *folder.parents):
        if part.stat().st_uid == os.geteuid() and part.stat().st_mode & 0o005 != 0o005:
            part.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(paths, "Paths", lambda: made.paths)
    monkeypatch.setattr(corefind, "processes", lambda kind: [])
    # As typed by a person who calls sudo.
    monkeypatch.setattr(corecommands, "as_root", lambda command, folder=None: f"sudo {command}")
    monkeypatch.setattr(coreplan, "as_root", corecommands.as_root)
    return made


@pytest.fixture
def run(machine: Machine, capsys: pytest.CaptureFixture[str]) -> Run:
    def runs(*words: str) -> tuple[int, str, str]:
        status = main.main(["setup", "flopcoin", "--datadir", str(machine.data), *words])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return runs


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A person at the terminal who gives one answer."""

    def give(answer: str) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda prompt: answer)

    return give


# --- looking --------------------------------------------------------------------------------------------------------


def test_a_check_says_what_is_missing_and_changes_nothing(machine: Machine, run: Run) -> None:
    machine.conf.write_text(f"rpcport={machine.port}\n")
    machine.conf.chmod(0o600)
    before = machine.files()
    status, out, _ = run("--check")
    assert status == exits.UNAVAILABLE
    assert f"MISSING  running  nothing listens on port {machine.port} of this machine" in out
    assert f"-datadir={machine.data} -daemon" in out
    assert "MISSING  node     this machine's node is on no network yet" in out
    assert machine.files() == before


def test_something_wrong_ends_a_check_with_another_status_than_something_missing(machine: Machine, run: Run) -> None:
    machine.conf.write_text(f"rpcport={machine.port}\nrpcuser=a\nrpcpassword=geheim\n")
    status, out, _ = run("--check")
    assert status == exits.FAILED
    assert "WRONG    conf" in out
    assert "geheim" not in out


def test_a_check_for_programs_has_every_finding_with_what_to_do(machine: Machine, run: Run) -> None:
    machine.conf.write_text(f"rpcport={machine.port}\n")
    machine.conf.chmod(0o600)
    status, out, err = run("--check", "--json")
    found = json.loads(out)
    assert (status, err) == (exits.UNAVAILABLE, "")
    assert (found["chain"], found["port"], found["conf"]) == ("main", machine.port, str(machine.conf))
    assert {one["name"] for one in found["findings"]} >= {"program", "conf", "running", "node"}
    assert all(one["do"] for one in found["findings"] if one["state"] != "ok")
    assert [change["key"] for change in found["changes"]] == ["rpcauth", "server"]


def test_the_main_chain_comes_with_a_warning_and_a_trial_chain_without(machine: Machine, run: Run) -> None:
    assert "this command never does" in run("--check")[1]
    machine.conf.write_text("testnet=1\n")
    assert "accept_main_chain_risk" not in run("--check")[1]


def test_the_stand_in_is_named_as_one(machine: Machine, run: Run) -> None:
    assert "litecoind stands in for Flopcoin Core" in run("--check", "--chain", "litecoin-regtest")[1]


@pytest.mark.parametrize(
    ("core", "state"),
    [({}, "missing"), ({"url": "http://127.0.0.1:1/"}, "missing"), ({"url": "http://127.0.0.1:PORT/"}, "ok")],
)
def test_a_check_tells_whether_the_node_stands_on_this_core(
    machine: Machine, run: Run, core: dict[str, str], state: str
) -> None:
    machine.conf.write_text(f"testnet=1\nrpcport={machine.port}\n")
    machine.paths.network.write_bytes(machine.definition().read_bytes())
    value = {"core": {key: text.replace("PORT", str(machine.port)) for key, text in core.items()}}
    machine.paths.config("flopd").write_text(yaml.safe_dump(value))
    found = json.loads(run("--check", "--json")[1])["findings"]
    assert [one["state"] for one in found if one["name"] == "node"] == [state]


def test_a_node_on_a_trial_network_is_said_to_stay_there_until_a_definition_is_given(
    machine: Machine, run: Run
) -> None:
    machine.paths.network.write_bytes(machine.definition("devnet").read_bytes())
    out = run("--check")[1]
    assert "the node stays on its private trial network, whose coins have no value" in out
    assert f"sudo dux-ctl setup flopcoin --datadir {machine.data} --network FILE" in out


# --- changing -------------------------------------------------------------------------------------------------------


def test_the_plan_is_shown_without_secrets_and_a_no_changes_nothing(
    machine: Machine, run: Run, answers: Callable[[str], None]
) -> None:
    machine.conf.write_text("rpcuser=a\nrpcpassword=geheim\n")
    before = machine.files()
    answers("n")
    status, out, err = run()
    assert status == exits.FAILED
    assert f"Would change {machine.conf}:" in out
    assert "-rpcpassword=(hidden)" in out
    assert "+rpcauth=dux:(hidden)" in out
    assert "geheim" not in out + err
    assert "Nothing was changed." in err
    assert machine.files() == before


@pytest.mark.parametrize("words", [(), ("--check",), ("--json", "--check")], ids=["plan", "check", "programs"])
def test_what_core_s_owner_wrote_neither_steers_the_terminal_nor_breaks_the_output(
    machine: Machine, run: Run, words: tuple[str, ...]
) -> None:
    # A name in Latin-1, and what hides the lines above.
    machine.conf.write_bytes(b"rpcuser=J\xfcrgen\x1b[2J\nincludeconf=b\xfcro\x1b[2J\n")
    status, out, err = run(*words)
    assert status == (exits.FAILED if words else exits.USAGE)
    assert "\x1b" not in out + err
    assert "J\ufffdrgen" in out or words
    assert "ro" in out.partition("includes ")[2]


def test_after_a_yes_the_safe_file_is_there_the_old_one_is_kept_and_the_next_steps_are_told(
    machine: Machine, run: Run, answers: Callable[[str], None]
) -> None:
    machine.conf.write_text("# mine\nrpcuser=a\nrpcpassword=geheim\naddnode=10.0.0.7\n")
    machine.conf.chmod(0o644)
    answers("y")
    status, out, err = run()
    assert status == exits.OK
    (kept,) = machine.data.glob("flopcoin.conf.before-dux-*")
    assert kept.read_text() == "# mine\nrpcuser=a\nrpcpassword=geheim\naddnode=10.0.0.7\n"
    assert f"The old one is {kept}; delete it once all works" in err
    text = machine.conf.read_text()
    assert "geheim" not in text
    assert text.startswith("# mine\n")
    assert "addnode=10.0.0.7\n" in text
    password = (machine.paths.setup / "core.password").read_text().strip()
    entries = [line.value for line in parse(text) if line.key == "rpcauth"]
    assert accepts(entries[0], "dux", password)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (machine.conf, kept)} == {0o600}
    assert stat.S_IMODE(machine.paths.setup.stat().st_mode) == 0o700
    assert "flopcoind" in out
    assert f"sudo dux-ctl setup flopcoin --datadir {machine.data} --network FILE" in out
    assert password not in out + err


def test_a_file_that_was_not_there_is_made_for_core_alone(machine: Machine, run: Run) -> None:
    status, out, _ = run("--yes", "--chain", "test")
    assert status == exits.OK
    assert f"Would write {machine.conf}:" in out
    assert [line.key for line in parse(machine.conf.read_text()) if line.key] == ["testnet", "rpcauth", "server"]
    assert stat.S_IMODE(machine.conf.stat().st_mode) == 0o600
    assert list(machine.data.iterdir()) == [machine.conf]


def test_a_second_run_changes_nothing_and_says_so(machine: Machine, run: Run) -> None:
    run("--yes")
    before = machine.files()
    status, out, _ = run("--yes")
    assert (status, "There is nothing to change." in out) == (exits.UNAVAILABLE, True)
    assert machine.files() == before


@pytest.mark.parametrize("step", range(3), ids=["password", "copy of the old file", "configuration"])
def test_an_interrupted_run_leaves_whole_files_and_the_next_one_ends_it(
    machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    machine.conf.write_text("rpcuser=a\nrpcpassword=geheim\n")
    before = machine.conf.read_bytes()
    written: list[Path] = []

    def stopped(path: Path, data: bytes, *, mode: int) -> None:
        if len(written) == step:
            raise KeyboardInterrupt
        written.append(path)
        write_atomic(path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(corefiles, "write_atomic", stopped)
        patch.setattr(corenode, "write_atomic", stopped)
        status, _, err = run("--yes")
    assert (status, "interrupted" in err) == (exits.INTERRUPTED, True)
    assert machine.conf.read_bytes() == before
    store = machine.paths.setup / "core.password"
    password = store.read_text() if step else None
    assert run("--yes")[0] == exits.OK
    assert password in (None, store.read_text())
    entries = [line.value for line in parse(machine.conf.read_text()) if line.key == "rpcauth"]
    assert [accepts(entry, "dux", store.read_text().strip()) for entry in entries] == [True, False]
    assert not list(machine.data.glob("*.part"))


@pytest.mark.parametrize(("number", "name"), [(errno.ENOSPC, "SetupNoSpace"), (errno.EROFS, "SetupReadOnly")])
def test_a_full_or_read_only_disk_is_told_and_cores_file_is_untouched(
    machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    machine.conf.write_text("rpcuser=a\nrpcpassword=geheim\n")
    before = machine.files()

    def fails(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(corenode, "write_atomic", fails)
    status, _, err = run("--yes")
    assert status in (exits.FAILED, exits.UNAVAILABLE)
    assert name in err
    assert "password" in err
    assert machine.files() == before


def test_nobody_to_ask_means_no_change(machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    before = machine.files()
    status, _, err = run()
    assert status == exits.USAGE
    assert "Add --yes to change, or --check to look only." in err
    assert machine.files() == before


def test_without_root_the_plan_is_shown_with_the_command_that_carries_it_out() -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root, to run dux-ctl as somebody else")
    home = Path("/tmp") / f"dux-{os.getpid()}-setup"
    home.mkdir(mode=0o755)
    try:
        os.chown(home, 65534, 65534)
        words = ["setup", "flopcoin", "--datadir", str(home / "core")]
        # The first run loads what the other user might not be allowed to read.
        code = (
            f"import os, sys; from dux_ctl.main import main; main([*{words!r}, '--check']); print('--- as nobody');"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.argv[0] = 'dux-ctl'; sys.exit(main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        left = list(home.iterdir())
    finally:
        shutil.rmtree(home)
    assert done.returncode == exits.NOT_ALLOWED, done.stderr
    assert "Would write" in done.stdout.partition("--- as nobody")[2]
    assert f"dux-ctl setup flopcoin --datadir {home}/core" in done.stderr.partition("Run: s")[2]
    assert left == []


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_network_of_another_chain_than_named_is_refused(machine: Machine, run: Run) -> None:
    status, _, err = run("--yes", "--chain", "regtest", "--network", str(machine.definition("test")))
    assert status == exits.FAILED
    assert "a network on chain test, and --chain says regtest (CoreChainDiffers 8102)" in err


def test_a_network_of_another_chain_than_the_configuration_is_refused(machine: Machine, run: Run) -> None:
    machine.conf.write_text("regtest=1\n")
    status, _, err = run("--yes", "--network", str(machine.definition("test")))
    assert status == exits.FAILED
    assert "is for chain regtest, and test is wanted" in err


def test_a_trial_network_is_joined_in_another_way(machine: Machine, run: Run) -> None:
    status, _, err = run("--network", str(machine.definition("devnet")))
    assert status == exits.FAILED
    assert "dux-ctl network join FILE" in err


def test_a_network_on_the_main_chain_needs_the_owners_own_acceptance(machine: Machine, run: Run) -> None:
    before = machine.files()
    status, _, err = run("--yes", "--network", str(machine.definition("main")))
    assert status == exits.FAILED
    assert "MainChainNotAccepted 8104" in err
    assert "accept_main_chain_risk: true" in err
    assert {name for name in machine.files() if name not in before} == {str(machine.paths.root / "main.yaml")}


def test_a_core_that_is_not_ready_is_configured_and_the_node_stays(machine: Machine, run: Run) -> None:
    status, _, err = run("--yes", "--network", str(machine.definition("test")))
    assert status == exits.UNAVAILABLE
    assert "CoreNotReady 8103" in err
    assert machine.conf.exists()
    status, _, err = run("--yes", "--network", str(machine.definition("test")))
    assert status == exits.UNAVAILABLE
    assert "this Core is not ready yet (running): the node stays on its network" in err
    assert not machine.paths.network.exists()


@pytest.mark.parametrize("what", ["folder", "pipe", "huge"])
def test_a_configuration_that_is_no_ordinary_file_is_refused(machine: Machine, run: Run, what: str) -> None:
    if what == "folder":
        machine.conf.mkdir()
    elif what == "pipe":
        os.mkfifo(machine.conf)
    else:
        machine.conf.write_bytes(b"#" * (corefiles.MAX_CONF_BYTES + 1))
    status, _, err = run("--check")
    assert status == exits.FAILED
    assert "CoreFileUnusable 8101" in err


def test_root_follows_no_link_that_a_user_laid_to_root_s_files(machine: Machine, run: Run, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    target = tmp_path / "root-only.conf"
    target.write_text("rpcpassword=geheim\n")
    target.chmod(0o600)
    open_way(tmp_path)
    os.chown(machine.data, 65534, 65534)
    machine.conf.symlink_to(target)
    os.chown(machine.conf, 65534, 65534, follow_symlinks=False)
    status, _, err = run("--yes")
    assert status == exits.FAILED
    assert "Permission denied" in err
    assert target.read_text() == "rpcpassword=geheim\n"


def test_the_other_part_of_the_way_is_closed_too(machine: Machine, run: Run, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    open_way(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    shutil.rmtree(machine.data)
    machine.data.symlink_to(elsewhere)
    os.chown(machine.data, 65534, 65534, follow_symlinks=False)
    status, _, err = run("--yes")
    assert status == exits.FAILED
    assert "can't write" in err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "mode", "taken"),
    [("flopcoin.conf", 0o600, False), ("passwd", 0o644, False), ("flopcoin.conf", 0o644, True)],
    ids=["closed to it", "no configuration", "root's own for it"],
)
def test_a_core_s_command_line_leads_root_to_no_file_of_others(
    machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, mode: int, taken: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    open_way(tmp_path)
    os.chown(machine.data, 65534, 65534)
    target = tmp_path / name
    target.write_text("rpcuser=other\nrpcpassword=geheim\n")
    target.chmod(mode)
    started = Process(1, 65534, "flopcoind", machine.data, target, {})
    monkeypatch.setattr(corefind, "processes", lambda kind: [started])
    status, out, err = run("--yes")
    assert ("rpcpassword=geheim" not in target.read_text()) is taken
    assert (target.stat().st_mode & 0o777 == mode) is not taken
    if taken:
        assert status == exits.OK, err
    else:
        assert status == exits.FAILED
        assert f"names {target} as its configuration, which is not nobody's" in err
        assert "other" not in out


# --- the documentation ----------------------------------------------------------------------------------------------


def test_the_unit_in_the_documentation_is_the_service_that_is_found() -> None:
    page = (Path(__file__).parents[2] / "docs" / "flopcoin.md").read_text()
    kind = corefind.KINDS["main"]
    program, *options = page.partition("ExecStart=")[2].splitlines()[0].split()
    assert f"/etc/systemd/system/{corecommands.UNIT}" in page
    assert "/etc/systemd/system" in corecommands.UNIT_FOLDERS
    assert Path(program).parent in {Path(folder) for folder in kind.program_folders}
    assert Path(program).name in kind.programs
    assert f"-datadir={corefind.SERVICE_FOLDER}" in options
    assert f"ReadWritePaths={corefind.SERVICE_FOLDER}\n" in page
    assert f"--home {corefind.SERVICE_FOLDER} flopcoin\n" in page


def test_systemd_takes_the_unit_in_the_documentation(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not run: needs systemd-analyze (Debian package systemd)")
    page = (Path(__file__).parents[2] / "docs" / "flopcoin.md").read_text()
    unit = tmp_path / corecommands.UNIT
    # Any program that is there: the one that is meant is not part of this project.
    unit.write_text(page.partition("```ini\n")[2].partition("```")[0].replace("/usr/local/bin/flopcoind", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert [line for line in done.stderr.splitlines() if corecommands.UNIT in line] == []
