"""Files that Core's configuration includes: read as Core reads them, never changed, named where they can't be."""

import os
from pathlib import Path

import pytest

from dux_ctl import exits
from dux_setup import corefind
from dux_setup.coreconf import includes, parse
from dux_setup.corefind import Process
from tests.unit.test_ctl_setup import Machine, Run, machine, run

__all__ = ["machine", "run"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("includeconf=a.conf\n", ["a.conf"]),
        ("includeconf=a.conf\nincludeconf=/etc/b.conf # why\n", ["a.conf", "/etc/b.conf"]),
        ("includeconf=a.conf\n[test]\nincludeconf=t.conf\n", ["t.conf", "a.conf"]),
        ("test.includeconf=t.conf\nincludeconf=a.conf\n", ["t.conf", "a.conf"]),
        ("[regtest]\nincludeconf=r.conf\n", []),
        ("#includeconf=a.conf\n", []),
        ("includeconf=a.conf\nnoincludeconf=1\nincludeconf=b.conf\n", ["b.conf"]),
        ("includeconf=a.conf\n[test]\nincludeconf=t.conf\nnoincludeconf=1\n", ["a.conf"]),
        ("includeconf=a.conf\nnoincludeconf=0\n", ["a.conf"]),
    ],
)
def test_the_files_of_a_chain_come_in_cores_order(text: str, found: list[str]) -> None:
    assert includes(parse(text), "test") == found


def written(machine: Machine, text: str, **included: str) -> None:
    """Core's configuration, and files beside it."""
    machine.conf.write_text(text)
    for name, content in included.items():
        (machine.data / f"{name}.conf").write_text(content)
    for path in machine.data.iterdir():
        path.chmod(0o600)


def test_what_is_set_in_an_included_file_counts_as_if_it_stood_at_the_end(machine: Machine, run: Run) -> None:
    text = "includeconf=more.conf\nincludeconf=later.conf\n"
    written(machine, text, more=f"rpcport={machine.port}\n", later="rpcport=1\n")
    _, out, _ = run("--check")
    assert f"nothing listens on port {machine.port} of this machine" in out
    assert f"{machine.data / 'more.conf'}, which {machine.conf} includes, was read and is safe" in out


def test_the_main_file_counts_more_than_an_included_one(machine: Machine, run: Run) -> None:
    written(machine, f"includeconf=more.conf\nrpcport={machine.port}\n", more="rpcport=1\n")
    assert f"nothing listens on port {machine.port} of this machine" in run("--check")[1]


def test_what_an_included_file_includes_is_not_read_because_core_does_not_either(machine: Machine, run: Run) -> None:
    written(machine, "includeconf=more.conf\n", more="includeconf=deep.conf\n", deep="rpcbind=192.168.7.7\n")
    _, out, _ = run("--check")
    assert "deep.conf" not in out
    assert "rpcbind" not in out


@pytest.mark.parametrize("line", ["rpcpassword=geheim", "rpcbind=192.168.7.7", "rpcallowip=192.168.7.0/24"])
def test_what_is_unsafe_in_an_included_file_is_told_with_the_file_and_is_left_to_its_owner(
    machine: Machine, run: Run, line: str
) -> None:
    written(machine, "includeconf=more.conf\n", more=f"{line}\n")
    status, out, _ = run("--check")
    key = line.partition("=")[0]
    assert status == exits.FAILED
    assert f"WRONG    conf     {machine.data / 'more.conf'}, which {machine.conf} includes: {key}: " in out
    assert f"Take {key} out of {machine.data / 'more.conf'}" in out
    assert "geheim" not in out
    run("--yes")
    assert (machine.data / "more.conf").read_text() == f"{line}\n"
    assert "includeconf=more.conf\n" in machine.conf.read_text()


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "loop", "large"])
def test_an_included_file_that_can_not_be_read_is_named(machine: Machine, run: Run, kind: str) -> None:
    written(machine, f"includeconf=more.conf\nrpcport={machine.port}\n")
    more = machine.data / "more.conf"
    if kind == "folder":
        more.mkdir()
    elif kind == "pipe":
        os.mkfifo(more)
    elif kind == "loop":
        more.symlink_to(more.name)
    elif kind == "large":
        more.write_bytes(b"#" * 1_000_001)
    status, out, _ = run("--check")
    assert status == exits.FAILED
    assert f"{machine.conf} includes {more}, which was not read (" in out
    assert "a newer Core does not start then" in out


def test_very_many_included_files_are_not_all_read_and_that_is_told(machine: Machine, run: Run) -> None:
    written(machine, "includeconf=more.conf\n" * 33, more="")
    status, out, _ = run("--check")
    assert status == exits.FAILED
    assert "only the first 32 included files were read" in out


def test_a_chain_that_an_included_file_chooses_is_the_chain(machine: Machine, run: Run) -> None:
    written(machine, "includeconf=more.conf\n", more="testnet=1\n")
    status, _, err = run("--check", "--chain", "main")
    assert status != exits.OK
    assert "is for chain test, and main is wanted" in err


def test_a_core_that_was_started_without_included_files_reads_none(
    machine: Machine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(machine, "includeconf=more.conf\n", more="rpcbind=192.168.7.7\n")
    started = Process(1, os.getuid(), "flopcoind", machine.data, None, {"noincludeconf": ""})
    monkeypatch.setattr(corefind, "processes", lambda kind: [started])
    assert "more.conf" not in run("--check")[1]


def test_a_file_of_anywhere_is_included_by_its_whole_path(machine: Machine, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.conf"
    other.write_text("rpcbind=192.168.7.7\n")
    written(machine, f"includeconf={other}\n")
    assert f"{other}, which {machine.conf} includes: rpcbind" in run("--check")[1]
