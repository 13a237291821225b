"""Parts of different versions meet: every one says so in a sentence with both versions and what to do."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import catalogue, exits, main, versions
from dux_ctl.versions import difference
from duxcommon import __version__
from duxcommon.api.flopd import WalletStatus
from duxcommon.errors import InvalidParams, MethodNotFound, VersionMismatch
from duxcommon.rpc import Client

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
STATUS = {
    "name": "flopd", "version": "9.9.9", "pid": 1, "uptime_s": 1, "network": "x", "worthless": True, "calls": 0,
    "failures": 0, "commits": 0, "rules": None, "notes": [],
}  # fmt: skip
BALANCE = {"confirmed": 5, "pending": 0, "reserved": 0, "in_channels": 0, "spendable": 5}
LABEL = {"name": "x", "chain": "devnet", "worthless": True}


@contextmanager
def daemon(folder: Path, answer: Answer, name: str = "flopd") -> Iterator[None]:
    """A stand-in of another version on flopd's socket: `answer` gives its results, or raises its errors."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / f"{name}.sock"))
    listener.listen()

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                request = json.loads(line)
                reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
                try:
                    method = request["method"]
                    reply["result"] = STATUS if method == "daemon.status" else answer(method, request["params"])
                except (MethodNotFound, InvalidParams) as error:
                    reply["error"] = error.to_rpc()
                stream.write(json.dumps(reply).encode() + b"\n")
                stream.flush()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def ctl(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main.main(["--run-dir", str(folder), *words])
    out, err = capsys.readouterr()
    return status, out, err


def without(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in BALANCE.items() if key != "spendable"} | {"network": LABEL}


def more(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {**BALANCE, "network": {**LABEL, "flavour": "sweet"}, "staked": 7}


def unknown_method(method: str, params: dict[str, Any]) -> dict[str, Any]:
    raise MethodNotFound(f"there is no method {method!r} here")


def unknown_parameter(method: str, params: dict[str, Any]) -> dict[str, Any]:
    raise InvalidParams(f"{method}: unknown parameter 'label' (known: none)")


@pytest.mark.parametrize(
    ("answer", "words", "said"),
    [
        (without, ["wallet", "balance"], "answered wallet.balance in another form: spendable is missing"),
        (unknown_method, ["wallet", "balance"], "does not know wallet.balance"),
        (unknown_parameter, ["wallet", "receive", "--label", "x"], "does not know parameter 'label' of wallet.receive"),
    ],
)
def test_a_daemon_of_another_version_is_named_with_both_versions_and_what_to_do(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], answer: Answer, words: list[str], said: str
) -> None:
    with daemon(short_tmp, answer):
        status, out, err = ctl(short_tmp, capsys, *words)
    assert (status, out) == (exits.FAILED, "")
    assert f"dux-flopd 9.9.9 {said}" in err
    assert f"this is dux-ctl {__version__}" in err
    assert "systemctl restart dux.target" in err
    assert "Traceback" not in err


def test_what_a_newer_daemon_says_beyond_what_is_known_does_no_harm(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(short_tmp, more):
        status, out, err = ctl(short_tmp, capsys, "wallet", "balance")
    assert (status, err) == (exits.OK, "")
    assert "0.00000005 FLOP" in out
    assert "coins have no value" in out


def test_programs_get_what_the_daemon_said_as_it_is(short_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(short_tmp, without):
        status, out, _ = ctl(short_tmp, capsys, "--json", "wallet", "balance")
    assert status == exits.OK
    assert json.loads(out) == without("", {})


def test_a_command_of_several_steps_ends_in_a_sentence_for_programs_too(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"of": "another time"}

    with daemon(short_tmp, other, "escrowd"), daemon(short_tmp, other):
        status, out, err = ctl(short_tmp, capsys, "--json", "why", "ab" * 32)
    assert status == exits.FAILED, out + err
    error = json.loads(out)["error"]
    assert error["data"]["name"] == "VersionMismatch"
    assert "9.9.9" in error["message"]


def test_status_names_daemons_of_another_version(short_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(short_tmp, without):
        _, out, _ = ctl(short_tmp, capsys, "status")
    assert f"dux-flopd runs 9.9.9, dux-ctl is {__version__}; bring dux-ctl and the daemons to one version" in out
    assert "wallet       dux-flopd 9.9.9 answered wallet.balance in another form" in out


def test_status_tells_which_daemons_still_run_what_was_there_before_the_upgrade() -> None:
    (line,) = versions.lines({
        "flopd": {**STATUS, "version": "0.0.9"},
        "taskd": {**STATUS, "version": "0.0.9"},
        "escrowd": {**STATUS, "version": __version__},
        "sandbox": {"error": {}},
    })  # fmt: skip
    assert line == (
        f"dux-flopd, dux-taskd run 0.0.9, dux-ctl is {__version__}; restart what is still of before the upgrade: "
        "systemctl restart dux.target"
    )
    assert versions.lines({"flopd": {**STATUS, "version": __version__}}) == []


def test_every_field_and_state_that_pages_rely_on_is_looked_for() -> None:
    methods = catalogue.load()["methods"]
    page = {"nodes": [{"node": "ab" * 32}], "next": None}
    assert difference(page, methods["node.list"]["reply"]) == "nodes[0].seq is missing"
    schema = {"type": "object", "properties": {"state": {"enum": ["DONE"]}}, "required": ["state"]}
    assert difference({"state": "LEVITATING"}, schema) == "state is 'LEVITATING', which is not known here"
    assert difference({"state": "DONE", "more": 1}, schema) is None


def test_a_daemon_that_calls_one_of_another_version_gets_an_error_of_that_name(short_tmp: Path) -> None:
    async def ask() -> None:
        client = Client(short_tmp / "flopd.sock")
        try:
            await client.call("wallet.status", WalletStatus)
        finally:
            await client.close()

    for answer, words in (
        (unknown_method, "dux-flopd does not know wallet.status"),
        (lambda _method, _params: {"locked": True}, "something else than this version"),
    ):
        with daemon(short_tmp, answer):
            with pytest.raises(VersionMismatch) as caught:
                asyncio.run(ask())
            assert words in caught.value.message
            assert __version__ in caught.value.message
            assert "systemctl restart dux.target" in caught.value.hint
        (short_tmp / "flopd.sock").unlink()
