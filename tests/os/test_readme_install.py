"""README's "Install it on a Debian machine", typed line by line, and what `make repository` tells to type."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_script import repository
from duxcommon import __version__
from tests.os import layers, node, readme
from tests.os.nspawn import Machine
from tests.os.terminal import Terminal

pytestmark = pytest.mark.timeout(400)

PASSWORD = "geheim-9"
CLONE = "/root/duxos"
NOT_HERE = ("make deb",)
"""What a machine without a network can't do: the packages of that very command lie where it puts them."""
LINES = readme.lines(readme.section(readme.page("README.md"), "Install it on a Debian machine"))
APT = {r"Continue\? \[Y/n\] ": "y"}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A Debian without sudo, in whose clone of the project the packages have been built."""
    binds = {layers.packages(): f"{CLONE}/build/deb", layers.repository(): layers.REPOSITORY}
    with Machine(layers.base(), binds=binds) as one:
        one.prepare("bash", "-ec", f"echo 'root:{PASSWORD}' | chpasswd")
        assert one.boot() == "running"
        yield one


@pytest.fixture(scope="module")
def root(machine: Machine) -> Iterator[Terminal]:
    with Terminal(machine, "ann") as terminal:
        terminal.become_root("su -", {"Password: ": PASSWORD})
        terminal.type(f"cd {CLONE}")
        yield terminal


def typed(line: str) -> str:
    """A line that stands in README.md."""
    assert line in LINES, LINES
    return line


def test_roots_lines_install_a_node_that_runs(machine: Machine, root: Terminal) -> None:
    assert typed(NOT_HERE[0])
    shown = root.type(typed("apt install ./build/deb/*.deb"), APT, limit_s=200)
    assert "starting the node" in shown.text
    node.assert_well(machine)


def test_the_first_user_looks_and_pays_from_the_next_login_on(machine: Machine) -> None:
    with Terminal(machine, "ann") as ann:
        shown = ann.type(typed("dux-ctl status"))
        assert "private trial network, coins have no value" in shown.text
        demo = ann.type(typed("dux-ctl demo"), limit_s=300)
    assert re.search(r"\b0 koinu", demo.text), demo.text


def test_the_recovery_words_are_shown_to_root_at_a_terminal(root: Terminal) -> None:
    shown = root.type(typed("dux-flopd keystore words"), {r"\[Y/n\] ": "y"})
    words = re.findall(r"\b\d{1,2}[.)]? +([a-z]{3,8})\b", shown.text)
    assert len(words) == 24, shown.text


def test_every_line_of_the_section_was_typed() -> None:
    assert [*NOT_HERE, "apt install ./build/deb/*.deb", "dux-ctl status", "dux-ctl demo",
                     "dux-flopd keystore words"] == LINES  # fmt: skip


def test_apt_takes_the_repository_after_the_lines_that_are_told_where_it_is_made(root: Terminal) -> None:
    # The document that begins with <<'END' is one line to the shell that reads it.
    told = repository.instructions(Path(layers.REPOSITORY))
    shown = root.type(f"{{ {told}\n}}")
    assert f"dux-node is already the newest version ({__version__})" in shown.text
