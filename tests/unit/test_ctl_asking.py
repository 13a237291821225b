"""Commands that ask for something, where nobody answers: what, why and what to do, and never a traceback."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from dux_ctl import exits

ROOT = Path(__file__).parents[2]
UNLOCK = [sys.executable, "-m", "dux_ctl.main", "--run-dir", "/nowhere", "wallet", "unlock"]
HINT = "Type it at a terminal, or give a file whose first line it is: `dux-ctl wallet unlock <FILE`."


def run(*words: str, given: bytes = b"", command: list[str] = UNLOCK) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*command, *words], cwd=ROOT, input=given, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("given", [b"", b"\n", b"\r\n", b"\nthe passphrase\n"])
def test_an_empty_passphrase_from_a_pipe_is_told_with_what_to_do(given: bytes) -> None:
    done = run(given=given)
    assert (done.returncode, done.stdout) == (exits.USAGE, b"")
    assert done.stderr.decode().splitlines() == [
        "dux-ctl: no passphrase was given: standard input is no terminal, and its first line is empty "
        "(InvalidParams -32602)",
        f"  {HINT}",
    ]
    machine = run("--json", given=given)
    assert (machine.returncode, machine.stderr) == (exits.USAGE, b"")
    assert json.loads(machine.stdout)["error"]["data"]["hint"] == HINT


def test_a_passphrase_that_is_no_text_is_told() -> None:
    done = run(given=b"\xff\xfe\n")
    assert done.returncode == exits.USAGE
    assert b"the passphrase is no text in UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_standard_input_that_is_closed_is_told() -> None:
    for words in ("wallet unlock", "task run image-upscale -", "proposal create tax_bps 4% --title x --text-file -"):
        shell = f"exec {sys.executable} -m dux_ctl.main --run-dir /nowhere {words} <&-"
        done = run(command=["sh", "-c", shell])
        assert b"Traceback" not in done.stderr, words
        assert done.returncode != exits.OK
        assert done.stderr.strip()
    assert b"standard input is closed" in run(command=["sh", "-c", f"exec {' '.join(UNLOCK)} <&-"]).stderr


@pytest.mark.parametrize("typed", [b"\n", b"\x04"], ids=["Enter", "Ctrl-D"])
def test_nothing_typed_at_the_terminal_is_told_in_its_own_line(typed: bytes) -> None:
    terminal, inner = pty.openpty()
    with subprocess.Popen(UNLOCK, cwd=ROOT, stdin=inner, stdout=inner, stderr=inner, start_new_session=True) as process:
        os.close(inner)
        shown = _read(terminal)
        os.write(terminal, typed)
        while chunk := _read(terminal):
            shown += chunk
        assert process.wait(60) == exits.USAGE
    os.close(terminal)
    assert shown.decode().splitlines()[:2] == [
        "Passphrase: ",
        "dux-ctl: no passphrase was given: nothing was typed (InvalidParams -32602)",
    ]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""
