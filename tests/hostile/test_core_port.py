"""A program that listens where Core should: dux-flopd tells it nothing, and takes no chain from it."""

import asyncio
import ipaddress
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dux_flopd import core_owner
from dux_flopd.core import Core
from dux_flopd.settings import CoreSettings
from duxcommon.errors import ChainAuthFailed, ChainDown
from duxcommon.tcptable import LISTENING, TcpSocket

GENESIS = "11" * 32
STRANGER = 4242
ANY = str(ipaddress.IPv4Address(0))
IMPOSTOR = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    caught, _ = server.accept()
    print(len(caught.recv(65536)), flush=True)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not run: needs root, to be another user")


def settings(port: int, folder: Path, **more: str) -> CoreSettings:
    (folder / "password").write_text("a-secret\n")
    (folder / "password").chmod(0o600)
    login = {"user": "node", "password_file": folder / "password"}
    return CoreSettings.model_validate({"url": f"http://127.0.0.1:{port}/wallet/of-mine", **login, **more})


def ask(port: int, folder: Path, **more: str) -> BaseException:
    async def once() -> BaseException:
        core = Core(settings(port, folder, **more), GENESIS)
        try:
            await core.chain_info()
        except (ChainAuthFailed, ChainDown) as error:
            return error
        finally:
            await core.close()
        raise AssertionError("it took an impostor for Core")

    return asyncio.run(once())


@pytest.fixture
def impostor() -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Another person's program on a free port, which prints how many bytes it was sent."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", IMPOSTOR, str(40_000 + STRANGER)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.wait()


@needs_root
def test_another_persons_program_on_cores_port_is_told_nothing(
    impostor: tuple[int, "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    port, process = impostor
    error = ask(port, tmp_path)
    assert isinstance(error, ChainAuthFailed)
    assert f"#{40_000 + STRANGER}" in error.message
    assert "run_by" in error.hint
    assert process.stdout is not None
    # Each time it was tried, the connection ended without a byte.
    heard = process.stdout.readline()
    while heard:
        assert heard == "0\n"
        heard = process.stdout.readline() if select.select([process.stdout], [], [], 0.2)[0] else ""


@needs_root
def test_a_person_who_is_named_may_run_core(impostor: tuple[int, "subprocess.Popen[str]"], tmp_path: Path) -> None:
    port, process = impostor
    core = Core(settings(port, tmp_path, run_by=f"#{40_000 + STRANGER}"), GENESIS)

    async def try_it() -> None:
        task = asyncio.create_task(core.chain_info())
        assert process.stdout is not None
        heard = await asyncio.to_thread(process.stdout.readline)
        assert int(heard) > 0
        process.kill()
        with pytest.raises(ChainDown):
            await task
        await core.close()

    asyncio.run(try_it())


def test_a_program_of_this_very_user_may_be_core() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        core_owner.check(client, None)


@pytest.mark.parametrize("address", ["127.0.0.1", ANY, "::"])
def test_who_listens_counts_as_long_as_nobody_has_accepted(address: str) -> None:
    """Until then the kernel says that the other end is root's."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port, ours = server.getsockname()[1], client.getsockname()
        end = TcpSocket("01", "127.0.0.1", port, ours[0], ours[1], 0)
        listener = TcpSocket(LISTENING, address, port, ANY, 0, STRANGER)
        other = TcpSocket(LISTENING, "192.168.1.5", port, ANY, 0, 17)
        assert core_owner.servers(client, [end, listener, other]) == {0, STRANGER}
        # Whoever accepted it and has stopped listening since is not forgotten.
        taken = TcpSocket("01", "127.0.0.1", port, ours[0], ours[1], STRANGER)
        assert core_owner.servers(client, [taken, TcpSocket(LISTENING, address, port, ANY, 0, 0)]) == {
            0,
            STRANGER,
        }


def test_where_the_kernel_does_not_tell_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(core_owner, "sockets", lambda **_: [])
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert isinstance(ask(server.getsockname()[1], tmp_path), ChainDown)
        server.settimeout(5)
        caught, _ = server.accept()
        with caught:
            assert caught.recv(100) == b""
