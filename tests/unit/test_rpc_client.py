"""The two clients: many calls at once, errors as the classes they were raised as, and a daemon that goes away."""

import asyncio
import contextlib
import gc
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from duxcommon.api.common import Model, Ok
from duxcommon.blocking import BlockingClient
from duxcommon.errors import (
    DaemonDown,
    DuxError,
    InsufficientFunds,
    Internal,
    NotAllowed,
    RateLimited,
    RemoteError,
    TimedOut,
)
from duxcommon.rpc import Client
from tests.support.probe import probe
from tests.support.schema import CheckedBlockingClient, SchemaChecker, SchemaMismatch, checked_client

T = TypeVar("T")


class Text(Model):
    text: str


def with_client(path: Path, work: Callable[[Client], Awaitable[T]]) -> T:
    async def main() -> T:
        client = checked_client(path)
        try:
            return await asyncio.wait_for(work(client), 30)
        finally:
            await client.close()

    return asyncio.run(main())


def test_many_calls_share_one_connection_and_a_slow_one_holds_up_no_other(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    async def work(client: Client) -> None:
        slow = asyncio.create_task(client.call("probe.sleep", Ok, {"seconds": 1.0}))
        replies = await asyncio.gather(*(client.call("probe.echo", Text, {"text": str(n)}) for n in range(200)))
        assert [reply.text for reply in replies] == [str(n) for n in range(200)]
        assert not slow.done()
        assert (await slow).ok

    with probe(short_tmp) as daemon:
        daemon.start()
        with_client(daemon.socket, work)


@pytest.mark.parametrize("blocking", [False, True])
def test_an_error_comes_back_as_the_class_that_the_daemon_raised(
    short_tmp: Path, daemon_logs: list[str], blocking: bool
) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        params = {"amount": 7, "key": "k"}
        with pytest.raises(InsufficientFunds) as caught:
            if blocking:
                CheckedBlockingClient(daemon.socket).call("probe.pay", params)
            else:
                with_client(daemon.socket, lambda client: client.call("probe.pay", Ok, params))
        error = caught.value
        assert (error.message, error.details) == ("have 0, need 7 koinu", {"have": 0, "need": 7})
        assert "wallet receive" in error.hint


def test_a_daemon_that_is_killed_during_a_call_is_down_and_the_next_call_reaches_its_successor(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    daemon = probe(short_tmp)

    async def work(client: Client) -> None:
        assert (await client.call("probe.word", Text)).text == "hello"
        call = asyncio.create_task(client.call("probe.sleep", Ok, {"seconds": 20.0}))
        while not (short_tmp / "sleeping").exists():
            await asyncio.sleep(0.01)
        daemon.kill()
        with pytest.raises(DaemonDown) as caught:
            await call
        assert caught.value.retry
        with pytest.raises(DaemonDown, match="can't reach dux-probe"):
            await client.call("probe.word", Text)
        await asyncio.to_thread(daemon.start)
        assert (await client.call("probe.word", Text)).text == "hello"

    with daemon:
        daemon.start()
        with_client(daemon.socket, work)


def test_a_blocking_client_reconnects_too(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        client = BlockingClient(daemon.socket)
        assert client.call("probe.word") == {"text": "hello"}
        daemon.kill()
        with pytest.raises(DaemonDown):
            client.call("probe.word")
        daemon.start()
        assert client.call("probe.word") == {"text": "hello"}
        client.close()


@pytest.mark.parametrize("blocking", [False, True])
def test_a_reply_that_comes_too_late_is_not_taken_for_the_next_calls(
    short_tmp: Path, daemon_logs: list[str], blocking: bool
) -> None:
    async def work(client: Client) -> None:
        with pytest.raises(TimedOut) as caught:
            await client.call("probe.sleep", Ok, {"seconds": 0.3}, timeout=0.1)
        assert "same key" in caught.value.hint
        assert (await client.call("probe.echo", Text, {"text": "mine"})).text == "mine"
        await asyncio.sleep(0.4)
        assert (await client.call("probe.echo", Text, {"text": "mine too"})).text == "mine too"

    with probe(short_tmp) as daemon:
        daemon.start()
        if not blocking:
            with_client(daemon.socket, work)
            return
        client = BlockingClient(daemon.socket)
        with pytest.raises(TimedOut):
            client.call("probe.sleep", {"seconds": 0.3}, timeout=0.1)
        time.sleep(0.4)
        assert client.call("probe.echo", {"text": "mine"}) == {"text": "mine"}
        client.close()


def test_a_reply_of_another_form_than_expected_is_a_remote_error(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        with pytest.raises(RemoteError, match="something else than this version"):
            with_client(daemon.socket, lambda client: client.call("probe.word", Ok))


# --- a daemon that misbehaves ----------------------------------------------------------------------------------------


class FakeDaemon:
    """Answers every line with `answer`, once for each connection, then closes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                # A caller that has read enough hangs up.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(self._answer)

    def __enter__(self) -> "FakeDaemon":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


def error_reply(identity: Any, name: str, **data: Any) -> bytes:
    error = {"code": 1, "message": "so it is", "data": {"name": name, **data}}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "error": error}).encode() + b"\n"


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", DaemonDown),
        (b"no json\n", DuxError),
        (b"[]\n", DuxError),
        (b'{"jsonrpc": "2.0", "id": 1}\n', DuxError),
        (b'{"jsonrpc": "2.0", "id": 1, "result": 5}\n', DuxError),
        (b'{"jsonrpc": "2.0", "id": 1, "error": 5}\n', RemoteError),
        (b'{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": 5, "data": [1]}}\n', RemoteError),
        (error_reply(1, "NotAllowed", hint="ask"), NotAllowed),
        (error_reply(1, "Internal", hint={"no": "text"}, details=[1]), Internal),
        (error_reply(1, "SomethingNew", hint="later"), RemoteError),
        (error_reply(1, "DuxError"), RemoteError),
        (error_reply(None, "RateLimited", hint="wait"), RateLimited),
        (b"\xff" * 1000 + b"\n", DuxError),
    ],
)
def test_whatever_a_daemon_answers_the_caller_gets_an_error_with_a_name(
    short_tmp: Path, answer: bytes, expected: type[DuxError], blocking: bool
) -> None:
    path = short_tmp / "fake.sock"
    with FakeDaemon(path, answer), pytest.raises(expected) as caught:
        if blocking:
            client = BlockingClient(path)
            try:
                client.call("probe.word", timeout=5)
            finally:
                client.close()
        else:

            async def main() -> None:
                client = Client(path)
                try:
                    await client.call("probe.word", Text, timeout=5)
                finally:
                    await client.close()

            asyncio.run(main())
    assert caught.value.code
    assert isinstance(caught.value.hint, str)
    if b"SomethingNew" in answer:
        assert caught.value.details["name"] == "SomethingNew"
        assert caught.value.hint == "later"


def test_an_endless_reply_is_cut_off(short_tmp: Path) -> None:
    path = short_tmp / "fake.sock"
    with FakeDaemon(path, b"x" * 18_000_000), pytest.raises(DaemonDown, match=r"too large|went away"):
        BlockingClient(path).call("probe.word", timeout=10)


# --- the checks that other tests rely on -----------------------------------------------------------------------------

DOCUMENT = {
    "methods": [
        {
            "name": "a.b",
            "params": [
                {"name": "n", "required": True, "schema": {"type": "integer"}},
                {"name": "m", "required": False, "schema": {"$ref": "#/components/schemas/M"}},
            ],
            "result": {"name": "R", "schema": {"$ref": "#/components/schemas/R"}},
            "errors": [{"code": 2020, "message": "InsufficientFunds"}],
        }
    ],
    "components": {
        "schemas": {
            "M": {"type": "string"},
            "R": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
        }
    },
}


def test_the_schema_checker_lets_pass_what_is_declared_and_nothing_else() -> None:
    checker = SchemaChecker(DOCUMENT)
    checker("a.b", {"n": 1, "m": "x"}, {"ok": True})
    checker.check_error("a.b", InsufficientFunds("no"))
    checker.check_error("a.b", NotAllowed("no"))
    for params, reply in [
        ({}, {"ok": True}),
        ({"n": "1"}, {"ok": True}),
        ({"n": 1, "m": 5}, {"ok": True}),
        ({"n": 1, "x": 5}, {"ok": True}),
        ({"n": 1}, {}),
        ({"n": 1}, {"ok": 1}),
    ]:
        with pytest.raises(SchemaMismatch):
            checker("a.b", params, reply)
    with pytest.raises(SchemaMismatch, match="not in the daemon's document"):
        checker("a.c", {}, {})
    from duxcommon.errors import WalletLocked

    with pytest.raises(SchemaMismatch, match="answered WalletLocked"):
        checker.check_error("a.b", WalletLocked("no"))


def test_a_daemon_that_dies_while_a_request_is_written_fails_the_call_and_leaves_no_fault(short_tmp: Path) -> None:
    faults: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["message"]))
        path = short_tmp / "dying.sock"

        async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.transport.abort()

        server = await asyncio.start_unix_server(die, path=str(path), limit=1024)
        async with server:
            client = Client(path)
            # More than the socket holds: the rest is still to be written when the other side is gone.
            for _ in range(5):
                with pytest.raises(DaemonDown):
                    await asyncio.wait_for(client.call("probe.echo", Text, {"text": "x" * 3_000_000}), 10)
            await client.close()
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    assert faults == []
