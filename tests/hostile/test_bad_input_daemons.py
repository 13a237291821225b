"""Malformed, oversized and nonsensical requests to each real daemon: refused by name, and the daemon goes on.

tests/hostile/test_rpc_wire.py has every form of them against the common server; here the daemons themselves prove
that none of their methods is an exception.
"""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dux_devnet.layout import DAEMONS
from duxcommon.errors import (
    BY_NAME,
    InvalidParams,
    InvalidRequest,
    MessageTooLarge,
    MethodNotFound,
    ParseError,
    RateLimited,
    from_rpc,
)
from tests.support.devnet import TestNet, running_devnet
from tests.support.refusals import assert_error, status, unchanged
from tests.support.schema import ANY_METHOD

PEER = "ab" * 32
REPLY_S = 30.0
LARGE = 9_000_000
STATUS = b'"jsonrpc": "2.0", "id": 1, "method": "daemon.status"'

NO_REQUESTS = {
    "a word": (b"hello", ParseError, "not JSON"),
    "half an object": (b'{"jsonrpc": "2.0", "id": 1', ParseError, "not JSON"),
    "bytes that are no text": (b"\x00\xff\xfe{}", ParseError, "not JSON"),
    "NaN": (b"{" + STATUS + b', "params": {"x": NaN}}', ParseError, "not JSON"),
    "Infinity": (b"{" + STATUS + b', "params": {"x": -Infinity}}', ParseError, "not JSON"),
    "a number beyond all": (b"{" + STATUS + b', "params": {"x": 1e999}}', ParseError, "not JSON"),
    "five thousand brackets": (b"[" * 5000 + b"]" * 5000, ParseError, "nested"),
    "a million brackets": (b'{"a":' * 500_000, ParseError, "nested"),
    "a batch of ten thousand": (
        b"[" + b",".join([b"{" + STATUS + b"}"] * 10_000) + b"]", InvalidRequest, "not 10000"
    ),
    "an empty batch": (b"[]", InvalidRequest, "a batch holds 1 to"),
    "an unknown member": (b"{" + STATUS + b', "admin": true}', InvalidRequest, "unknown members: admin"),
    "parameters that are a number": (b"{" + STATUS + b', "params": 7}', InvalidRequest, "'params'"),
    "an unknown method": (b'{"jsonrpc": "2.0", "id": 1, "method": "no.such"}', MethodNotFound, "no.such"),
    "an unknown parameter": (b"{" + STATUS + b', "params": {"x": 1}}', InvalidParams, "unknown parameter 'x'"),
}  # fmt: skip

NONSENSE: list[Any] = [
    None, True, -1, 10**30, 1.5, "", "\x00", "../../etc/passwd", "\N{SNOWMAN}" * 5000, [], [[]] * 50, {}, {"a": {}},
]  # fmt: skip


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """One node."""
    with running_devnet(1) as net:
        yield net


def connect(net: TestNet, daemon: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(REPLY_S)
    connection.connect(str(net.socket_path("alice", daemon)))
    return connection


def exchange(connection: socket.socket, data: bytes) -> Any:
    """The reply to one line."""
    # A daemon that has read enough closes: its answer is there all the same.
    with contextlib.suppress(ConnectionError):
        connection.sendall(data + b"\n")
    reply = bytearray()
    while not reply.endswith(b"\n"):
        part = connection.recv(1 << 16)
        assert part, f"closed without an answer after {bytes(reply[:200])!r}"
        reply += part
    return json.loads(reply)


@pytest.mark.parametrize("daemon", DAEMONS)
def test_what_is_no_request_is_refused_by_name_and_the_daemon_goes_on(net: TestNet, daemon: str) -> None:
    with unchanged(net, "alice"):
        for what, (data, error, words) in NO_REQUESTS.items():
            with connect(net, daemon) as connection:
                reply = exchange(connection, data)
                assert "result" not in reply, what
                assert_error(reply["error"], error, words)
                assert len(json.dumps(reply)) < 2000, what
                # One bad line does not cost the connection.
                assert exchange(connection, b"{" + STATUS + b"}")["result"]["name"] == daemon, what


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_message_without_end_is_cut_off(net: TestNet, daemon: str) -> None:
    with unchanged(net, "alice"), connect(net, daemon) as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                connection.sendall(b'{"a": "' + b"x" * 1_000_000)
        assert_error(exchange(connection, b"")["error"], MessageTooLarge, "8388608 bytes")


def methods_of(net: TestNet, daemon: str) -> list[dict[str, Any]]:
    """What the daemon declares."""
    with connect(net, daemon) as connection:
        document = exchange(connection, b'{"jsonrpc": "2.0", "id": 1, "method": "rpc.discover"}')["result"]
    entries: list[dict[str, Any]] = document["methods"]
    return entries


def ask(connection: socket.socket, entry: dict[str, Any], params: Any) -> Any:
    """A call as whoever may make it: another node where the method is for those."""
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": entry["name"], "params": params}
    if entry["x-access"] == "peer":
        request["peer"] = PEER
    return exchange(connection, json.dumps(request).encode())


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_method_refuses_a_parameter_that_it_does_not_know(net: TestNet, daemon: str) -> None:
    with unchanged(net, "alice"), connect(net, daemon) as connection:
        entries = methods_of(net, daemon)
        for entry in entries:
            reply = ask(connection, entry, {**entry["examples"][0]["params"], "no_such_parameter": 1})
            words = f"{entry['name']}: unknown parameter 'no_such_parameter'"
            assert_error(reply["error"], InvalidParams, words)
        assert len(entries) > 3


@pytest.mark.parametrize("daemon", DAEMONS)
def test_no_method_stumbles_over_nonsense_in_any_of_its_parameters(net: TestNet, daemon: str) -> None:
    with connect(net, daemon) as connection:
        for entry in methods_of(net, daemon):
            example = entry["examples"][0]["params"]
            for param in entry["params"]:
                for nonsense in NONSENSE:
                    reply = ask(connection, entry, {**example, param["name"]: nonsense})
                    if "error" in reply:
                        check_declared(entry, reply["error"], f"{param['name']} = {str(nonsense)[:40]!r}")
    assert status(net, "alice", daemon)["failures"] == 0


def check_declared(entry: dict[str, Any], given: dict[str, Any], what: str) -> None:
    """The error has code, name and hint, is no internal one, and one that the method declares."""
    error = from_rpc(given)
    where = f"{entry['name']} with {what}: {given}"
    assert error.name not in ("Internal", "RemoteError", "TimedOut"), where
    assert (error.code, bool(error.hint)) == (given["code"], True), where
    assert len(error.message) < 1000, where
    if entry["x-passes-errors"]:
        return
    declared = {one["message"] for one in entry["errors"]} | ANY_METHOD
    kinds = {cls.__name__ for cls in BY_NAME[error.name].__mro__}
    assert declared & kinds or isinstance(error, RateLimited), where
