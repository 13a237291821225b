"""The README's first paid call by hand, typed exactly as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dux_devnet.network import wait_until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SECTION = "Your first paid call by hand"
PROMPT = re.compile(r"^ {4}(?:(alice|bob)\$ )?(dux-.+)$", re.MULTILINE)


def lines() -> list[tuple[str, str]]:
    """Who types what, in the order of the page; nobody's lines belong to no terminal."""
    text = (ROOT / "README.md").read_text().partition(f"## {SECTION}\n")[2].partition("\n## ")[0]
    return PROMPT.findall(text)


@pytest.fixture
def shell(short_tmp: Path) -> "Iterator[Shell]":
    if not (BIN / "dux-ctl").exists() or shutil.which("bash") is None:
        pytest.skip("not run: needs bash, and dux-ctl beside the interpreter (make test)")
    made = Shell(short_tmp / "net")
    try:
        yield made
    finally:
        made("", "dux-devnet down")


class Shell:
    """A terminal for each side, in the project's folder."""

    def __init__(self, folder: Path) -> None:
        self._env = {**os.environ, "DUX_DEVNET_DIR": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def __call__(self, who: str, command: str) -> str:
        """The output of a command that must succeed."""
        # The page sets this in each terminal.
        here = f"export DUXNET_RUN_DIR=$(dux-devnet path {who}); " if who else ""
        done = subprocess.run(
            ["bash", "-c", here + command], env=self._env, cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{who}$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout


def test_the_first_paid_call_by_hand_works_as_the_readme_says(shell: "Shell") -> None:
    shown: dict[str, str] = {}
    for who, command in lines():
        if "channel close" in command:
            # As people copy it out of the table: the first digits.
            command = command.replace("CHANNEL", shown["dux-ctl channel list"].splitlines()[1].split()[0])
        shown[command] = shell(who, command)
        if "app search" in command:
            wait_until(lambda who=who, command=command: " 1 " in shell(who, command), 60, "the app to be live")  # type: ignore[misc]
    assert len(shown) >= 11
    assert "as expected" in shown["dux-ctl app test apps/hello-words"]
    assert "50.00 FLOP" in shown["dux-ctl wallet balance"]
    assert '"words"' in shown["dux-ctl task run hello-words README.md"]
    assert "difference: 0 koinu" in shown["dux-ctl audit"]


def test_an_app_of_ones_own_goes_the_same_way(shell: "Shell", short_tmp: Path) -> None:
    app, text = short_tmp / "my-app", short_tmp / "text"
    text.write_text("to be or not to be")
    shell("", "dux-devnet up")
    shell("", f"dux-ctl app init my-app --dir {app}")
    assert "as expected" in shell("alice", f"dux-ctl app test {app}")
    shell("alice", f"dux-ctl app publish {app}")
    shell("bob", "dux-devnet faucet bob 50")
    wait_until(lambda: " 1 " in shell("bob", "dux-ctl app search my-app"), 60, "the app to be live")
    assert shell("bob", f"dux-ctl task run my-app {text} --set unique=true") == "4\n"
