"""What dux-ctl prints for people, and for programs, without any daemon."""

import argparse
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import audit, catalogue, exits, main, render, status
from dux_ctl.control import Control

ROOT = Path(__file__).parents[2]


def ctl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dux_ctl.main", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["taks"], "unknown command 'taks'; did you mean task?"),
        (["wallet", "blance"], "unknown verb 'blance'; did you mean balance?"),
        (["daemon", "status", "flpd"], "unknown daemon 'flpd'; did you mean flopd?"),
        (["wallet", "send"], "the following arguments are required: to, FLOP"),
        (["wallet", "send", "x", "1,5"], "'1,5' is not an amount of FLOP"),
    ],
)
def test_a_slip_is_named_with_what_was_probably_meant_and_as_json_where_asked(words: list[str], says: str) -> None:
    text = ctl(*words)
    assert (text.returncode, text.stdout) == (exits.USAGE, "")
    assert says in text.stderr
    assert len(text.stderr.splitlines()) == 2
    machine = ctl(*words, "--json")
    assert (machine.returncode, machine.stderr) == (exits.USAGE, "")
    error = json.loads(machine.stdout)["error"]
    assert says in error["message"]
    assert error["data"]["name"] == "InvalidParams"


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from parsers(sub)


def test_every_page_of_help_has_an_example() -> None:
    pages = list(parsers(main.build_parser(None)))
    assert len(pages) > 100
    assert [page.prog for page in pages if not re.search(r"^examples?:", page.epilog or "", re.MULTILINE)] == []


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        ("", "those of dux-spend may spend as well, root may do everything"),
        ("status", "Needs the group duxnet."),
        ("why", "shown to root and the groups adm and systemd-journal"),
        ("demo", "Needs the groups duxnet and dux-spend."),
        ("setup", "what it changes needs root"),
        ("setup flopcoin", "what it changes needs root"),
        ("network", "`show` needs the group duxnet; `host`, `join` and `leave` need root"),
        ("network show", "Needs the group duxnet."),
        ("network host", "Needs root."),
        ("network join", "Needs root."),
        ("network leave", "Needs root."),
        ("wallet send", "Needs the groups duxnet and dux-spend."),
        ("wallet unlock", "Needs the groups duxnet and dux-admin, or root."),
    ],
)
def test_the_help_says_what_a_command_needs(words: str, needs: str) -> None:
    (page,) = [one for one in parsers(main.build_parser(None)) if one.prog == f"dux-ctl {words}".strip()]
    assert needs in " ".join((page.description or "").split())


def test_status_where_no_node_runs_says_so_once(short_tmp: Path) -> None:
    done = ctl("--run-dir", str(short_tmp), "status")
    assert done.returncode == exits.UNAVAILABLE
    assert done.stdout.count("DOWN") == 6
    assert done.stdout.rstrip().endswith(
        f"No node runs in {short_tmp}.\nStart one, or say where it is: set DUXNET_RUN_DIR or add --run-dir."
    )


def part(**values: Any) -> dict[str, Any]:
    return values


def well(**changes: Any) -> dict[str, Any]:
    label = {"name": "devnet", "chain": "devnet", "worthless": True}
    daemon = {"uptime_s": 1, "calls": 2, "failures": 0, "notes": []}
    found: dict[str, Any] = {
        "daemons": {"flopd": daemon, "taskd": daemon},
        "node": part(node="ab" * 32),
        "chain": part(network=label, height=7, headers=7, syncing=False, version="/Flopcoin:2.0.0/", peers=8),
        "wallet": part(network=label, spendable=5, pending=0, reserved=0, in_channels=0),
        "keys": part(locked=False),
        "channels": part(channels=[{"state": state} for state in ("OPEN", "CLOSED", "CONFLICTED", "ABANDONED")]),
        "provider": part(running=0, queued=0, tasks=2, sandbox="ok", paused=False),
        "fund": part(spendable=0, threshold=100, missing=100),
        "live": False,
        "devchain": None,
    }
    return {**found, **changes}


def test_status_tells_which_core_is_asked_and_how_far_it_has_read() -> None:
    text = status.text(well(), Path("/run/duxnet"))
    assert "chain        block 7 of 7, in sync; Flopcoin 2.0.0, 8 peers\n" in text
    behind = part(height=7, headers=900, syncing=True, version="/Flopcoin:2.0.0(beta)/", peers=0)
    text = status.text(well(chain=behind), Path("/run/duxnet"))
    assert "chain        block 7 of 900, syncing; Flopcoin 2.0.0(beta), 0 peers\n" in text


def test_status_tells_a_locked_wallet_a_pause_and_what_is_down() -> None:
    down = {"error": {"message": "gone", "data": {"name": "DaemonDown", "hint": "start it"}}}
    text = status.text(
        well(
            keys=part(locked=True),
            chain=down,
            provider=part(running=1, queued=0, tasks=2, sandbox="ok", paused=True),
            daemons={"flopd": down, "taskd": well()["daemons"]["taskd"]},
        ),
        Path("/run/duxnet"),
    )
    assert "locked (`dux-ctl wallet unlock`)" in text
    assert "ok, paused" in text
    assert "chain        unknown" in text
    assert "channels     1 OPEN\n" in text
    assert text.endswith("Start what is down: systemctl start dux-flopd\nSee why: journalctl -b -u dux-flopd")


def test_the_audit_shows_counts_as_counts() -> None:
    checks = [
        {"daemon": "escrowd", "name": "open", "expected": 3, "found": 3, "difference": 0, "unit": "count"},
        {"daemon": "escrowd", "name": "held", "expected": 3, "found": 3, "difference": 0, "unit": "koinu"},
    ]
    lines = audit.text({"checks": checks, "missing": [], "difference": 0}).splitlines()
    assert lines[1].split() == ["escrowd", "open", "3", "3", "0"]
    assert lines[2].split() == ["escrowd", "held", "0.00000003", "0.00000003", "0"]


def test_the_history_has_signs_and_purposes_that_people_know() -> None:
    entry = {"txid": "ab" * 32, "time": 0, "fee": 0, "confirmations": 1, "label": "", "height": 1}
    changes = [("receive", 250), ("fund", -250), ("payout", 99), ("release", 98)]
    entries = [{**entry, "change": change, "purpose": purpose} for purpose, change in changes]
    schema = catalogue.load()["methods"]["wallet.history"]["reply"]
    text = render.reply({"entries": entries, "next": None}, schema)
    assert "+0.0000025 FLOP" in text
    assert "-0.0000025 FLOP" in text
    assert [words for words in ("channel deposit", "from the fund", "bond came back") if words not in text] == []
    assert render.reply({"entries": entries, "next": 2}, schema) == f"{text}\nmore: --skip 2"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_offers_commands_and_verbs(shell: str) -> None:
    assert "dux-ctl" in ctl("completion", shell).stdout
    for line, expected in (
        ("dux-ctl wal", "wallet"),
        ("dux-ctl wallet ba", "balance"),
        ("dux-ctl task run --ma", "--max"),
    ):
        reading, writing = os.pipe()
        environment = {
            **os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9",
            "_ARGCOMPLETE_STDOUT_FILENAME": f"/dev/fd/{writing}", "_ARGCOMPLETE_SHELL": shell,
        }  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "dux_ctl.main"],
            cwd=ROOT,
            env=environment,
            pass_fds=[writing],
            timeout=60,
            check=False,
        )
        os.close(writing)
        with os.fdopen(reading) as pipe:
            assert expected in pipe.read()


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_table_on_a_terminal_keeps_within_its_width(columns: int) -> None:
    code = (
        "from dux_ctl import render; print(render.columns(['id', 'name', 'summary'], "
        "[['ab' * 16, 'image-upscale', 'Enlarges a picture ' * 8]] * 3))"
    )
    terminal, inside = pty.openpty()
    drawn = subprocess.Popen([sys.executable, "-c", code], stdout=inside, env={**os.environ, "COLUMNS": str(columns)})
    os.close(inside)
    out = b""
    try:
        while piece := os.read(terminal, 65536):
            out += piece
    except OSError:
        pass  # the end of a terminal whose other side is closed
    os.close(terminal)
    assert drawn.wait(30) == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.decode())
    assert "image-upscale" in plain
    assert max(len(line.rstrip("\r")) for line in plain.splitlines()) <= columns


def test_ctrl_c_promises_that_an_order_goes_on_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dux_ctl.control.Control.call", interrupt)
    assert main.main(["app", "show", "x"]) == exits.INTERRUPTED
    assert capsys.readouterr().err == "\ndux-ctl: interrupted\n"
    assert main.main(["task", "list"]) == exits.INTERRUPTED
    assert "what was ordered goes on" in capsys.readouterr().err


def test_an_answer_that_takes_long_is_announced_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Slow:
        def call(self, *_: object, **__: object) -> dict[str, Any]:
            time.sleep(0.2)
            return {}

    monkeypatch.setattr("dux_ctl.control.PATIENCE_S", 0.02)
    monkeypatch.setattr(Control, "client", lambda *_: Slow())
    Control(Path("/nowhere"), False, 1.0).call("wallet.balance")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Control(Path("/nowhere"), True, 1.0).call("wallet.balance")
    Control(Path("/nowhere"), False, 1.0).call("task.status", {"wait_s": 20.0})
    assert capsys.readouterr().err == ""
    Control(Path("/nowhere"), False, 1.0).call("wallet.balance")
    said = capsys.readouterr().err
    assert "waiting for dux-flopd to answer" in said
    assert said.endswith("\r\033[K")
