"""Hostile programs of this very machine at the trial chain's plain port: dux-flopd's calls go on."""

import asyncio
import base64
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devchain_service_kit import PASSWORD, WALLET, ChainService
from flopd_kit import until

from dux_devnet.chain import listener, local
from dux_flopd.core import Core
from dux_flopd.settings import CoreSettings
from duxcommon.coin.params import DEVNET
from duxcommon.errors import ChainDown
from tests.hostile.test_devchain_listener import HEAD, SHORT_S, everything

FLOOD = 2000
ATTACK_S = 6.0
ANSWER_S = 30.0
"""For one call, on a machine that is busy with the attack."""
ATTACKER = """
import resource, selectors, socket, sys, time
port, count, text, every = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode(), float(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
selector, opened, told, drop = selectors.DefaultSelector(), 0, False, time.monotonic()
def connect():
    global opened
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    selector.register(one, selectors.EVENT_READ)
    opened += 1
while True:
    while len(selector.get_map()) < count:
        connect()
    if not told:
        print("there", flush=True)
        told = True
    for key, _ in selector.select(0.05):
        try:
            gone = not key.fileobj.recv(4096)
        except OSError:
            gone = True
        if gone:
            selector.unregister(key.fileobj)
            key.fileobj.close()
    if text and time.monotonic() > drop:
        drop = time.monotonic() + every
        for key in selector.get_map().values():
            try:
                key.fileobj.send(text)
            except OSError:
                pass
"""
"""Opens so many connections, opens each anew that is cut, and sends the same few bytes over and over."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainService]:
    with ChainService(tmp_path_factory.mktemp("c"), users=("node", "guest")) as running:
        running.start()
        yield running
        faults = [line for line in running.lines() if line["level"] in ("error", "critical") or "traceback" in line]
        assert faults == []


@contextlib.contextmanager
def attacked(chain: ChainService, count: int, text: str = "", every: float = 1.0) -> Iterator[None]:
    """While a program that has no login does its worst."""
    words = [str(chain.port), str(count), text, str(every)]
    process = subprocess.Popen([sys.executable, "-I", "-c", ATTACKER, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "there\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def flopd_calls(chain: ChainService, folder: Path, *, during_s: float, may_fail: bool = False) -> int:
    """How many calls of dux-flopd's own client are answered meanwhile, each by a fresh connection."""
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    url = f"http://127.0.0.1:{chain.port}/wallet/{WALLET}"
    settings = CoreSettings.model_validate({"url": url, "user": "node", "password_file": password})

    async def call() -> int:
        answered, end = 0, time.monotonic() + during_s
        async with asyncio.timeout(during_s + ANSWER_S):
            while time.monotonic() < end or not answered:
                core = Core(settings, DEVNET.genesis)
                try:
                    await core.chain_info()
                    answered += 1
                except ChainDown:
                    if not may_fail:
                        raise
                finally:
                    await core.close()
        return answered

    return asyncio.run(call())


def descriptors(chain: ChainService) -> int:
    assert chain.process is not None
    return len(os.listdir(f"/proc/{chain.process.pid}/fd"))


def test_two_thousand_connections_do_not_stop_a_call_of_flopd(chain: ChainService, tmp_path: Path) -> None:
    with attacked(chain, FLOOD):
        assert flopd_calls(chain, tmp_path, during_s=ATTACK_S) > 0
        assert chain.ask("getblockhash", 0, timeout=ANSWER_S) == DEVNET.genesis


def test_beyond_a_number_of_them_the_oldest_are_cut_and_flopd_still_gets_through(
    chain: ChainService, tmp_path: Path
) -> None:
    """Where the attack keeps all processors busy, flopd may itself be the oldest before it speaks, and tries again."""
    before = descriptors(chain)
    with attacked(chain, local.MAX_WAITING + 500):
        assert flopd_calls(chain, tmp_path, during_s=ATTACK_S, may_fail=True) > 0
        assert descriptors(chain) <= before + local.MAX_WAITING + 50
    assert chain.said(f"more than {local.MAX_WAITING} connections say nothing")
    until(lambda: descriptors(chain) <= before + 20, "nothing of the attack is left", 30)


def test_requests_without_a_login_do_not_stop_a_call_of_flopd(chain: ChainService, tmp_path: Path) -> None:
    with attacked(chain, 200, "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 0.1):
        assert flopd_calls(chain, tmp_path, during_s=ATTACK_S) > 0


def test_a_connection_that_is_kept_is_not_cut_by_a_flood_of_strangers(chain: ChainService) -> None:
    call = b'{"method": "getblockhash", "params": [0]}'
    request = f"{HEAD}Content-Length: {len(call)}\r\n\r\n".encode() + call
    with socket.create_connection(("127.0.0.1", chain.port), ANSWER_S) as mine:
        mine.sendall(request)
        assert DEVNET.genesis.encode() in mine.recv(65536)
        with attacked(chain, FLOOD):
            for _ in range(20):
                mine.sendall(request)
                assert DEVNET.genesis.encode() in mine.recv(65536)


@contextlib.contextmanager
def hurried(folder: Path) -> Iterator[ChainService]:
    """A chain that is less patient, so that the test need not be patient either."""
    script = "import sys; from dux_devnet.chain import __main__, listener, server\n"
    script += f"listener.SILENCE_S = server.SILENCE_S = {SHORT_S}\nsys.exit(__main__.main(sys.argv[1:]))"
    with ChainService(folder) as chain:
        chain._command = [sys.executable, "-c", script]
        chain.start()
        yield chain


@pytest.mark.parametrize(
    "start", ["", f"{HEAD}X-A: ", f"{HEAD}Content-Length: 1000\r\n\r\n"], ids=["first", "head", "body"]
)
def test_a_byte_a_second_is_cut_in_time_and_does_not_stop_a_call_of_flopd(tmp_path: Path, start: str) -> None:
    with hurried(tmp_path) as chain:
        begun = time.monotonic()
        with (
            attacked(chain, 300, "P", 1.0),
            socket.create_connection(("127.0.0.1", chain.port), ANSWER_S) as slow,
            contextlib.suppress(OSError),
        ):
            slow.sendall(start.encode())
            assert flopd_calls(chain, tmp_path, during_s=1.0) > 0
            slow.settimeout(0.2)
            while time.monotonic() - begun < ANSWER_S:
                slow.sendall(b"P")
                with contextlib.suppress(TimeoutError):
                    if not slow.recv(4096):
                        break
        assert time.monotonic() - begun < ANSWER_S


def test_a_head_without_end_is_cut(chain: ChainService) -> None:
    line = b"X-A: " + b"b" * 500 + b"\r\n"
    with socket.create_connection(("127.0.0.1", chain.port), ANSWER_S) as one:
        with contextlib.suppress(OSError):
            one.sendall(HEAD.encode())
            for _ in range(2 * listener.MAX_HEAD // len(line)):
                one.sendall(line)
        assert everything(one) == b""
    assert chain.said(f"a head of more than {listener.MAX_HEAD} bytes")


def test_a_large_body_after_a_small_head_is_taken_also_the_second_time(chain: ChainService) -> None:
    call = b'{"method": "getblockhash", "params": [0]}' + b" " * 300_000
    request = f"{HEAD}Content-Length: {len(call)}\r\n\r\n".encode() + call
    with socket.create_connection(("127.0.0.1", chain.port), ANSWER_S) as one:
        for _ in range(3):
            one.sendall(request)
            assert DEVNET.genesis.encode() in one.recv(65536)


def test_a_user_who_takes_all_the_places_gives_up_its_own(chain: ChainService) -> None:
    call = b'{"method": "getblockhash", "params": [0]}'
    end = f"Content-Length: {len(call)}\r\n\r\n".encode() + call
    guest = HEAD.replace(HEAD.split("Basic ")[1].split("\r\n")[0], login("guest")).encode() + end

    def asked(one: socket.socket, request: bytes) -> bool:
        with contextlib.suppress(OSError):
            one.sendall(request)
            return DEVNET.genesis.encode() in one.recv(65536)
        return False

    with contextlib.ExitStack() as stack:
        node, *guests = [
            stack.enter_context(socket.create_connection(("127.0.0.1", chain.port), ANSWER_S))
            for _ in range(local.MAX_KNOWN + 21)
        ]
        assert asked(node, HEAD.encode() + end)
        assert all(asked(one, guest) for one in guests)
        assert asked(node, HEAD.encode() + end), "the one that has little keeps it"
        kept = [one for one in guests if asked(one, guest)]
        assert len(kept) <= local.MAX_KNOWN


def login(user: str) -> str:
    """The header of basic auth."""
    return base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
