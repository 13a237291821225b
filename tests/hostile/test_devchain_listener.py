"""Hostile clients at the trial chain's door: each is stopped, and nobody else notices."""

import base64
import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devchain_service_kit import PASSWORD, WALLET, ChainService
from flopd_kit import until

from dux_devnet.chain import listener
from duxcommon.coin.params import DEVNET

SHORT_S = 2.0
HEAD = (
    f"POST /wallet/{WALLET} HTTP/1.1\r\nHost: x\r\n"
    f"Authorization: Basic {base64.b64encode(f'node:{PASSWORD}'.encode()).decode()}\r\n"
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainService]:
    with ChainService(tmp_path_factory.mktemp("c"), tls=True) as running:
        running.start()
        yield running
        faults = [line for line in running.lines() if line["level"] in ("error", "critical") or "traceback" in line]
        assert faults == []


@contextlib.contextmanager
def connected(chain: ChainService, address: str = "127.0.0.2") -> Iterator[socket.socket]:
    """TLS from another address of this machine than the well-behaved clients have."""
    with (
        socket.create_connection(("127.0.0.1", chain.tls_port), 10, source_address=(address, 0)) as raw,
        chain.context().wrap_socket(raw, server_hostname="127.0.0.1") as tls,
    ):
        yield tls


def well(chain: ChainService) -> None:
    """Others are answered, soon."""
    begun = time.monotonic()
    assert chain.ask("getblockhash", 0, tls=True, timeout=5.0) == DEVNET.genesis
    assert time.monotonic() - begun < 3


def everything(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    got = b""
    with contextlib.suppress(OSError):
        while part := sock.recv(65536):
            got += part
    return got


@pytest.mark.parametrize(
    "text",
    [
        b"GARBAGE\r\n\r\n",
        b"\x00\xff" * 5000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD.encode() + b"Content-Length: -1\r\n\r\n{}",
        HEAD.encode() + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        HEAD.encode() + b"Content-Length: 999999999999\r\n\r\n{}",
        HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"4\r\naaaa\r\n" * 100,
        HEAD.encode() + b"Content-Length: 4\r\n\r\n[[[[",
        b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + b"A" * 5000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=range(9),
)
def test_garbage_is_answered_with_an_error_or_cut(chain: ChainService, text: bytes) -> None:
    with connected(chain) as tls, contextlib.suppress(OSError):
        tls.sendall(text)
        tls.settimeout(5)
        answer = tls.recv(65536)
        assert not answer or answer.split(b" ")[1] in (b"400", b"401", b"405", b"413", b"500"), answer
    well(chain)


def test_what_is_no_tls_is_cut(chain: ChainService) -> None:
    for text in (b"POST / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\x00" * 200, b"\x00" * 4096):
        with socket.create_connection(("127.0.0.1", chain.tls_port), 10, source_address=("127.0.0.2", 0)) as raw:
            raw.sendall(text)
            raw.settimeout(listener.HANDSHAKE_S + 5)
            everything(raw)
    well(chain)


def test_an_address_gets_so_many_connections_and_others_get_theirs(chain: ChainService) -> None:
    with contextlib.ExitStack() as stack:
        refused = 0
        # Not one finishes its handshake: those count as well.
        for _ in range(listener.PER_ADDRESS + 20):
            raw = stack.enter_context(
                socket.create_connection(("127.0.0.1", chain.tls_port), 10, source_address=("127.0.0.3", 0))
            )
            raw.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                refused += raw.recv(1) == b""
        assert refused == 20
        well(chain)
    until(lambda: can_connect(chain, "127.0.0.3"), "room after they left")


def can_connect(chain: ChainService, address: str) -> bool:
    try:
        with connected(chain, address):
            return True
    except OSError:
        return False


def test_all_addresses_together_get_so_many_connections(chain: ChainService) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(listener.MAX_CONNECTIONS):
            address = f"127.0.1.{number // listener.PER_ADDRESS + 1}"
            stack.enter_context(
                socket.create_connection(("127.0.0.1", chain.tls_port), 10, source_address=(address, 0))
            )
        until(lambda: not can_connect(chain, "127.0.2.1"), "limit")
        # The machine's own node is not served by this door.
        assert chain.ask("getblockhash", 0) == DEVNET.genesis
    until(lambda: can_connect(chain, "127.0.2.1"), "room after they left")


@contextlib.contextmanager
def hurried(folder: Path) -> Iterator[ChainService]:
    """A chain that is less patient, so that the tests need not be patient either."""
    script = "import sys; from dux_devnet.chain import __main__, listener, server\n"
    script += f"listener.HANDSHAKE_S = {SHORT_S}; listener.SILENCE_S = server.SILENCE_S = {SHORT_S}\n"
    script += "sys.exit(__main__.main(sys.argv[1:]))"
    with ChainService(folder, tls=True) as chain:
        chain._command = [sys.executable, "-c", script]
        chain.start()
        yield chain


def test_clients_that_never_finish_what_they_began_are_cut(tmp_path: Path) -> None:
    """A handshake, a head, a body that come drop by drop, and one that says nothing at all."""
    ended: dict[str, float] = {}

    def drip(name: str, sock: socket.socket, start: bytes, drop: bytes) -> None:
        begun = time.monotonic()
        with sock, contextlib.suppress(OSError):
            sock.sendall(start)
            sock.settimeout(0.2)
            while time.monotonic() - begun < 20:
                if drop:
                    sock.sendall(drop)
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(4096):
                        break
        ended[name] = time.monotonic() - begun

    with hurried(tmp_path) as chain, contextlib.ExitStack() as stack:
        tls = [stack.enter_context(connected(chain, "127.0.0.5")) for _ in range(3)]
        raw = socket.create_connection(("127.0.0.1", chain.tls_port), 10, source_address=("127.0.0.5", 0))
        threads = [
            threading.Thread(target=drip, args=args)
            for args in (
                ("head", tls[0], HEAD.encode(), b"X-A: b\r\n"),
                ("body", tls[1], HEAD.encode() + b"Content-Length: 100000\r\n\r\n", b"{"),
                ("silent", tls[2], b"", b""),
                ("handshake", raw, b"\x16\x03\x01\x10\x00\x01", b"\x00"),
            )
        ]
        for thread in threads:
            thread.start()
        well(chain)
        for thread in threads:
            thread.join(30)
    assert set(ended) == {"head", "body", "silent", "handshake"}
    assert all(seconds < SHORT_S + 5 for seconds in ended.values()), ended


def test_a_batch_or_a_request_beyond_the_limit_is_refused(chain: ChainService) -> None:
    call = {"method": "getblockhash", "params": [0]}
    status, body = chain.http([call] * listener.MAX_BATCH, tls=True)
    assert (status, len(json.loads(body))) == (200, listener.MAX_BATCH)
    assert chain.http([call] * (listener.MAX_BATCH + 1), tls=True)[0] == 413
    with contextlib.suppress(ssl.SSLError, ConnectionError):  # it closes while the rest is still being sent
        assert chain.http(b" " * (listener.MAX_REQUEST + 1), tls=True)[0] == 413
    well(chain)


def test_a_client_that_calls_without_end_is_slowed_down_and_the_others_are_not(chain: ChainService) -> None:
    call = json.dumps([{"method": "getblockhash", "params": [0]}] * listener.MAX_BATCH)
    request = f"{HEAD}Content-Length: {len(call)}\r\n\r\n{call}".encode()
    batches = int(listener.BURST / listener.MAX_BATCH) + 10
    begun = time.monotonic()
    with connected(chain, "127.0.0.6") as tls:
        for _ in range(batches):
            tls.sendall(request)
            answered = b""
            while answered.count(DEVNET.genesis.encode()) < listener.MAX_BATCH:
                answered += tls.recv(1 << 20)
    # The burst is free, the rest comes at the rate.
    assert time.monotonic() - begun > 10 * listener.MAX_BATCH / listener.CALLS_PER_SECOND * 0.8
    well(chain)


def test_the_log_does_not_tell_passwords(chain: ChainService, tmp_path: Path) -> None:
    chain.http({"method": "getblockhash", "params": [0]}, password="wrong-but-nearly-right", tls=True)
    text = chain.log.read_text()
    assert PASSWORD not in text
    assert "wrong-but-nearly-right" not in text
    assert chain.cookie.read_text() not in text
