"""`dux-ctl setup flopcoin` when something else than a Core has the port: bounded, told, and without a password."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dux_setup import coreplan
from dux_setup.corecheck import Finding
from dux_setup.coreplan import Wish
from dux_setup.corerpc import MAX_REPLY_BYTES
from dux_setup.paths import Paths

DEADLINE_S = 0.5
Answer = Callable[[socket.socket], None]


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        continue


def trickling(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(200):
        connection.sendall(b" ")
        time.sleep(DEADLINE_S / 10)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(2 * MAX_REPLY_BYTES // 65536):
        connection.sendall(b"x" * 65536)


def headers_without_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        connection.sendall(b"A%d: b\r\n" % number)


def banner(connection: socket.socket) -> None:
    connection.sendall(b"220 mail.example ESMTP\r\n")


def cut(connection: socket.socket) -> None:
    connection.close()


def page(body: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return answer


NOT_A_CORE = {
    "silent": silent,
    "trickling": trickling,
    "endless": endless,
    "headers without end": headers_without_end,
    "another protocol": banner,
    "hangs up": cut,
    "a web page": page(b"<html>hello</html>"),
    "deep JSON": page(b"[" * 100_000),
    "JSON of another form": page(b'{"jsonrpc": "2.0"}'),
    "a list": page(b"[]"),
    "an error of another form": page(b'{"result": null, "error": "no", "id": 1}'),
    "bytes": page(bytes(range(256))),
}


@contextmanager
def listening(answer: Answer) -> Iterator[int]:
    """A server on a free port that treats each connection like this."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    try:
                        answer(connection)
                    except OSError:
                        continue  # The client has had enough.

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def findings(folder: Path, port: int) -> dict[str, Finding]:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    (data / "flopcoin.conf").write_text(f"rpcport={port}\nrpcuser=bob\nrpcpassword=geheim\n")
    plan = coreplan.make(Paths(folder / "root"), Wish(datadir=data, deadline_s=DEADLINE_S))
    return {one.name: one for one in plan.findings}


@pytest.mark.parametrize("kind", NOT_A_CORE)
def test_what_is_no_core_is_told_within_the_time_limit(kind: str, tmp_path: Path) -> None:
    with listening(NOT_A_CORE[kind]) as port:
        begun = time.monotonic()
        found = findings(tmp_path, port)["running"]
        took = time.monotonic() - begun
    assert took < DEADLINE_S + 10
    assert found.state == "wrong"
    assert f"port {port}" in found.text
    assert f"ss -ltnp sport = :{port}" in found.do


@pytest.mark.parametrize("result", [b'"\\u001b[2J"', b'{"a": 1}', b"7", b"null"])
def test_a_server_that_plays_core_is_found_out_by_the_genesis_and_paints_no_screen(
    result: bytes, tmp_path: Path
) -> None:
    with listening(page(b'{"error": null, "result": ' + result + b"}")) as port:
        found = findings(tmp_path, port)
    assert found["chain"].state == "wrong"
    assert all(one.text.isprintable() for one in found.values())


def test_a_program_of_another_user_gets_no_password(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root, to run a program as another user")
    code = (
        "import os, socket; os.setgid(65534); os.setuid(65534); s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); s.settimeout(10); print(s.accept()[0].recv(999), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        assert other.stdout is not None
        found = findings(tmp_path, int(other.stdout.readline()))
        other.kill()
        heard = other.stdout.read()
    assert found["login"].state == "wrong"
    assert "of user nobody, who is not Core's; it got no password" in found["login"].text
    assert heard == b""
