"""The documents: every link leads somewhere, every command can be typed, every file that is named exists."""

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from dux_ctl import main as ctl
from dux_devnet import main as devnet
from duxcommon.errors import BY_NAME

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "apps").rglob("*.md")])

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"(?:^|[\s(&;|])(dux-(?:ctl|devnet)) +([a-z\[-].*)$")
OWN_FILE = re.compile(r"^(?:dux\w+|duxcommon|tests|docs|apps|build_script|benchmarks|etc-duxnet|systemd)/[\w./-]+$")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """What `#…` can lead to in a page."""
    heads = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_of_the_project_that_is_named_exists(page: Path) -> None:
    names = [text for text in INLINE.findall(page.read_text()) if OWN_FILE.match(text) and "*" not in text]
    assert [name for name in names if not (ROOT / name).exists()] == []


# --- commands -------------------------------------------------------------------------------------------------------


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    return {"dux-ctl": ctl.build_parser(None), "dux-devnet": devnet.build_parser()}


def fault(command: str, capsys: pytest.CaptureFixture[str], *, named: bool = False) -> str | None:
    """What the real parser says against a command; None when it can be typed so. `[--x]` counts as written.

    A command that is only `named` may lack its arguments.
    """
    words = shlex.split(command.replace("[", "").replace("]", "").replace("…", ""), comments=True)
    parser = parsers()[words[0]]
    try:
        parser.parse_args(words[1:])
    except SystemExit as stop:
        shown = capsys.readouterr()
        lacks = named and "the following arguments are required" in shown.err
        return None if stop.code == 0 or lacks else f"{command}: {shown.err.strip()}"
    return None


def typed(text: str) -> list[str]:
    """The commands of this project on the lines of code of a page."""
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    for block in FENCE.findall(text):
        lines += block.splitlines()[1:-1]
    return list(commands(lines))


def named(text: str) -> list[str]:
    """Those in its sentences."""
    return list(commands(INLINE.findall(FENCE.sub("", text))))


def commands(pieces: Iterable[str]) -> Iterator[str]:
    """The commands of this project in pieces of code."""
    for piece in pieces:
        for part in re.split(r"&&|;|\|\||\$\(", piece):
            if match := COMMAND.search(part):
                # Two spaces begin the explanation.
                yield f"{match[1]} {re.split(r'  +|[)]$', match[2])[0]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_shown_can_be_typed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text()
    assert [why for command in typed(text) if (why := fault(command, capsys))] == []
    assert [why for command in named(text) if (why := fault(command, capsys, named=True))] == []


def test_every_command_in_a_hint_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    hints = "\n".join(error.hint_default for error in BY_NAME.values())
    assert [why for command in named(hints) if (why := fault(command, capsys, named=True))] == []
    assert len(named(hints)) > 20


def epilogs(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The examples of a parser and of all its subcommands."""
    yield from (parser.epilog or "").splitlines()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from epilogs(sub)


@pytest.mark.parametrize("program", ["dux-ctl", "dux-devnet"])
def test_every_example_in_the_help_can_be_typed(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = list(commands(epilogs(parsers()[program])))
    assert len(shown) > 2
    assert [why for command in shown if (why := fault(command, capsys))] == []


def test_every_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        shown = re.findall(r"^ {4}make ([a-z-]+)", text, re.MULTILINE) + re.findall(r"`make ([a-z-]+)", text)
        assert set(shown) <= targets, page


@pytest.mark.parametrize(
    "line",
    [
        "    bob$ dux-ctl wallet balanse", "    dux-ctl task", "    dux-ctl channel close", "    dux-devnet faucet bob",
        "    export DUXNET_RUN_DIR=$(dux-devnet pth bob)", "    dux-ctl app init x && dux-ctl app tst x",
    ],
)  # fmt: skip
def test_the_check_of_commands_notices_what_it_is_there_for(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(fault(command, capsys) for command in typed(line))


def test_a_command_in_a_sentence_may_lack_its_arguments_but_not_be_misspelt(capsys: pytest.CaptureFixture[str]) -> None:
    assert [fault(command, capsys, named=True) for command in named("see `dux-ctl channel close`")] == [None]
    assert [bool(fault(command, capsys, named=True)) for command in named("see `dux-ctl channel cloze`")] == [True]
