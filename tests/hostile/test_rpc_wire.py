"""Whatever arrives on a daemon's socket is answered with a code, a name and a hint, and the daemon lives on."""

import contextlib
import json
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from duxcommon.blocking import BlockingClient
from duxcommon.errors import DaemonDown, DuxError, MessageTooLarge, RateLimited
from duxcommon.rpc import server, wire
from tests.support.logs import assert_clean_logs
from tests.support.probe import probe
from tests.support.process import DaemonProcess

MIB = 1024 * 1024
SLOW_READER_S = 2.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """One daemon for the whole module: each test must leave it able to serve the next."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    settings = {"calls_per_second": 100_000}
    try:
        with probe(folder, settings, env={"PROBE_SLOW_READER_S": str(SLOW_READER_S)}) as process:
            process.start()
            yield process
            assert process.stop() == 0
        assert_clean_logs(folder, allow=[r"internal error.*probe\.crash", r"internal error.*\"reply\""])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def still_answers(daemon: DaemonProcess) -> Iterator[None]:
    """After each test the daemon answers a fresh connection, at once, and is the process it was."""
    yield
    before = time.monotonic()
    assert daemon.call("probe.echo", {"text": "still here"}, timeout=20.0) == {"text": "still here"}
    assert time.monotonic() - before < 10.0


def connect(daemon: DaemonProcess, seconds: float = 20.0) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    connection.connect(str(daemon.socket))
    return connection


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(1 << 20):
            data += chunk
    return data


def read_line(connection: socket.socket) -> Any:
    data = b""
    while not data.endswith(b"\n"):
        chunk = connection.recv(1 << 20)
        assert chunk, f"closed after {data[:200]!r}"
        data += chunk
    return json.loads(data)


def send(daemon: DaemonProcess, data: bytes) -> Any:
    """One message on a connection of its own; the reply."""
    with connect(daemon) as connection:
        connection.sendall(data + b"\n")
        return read_line(connection)


def assert_error(reply: Any, code: int, name: str, words: str = "") -> dict[str, Any]:
    """It is a whole error object: code, name, hint, retry, component, and a message that names `words`."""
    error: dict[str, Any] = reply["error"]
    assert reply["jsonrpc"] == "2.0"
    assert "result" not in reply
    assert error["code"] == code, error
    assert error["data"]["name"] == name
    assert error["data"]["hint"]
    assert isinstance(error["data"]["retry"], bool)
    assert error["data"]["component"]
    assert words in error["message"], error["message"]
    return error


def request(method: str, params: Any = None, **more: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, **more}
    if params is not None:
        message["params"] = params
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"{",
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word"',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word"}}',
        b"{'jsonrpc': '2.0'}",
        b"\x00\x01\x02\xff\xfe binary",
        bytes(range(1, 10)) + bytes(range(11, 256)),
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.echo", "params": {"text": "\xff\xfe"}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.echo", "params": {"text": "\xed\xa0\x80"}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.echo", "params": {"text": "\\ud800"}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.echo", "params": {"\\udfff": "x"}}',
        b"\xef\xbb\xbf" + b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word"}',
        '{"jsonrpc": "2.0", "id": 1, "method": "probe.word"}'.encode("utf-16-le"),
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.any", "params": {"value": NaN}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.any", "params": {"value": Infinity}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.any", "params": {"value": -Infinity}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.any", "params": {"value": 1e999}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.any", "params": {"value": ' + b"9" * 5000 + b"}}",
        b'{"jsonrpc": "2.0", "id": 1, "method": "probe.any", "params": {"value": 01}}',
    ],
    ids=[
        "word", "half", "cut", "too-many-braces", "single-quotes", "binary", "all-bytes", "bad-utf8", "utf8-surrogate",
        "lone-surrogate", "surrogate-key", "bom", "utf16", "nan", "infinity", "minus-infinity", "1e999", "huge-integer",
        "leading-zero",
    ],
)  # fmt: skip
def test_what_is_no_json_is_a_parse_error(daemon: DaemonProcess, data: bytes) -> None:
    reply = send(daemon, data)
    assert_error(reply, -32700, "ParseError", "not JSON")
    assert reply["id"] is None
    assert len(json.dumps(reply)) < 1000


def test_a_whole_character_written_as_two_escapes_is_good_text(daemon: DaemonProcess) -> None:
    reply = send(daemon, b'{"jsonrpc": "2.0", "id": 1, "method": "probe.echo", "params": {"text": "\\ud83d\\ude00"}}')
    assert reply["result"] == {"text": "\N{GRINNING FACE}"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"5", "not a JSON-RPC 2.0 request object"),
        (b'"probe.word"', "not a JSON-RPC 2.0 request object"),
        (b"null", "not a JSON-RPC 2.0 request object"),
        (b"[]", "a batch holds 1 to"),
        (b'{"id": 1, "method": "probe.word"}', "not a JSON-RPC 2.0 request object"),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "probe.word"}', "not a JSON-RPC 2.0 request object"),
        (b'{"jsonrpc": 2.0, "id": 1, "method": "probe.word"}', "not a JSON-RPC 2.0 request object"),
        (b'{"jsonrpc": "2.0", "id": 1}', "'method' is missing"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', "'method' is missing or not text"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word", "params": 5}', "'params' is neither"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word", "params": null}', "'params' is neither"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word", "params": "x"}', "'params' is neither"),
        (b'{"jsonrpc": "2.0", "id": [1], "method": "probe.word"}', "'id' must be"),
        (b'{"jsonrpc": "2.0", "id": {"a": 1}, "method": "probe.word"}', "'id' must be"),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "probe.word"}', "'id' must be"),
        (b'{"jsonrpc": "2.0", "id": true, "method": "probe.word"}', "'id' must be"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word", "extra": 1}', "unknown members: extra"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word", "peer": 5}', "'peer' is not a node id"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "probe.word", "peer": null}', "'peer' is not a node id"),
    ],
)
def test_what_is_no_request_is_an_invalid_request(daemon: DaemonProcess, data: bytes, words: str) -> None:
    assert_error(send(daemon, data), -32600, "InvalidRequest", words)


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("probe.echo", {}, "parameter 'text' is missing"),
        ("probe.echo", {"text": "x", "txet": "y"}, "unknown parameter 'txet' (known: text)"),
        ("probe.echo", {"text": 5}, "text: Input should be a valid string"),
        ("probe.echo", {"text": None}, "text: Input should be a valid string"),
        ("probe.echo", {"text": ["x"]}, "text: Input should be a valid string"),
        ("probe.echo", ["x", "y"], "takes at most 1 parameters, got 2"),
        ("probe.pay", {"amount": "5", "key": "k"}, "amount: Input should be a valid integer"),
        ("probe.pay", {"amount": 5.0, "key": "k"}, "amount: Input should be a valid integer"),
        ("probe.pay", {"amount": True, "key": "k"}, "amount: Input should be a valid integer"),
        ("probe.pay", {"amount": -1, "key": "k"}, "amount: Input should be greater than or equal to 0"),
        ("probe.pay", {"amount": 10**18 + 1, "key": "k"}, "amount: Input should be less than or equal to"),
        ("probe.pay", {"amount": 5, "key": ""}, "key: String should match pattern"),
        ("probe.pay", {"amount": 5, "key": "k\n"}, "key: String should match pattern"),
        ("probe.pay", {"amount": 5, "key": "k" * 201}, "key: String should match pattern"),
        ("probe.who", {"caller": {"uid": 0}}, "unknown parameter 'caller'"),
        ("probe.word", {"context": 1}, "unknown parameter 'context'"),
        ("probe.word", {"self": 1}, "unknown parameter 'self'"),
        ("probe.word", {"args": 1, "kwargs": 2}, "unknown parameter"),
        ("probe.word", {"__class__": 1}, "unknown parameter '__class__'"),
        ("probe.word", {"": 1}, "unknown parameter ''"),
    ],
)
def test_wrong_parameters_are_named(daemon: DaemonProcess, method: str, params: Any, words: str) -> None:
    error = assert_error(send(daemon, request(method, params)), -32602, "InvalidParams", words)
    assert error["message"].startswith(method)


def test_a_parameter_may_be_called_as_something_inside_the_server(daemon: DaemonProcess) -> None:
    assert daemon.call("probe.any", {"value": 1, "context": "mine"}) == {"value": 1}


@pytest.mark.parametrize(
    "method", ["probe.nothing", "nothing", "", "rpc.describe", "probe.echo ", "__init__", "x" * 500]
)
def test_an_unknown_method_is_named_and_not_echoed_at_length(daemon: DaemonProcess, method: str) -> None:
    reply = send(daemon, request(method))
    assert_error(reply, -32601, "MethodNotFound", method[:80].strip())
    assert len(reply["error"]["message"]) < 200


def test_a_message_of_nine_megabytes_is_refused_before_it_is_parsed(daemon: DaemonProcess) -> None:
    data = request("probe.echo", {"text": "x" * 9_000_000}) + b"\n"
    with connect(daemon) as connection:
        # The daemon stops reading: the sender may find the connection closed, but the answer is there to be read.
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        answer = read_all(connection)
    assert_error(json.loads(answer), 1015, "MessageTooLarge", "8388608 bytes")


def test_the_clients_refuse_to_send_what_no_daemon_takes(daemon: DaemonProcess) -> None:
    client = BlockingClient(daemon.socket)
    with pytest.raises(MessageTooLarge) as caught:
        client.call("probe.echo", {"text": "x" * 9_000_000})
    assert "blob.write" in caught.value.hint
    # Nothing was sent: the connection is as good as before.
    assert client.call("probe.word") == {"text": "hello"}
    client.close()


def test_endless_json_without_a_newline_is_cut_off_and_takes_little_memory(daemon: DaemonProcess) -> None:
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    before = process.memory_info().rss
    with connect(daemon) as connection:
        sent, block = 0, b'{"a":' * 200_000
        with contextlib.suppress(ConnectionError):
            while sent < 100 * MIB:
                connection.sendall(block)
                sent += len(block)
        answer = read_all(connection)
    assert sent < 40 * MIB
    assert_error(json.loads(answer), 1015, "MessageTooLarge")
    assert process.memory_info().rss - before < 64 * MIB


def test_deep_nesting_is_refused_whether_the_parser_could_take_it_or_not(daemon: DaemonProcess) -> None:
    for depth in (65, 500, 5_000, 500_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            data = opening * depth + b"1" + closing * depth
            reply = send(daemon, b'{"jsonrpc":"2.0","id":1,"method":"probe.any","params":{"value":' + data + b"}}")
            assert_error(reply, -32700, "ParseError")
    shallow = b"[" * 60 + b"]" * 60
    reply = send(daemon, b'{"jsonrpc":"2.0","id":1,"method":"probe.any","params":{"value":' + shallow + b"}}")
    assert "result" in reply
    # Many brackets that are not deep, and brackets in a text, are no offence.
    wide = b"[" + b"[]," * 1000 + b"[]]"
    assert "result" in send(daemon, b'{"jsonrpc":"2.0","id":1,"method":"probe.any","params":{"value":' + wide + b"}}")
    assert "result" in send(daemon, request("probe.echo", {"text": "[{" * 10_000}))


def test_the_depth_check_of_a_large_message_takes_little_memory_and_time() -> None:
    data = b'{"a":"' + b"x" * 7_000_000 + b'","b":[' + b"[]," * 200 + b"1]}"
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = time.process_time()
    wire.loads(data)
    assert time.process_time() - before < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024


def test_a_batch_of_ten_thousand_is_refused_whole(daemon: DaemonProcess) -> None:
    one = request("probe.word")
    before = daemon.call("daemon.status")["calls"]
    reply = send(daemon, b"[" + b",".join([one] * 10_000) + b"]")
    assert_error(reply, -32600, "InvalidRequest", "a batch holds 1 to 50 requests, not 10000")
    assert daemon.call("daemon.status")["calls"] - before == 1


def test_a_batch_answers_each_element_in_order_and_one_bad_element_spoils_no_other(daemon: DaemonProcess) -> None:
    elements = [
        {"jsonrpc": "2.0", "id": "a", "method": "probe.echo", "params": {"text": "1"}},
        {"jsonrpc": "2.0", "id": "b", "method": "probe.echo", "params": {"text": 2}},
        7,
        {"jsonrpc": "2.0", "method": "probe.echo", "params": {"text": "no answer wanted"}},
        {"jsonrpc": "2.0", "method": "probe.nothing"},
        {"jsonrpc": "2.0", "id": "c", "method": "probe.nothing"},
        {"jsonrpc": "2.0", "id": None, "method": "probe.echo", "params": ["by position"]},
    ]
    replies = send(daemon, json.dumps(elements).encode())
    assert [reply["id"] for reply in replies] == ["a", "b", None, "c", None]
    assert replies[0]["result"] == {"text": "1"}
    assert_error(replies[1], -32602, "InvalidParams")
    assert_error(replies[2], -32600, "InvalidRequest")
    assert_error(replies[3], -32601, "MethodNotFound")
    assert replies[4]["result"] == {"text": "by position"}


def test_notifications_are_never_answered(daemon: DaemonProcess) -> None:
    with connect(daemon) as connection:
        for method in ("probe.word", "probe.nothing", "probe.crash"):
            connection.sendall(json.dumps({"jsonrpc": "2.0", "method": method}).encode() + b"\n")
        connection.sendall(json.dumps([{"jsonrpc": "2.0", "method": "probe.word"}] * 3).encode() + b"\n")
        connection.sendall(request("probe.echo", {"text": "only this"}) + b"\n")
        assert read_line(connection)["result"] == {"text": "only this"}


def test_equal_ids_in_flight_are_each_answered(daemon: DaemonProcess) -> None:
    with connect(daemon) as connection:
        for text in ("one", "two", "three"):
            connection.sendall(request("probe.echo", {"text": text}) + b"\n")
        connection.shutdown(socket.SHUT_WR)
        replies = [json.loads(line) for line in read_all(connection).splitlines()]
    assert [reply["id"] for reply in replies] == [1, 1, 1]
    assert {reply["result"]["text"] for reply in replies} == {"one", "two", "three"}


def test_a_sender_that_closes_its_side_still_gets_its_answers(daemon: DaemonProcess) -> None:
    with connect(daemon) as connection:
        connection.sendall(request("probe.sleep", {"seconds": 0.3}))  # without a newline, too
        connection.shutdown(socket.SHUT_WR)
        assert json.loads(read_all(connection))["result"] == {"ok": True}


def test_a_reply_that_is_too_large_or_no_json_becomes_an_error(daemon: DaemonProcess) -> None:
    error = assert_error(send(daemon, request("probe.big", {"size": 9_000_000})), 1015, "MessageTooLarge")
    assert "smaller page" in error["data"]["hint"]
    assert_error(send(daemon, request("probe.nan")), -32603, "Internal", "reference")


def test_an_internal_error_shows_a_reference_and_nothing_else(daemon: DaemonProcess) -> None:
    reply = send(daemon, request("probe.crash"))
    error = assert_error(reply, -32603, "Internal", "internal error, reference ")
    assert "hunter2" not in json.dumps(reply)
    assert "ValueError" not in json.dumps(reply)
    line = json.loads(daemon.wait_log(error["data"]["details"]["reference"]))
    assert line["method"] == "probe.crash"
    assert "hunter2" in line["traceback"]


def test_a_method_that_takes_too_long_times_out(daemon: DaemonProcess) -> None:
    error = assert_error(send(daemon, request("probe.late")), 1004, "TimedOut", "probe.late did not finish")
    assert error["data"]["retry"] is True


def test_a_rate_limit_says_how_long_to_wait(daemon: DaemonProcess) -> None:
    for _ in range(2):
        assert daemon.call("probe.limited") == {"ok": True}
    error = assert_error(send(daemon, request("probe.limited")), 1002, "RateLimited", "too many calls of probe.limited")
    assert error["data"]["retry"] is True
    assert 0 < error["data"]["details"]["wait_s"] <= 30


def test_a_reader_that_never_reads_is_dropped_and_does_not_hold_up_the_others(daemon: DaemonProcess) -> None:
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    with connect(daemon) as slow:
        for _ in range(20):
            slow.sendall(request("probe.big", {"size": 4_000_000}) + b"\n")
        deadline = time.monotonic() + SLOW_READER_S + 60.0
        others = 0
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                assert daemon.call("probe.word", timeout=20.0) == {"text": "hello"}
                others += 1
                slow.sendall(b" ")
                time.sleep(0.05)
        assert time.monotonic() < deadline, "the slow reader was never dropped"
        assert others > 1
    assert process.memory_info().rss < 400 * MIB


def test_a_stream_of_empty_lines_is_cut_off_and_costs_nothing(daemon: DaemonProcess) -> None:
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    before = sum(process.cpu_times()[:2])
    with connect(daemon) as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                connection.sendall(b"\n" * 1_000_000)
        assert_error(json.loads(read_all(connection)), -32600, "InvalidRequest", "empty lines")
    assert sum(process.cpu_times()[:2]) - before < 1.0


def test_a_few_empty_lines_between_requests_are_no_offence(daemon: DaemonProcess) -> None:
    with connect(daemon) as connection:
        connection.sendall(b"\n\r\n  \n" + request("probe.word") + b"\r\n\n\n")
        assert read_line(connection)["result"] == {"text": "hello"}


def test_of_600_connections_those_beyond_the_limit_are_told_so(daemon: DaemonProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    connections = []
    try:
        for _ in range(600):
            connection = connect(daemon)
            connections.append(connection)
        answered, refused = 0, 0
        for connection in connections:
            with contextlib.suppress(ConnectionError):
                connection.sendall(request("probe.word") + b"\n")
            reply = json.loads(read_line_bytes(connection))
            if "result" in reply:
                answered += 1
            else:
                assert_error(reply, 1002, "RateLimited", f"{server.MAX_CONNECTIONS} connections are open")
                refused += 1
        assert answered == server.MAX_CONNECTIONS
        assert refused == 600 - server.MAX_CONNECTIONS
        with pytest.raises((RateLimited, DaemonDown)):
            daemon.call("probe.word")
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 60
    while True:
        try:
            daemon.call("probe.word")
            return
        except DuxError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def read_line_bytes(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        data += connection.recv(65536)
    return data


def http(daemon: DaemonProcess, data: bytes, *, close: bool = False) -> Any:
    """Raw bytes to the socket; the JSON in the HTTP answer."""
    with connect(daemon) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            if close:
                connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), answer[:200]
    return json.loads(body)


BODY = request("probe.word")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: dux\r\n\r\n", "only POST is answered"),
        (b"OPTIONS / HTTP/1.1\r\nHost: dux\r\n\r\n", "only POST is answered"),
        (b"POST / HTTP/1.1\r\nHost: dux\r\n\r\n", "no valid Content-Length"),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", "no valid Content-Length"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", "no valid Content-Length"),
        (b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", "no valid Content-Length"),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 500 + b"\r\n\r\n", "no valid Content-Length"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "no valid Content-Length"),
        (b"POST / HTTP/1.1\r\nOrigin: https://evil.example\r\nContent-Length: 2\r\n\r\n{}", "from web pages"),
        (b"POST / HTTP/1.1\r\norigin : null\r\nContent-Length: 2\r\n\r\n{}", "from web pages"),
    ],
)
def test_http_that_is_not_one_plain_post_is_refused(daemon: DaemonProcess, data: bytes, words: str) -> None:
    assert_error(http(daemon, data), -32600, "InvalidRequest", words)


def test_http_bodies_and_headers_are_bounded(daemon: DaemonProcess) -> None:
    reply = http(daemon, b"POST / HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n")
    assert_error(reply, 1015, "MessageTooLarge")
    reply = http(daemon, b"POST / HTTP/1.1\r\n" + b"X-Padding: y\r\n" * 5_000 + b"\r\n")
    assert_error(reply, 1015, "MessageTooLarge", "headers")
    reply = http(daemon, b"POST / HTTP/1.1\r\nX-Padding: " + b"y" * 9_000_000 + b"\r\n\r\n")
    assert_error(reply, 1015, "MessageTooLarge")


def test_an_http_body_that_ends_early_or_never_comes_is_refused(daemon: DaemonProcess) -> None:
    reply = http(daemon, b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\n" + BODY, close=True)
    assert_error(reply, -32600, "InvalidRequest", "ended before its body was complete")
    reply = http(daemon, b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\n" + BODY)
    assert_error(reply, 1004, "TimedOut", "not complete")


def test_a_shorter_http_length_than_the_body_reads_only_that_far(daemon: DaemonProcess) -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: " + str(len(BODY)).encode() + b"\r\n\r\n"
    reply = http(daemon, head + BODY + b'\n{"jsonrpc": "2.0", "id": 2, "method": "probe.admin"}\n')
    assert reply == {"jsonrpc": "2.0", "id": 1, "result": {"text": "hello"}}
    assert_error(http(daemon, b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n" + BODY), -32700, "ParseError")


def test_connections_that_are_dropped_at_any_point_leave_no_trace(daemon: DaemonProcess) -> None:
    data = request("probe.sleep", {"seconds": 0.2}) + b"\n"
    for cut in (0, 1, len(data) // 2, len(data) - 1, len(data)):
        for _ in range(10):
            with connect(daemon) as connection:
                connection.sendall(data[:cut])
    time.sleep(0.5)
    assert daemon.process is not None
    deadline = time.monotonic() + 60
    # Only the daemon's own descriptors stay open: listener, loop, log, database, the call that asks.
    while psutil.Process(daemon.process.pid).num_fds() > 30:
        assert time.monotonic() < deadline
        time.sleep(0.05)
