"""Who may call what: decided by the uid and groups of the socket, or by the node that the gateway speaks for."""

import dataclasses
import grp
import json
import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from duxcommon.config import Access
from duxcommon.errors import InvalidRequest, NotAllowed
from duxcommon.rpc.caller import Authorizer, Caller
from tests.support.logs import assert_clean_logs
from tests.support.probe import probe
from tests.support.process import DaemonProcess

NODE = "ab" * 32
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not run: needs root")

FREE_UID = 54_321
READERS, SPENDERS, ADMINS = 64_001, 64_002, 64_003
"""Group ids that the names below are mapped to inside the daemon; a machine's own /etc/group is left alone."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """A daemon of root whose socket everybody may connect to: what is refused, its own checks refuse."""
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    names = json.dumps({"duxnet": READERS, "dux-spend": SPENDERS, "dux-admin": ADMINS})
    settings = {"access": {"daemons": ["daemon"], "gateway": ["games"]}}
    try:
        with probe(folder, settings, env={"PROBE_GROUPS": names}) as process:
            process.start()
            folder.chmod(0o755)
            process.socket.chmod(0o666)
            yield process
            assert process.stop() == 0
        assert_clean_logs(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_user(uid: int, gid: int, groups: Sequence[int], work: Callable[[], str]) -> str:
    """What `work` returns in a process of that user; the name of its exception where it fails.

    A fork, not a new program: the interpreter may lie where that user can't read.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            answer = work()
        except BaseException as error:
            answer = type(error).__name__
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


def exchange(path: Path, request: dict[str, Any]) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        return connection.makefile().readline()


def call_as(
    daemon: DaemonProcess, method: str, *, uid: int, gid: int, groups: Sequence[int] = (), peer: object = None
) -> dict[str, Any]:
    """The reply to a real process of that user and those groups."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method}
    if peer is not None:
        request["peer"] = peer
    reply: dict[str, Any] = json.loads(as_user(uid, gid, groups, lambda: exchange(daemon.socket, request)))
    return reply


def assert_not_allowed(reply: dict[str, Any], words: str) -> None:
    assert "result" not in reply
    assert reply["error"]["code"] == 1001
    assert reply["error"]["data"]["name"] == "NotAllowed"
    assert reply["error"]["data"]["hint"]
    assert reply["error"]["data"]["retry"] is False
    assert words in reply["error"]["message"], reply["error"]["message"]


@pytest.mark.parametrize(
    ("method", "group"),
    [
        ("probe.word", "duxnet or dux-spend or dux-admin"),
        ("rpc.discover", "duxnet or dux-spend or dux-admin"),
        ("daemon.status", "duxnet or dux-spend or dux-admin"),
        ("probe.pay", "dux-spend or dux-admin"),
        ("probe.admin", "dux-admin"),
    ],
)
def test_a_caller_without_the_right_group_is_refused_and_told_which_one(
    daemon: DaemonProcess, method: str, group: str
) -> None:
    reply = call_as(daemon, method, uid=FREE_UID, gid=FREE_UID)
    assert_not_allowed(reply, f"user {FREE_UID} may not call {method} (needs group {group})")
    assert f"`usermod -aG {group.split(maxsplit=1)[0]} {FREE_UID}`; then log in again" in reply["error"]["data"]["hint"]


def test_a_refused_caller_learns_nothing_of_the_parameters(daemon: DaemonProcess) -> None:
    # `probe.pay` without parameters is invalid, but whoever may not call it is not told how to.
    assert_not_allowed(call_as(daemon, "probe.pay", uid=FREE_UID, gid=READERS), "needs group dux-spend")


def test_each_group_opens_its_own_door_and_the_smaller_ones(daemon: DaemonProcess) -> None:
    may = {READERS: {"probe.word"}, SPENDERS: {"probe.word", "probe.pay"}}
    may[ADMINS] = {"probe.word", "probe.pay", "probe.admin"}
    for gid, allowed in may.items():
        for method in ("probe.word", "probe.pay", "probe.admin"):
            for reply in (
                call_as(daemon, method, uid=FREE_UID, gid=gid),
                call_as(daemon, method, uid=FREE_UID, gid=FREE_UID, groups=[60_000, gid]),
            ):
                refused = reply.get("error", {}).get("data", {}).get("name") == "NotAllowed"
                assert refused == (method not in allowed), (gid, method, reply)


def test_the_daemons_of_the_node_read_and_neither_spend_nor_administer(daemon: DaemonProcess) -> None:
    sibling = pwd.getpwnam("daemon").pw_uid
    assert "result" in call_as(daemon, "probe.word", uid=sibling, gid=FREE_UID)
    assert "result" in call_as(daemon, "probe.sibling", uid=sibling, gid=FREE_UID)
    assert_not_allowed(call_as(daemon, "probe.pay", uid=sibling, gid=FREE_UID), "needs group dux-spend")
    assert_not_allowed(call_as(daemon, "probe.admin", uid=sibling, gid=FREE_UID), "needs group dux-admin")


def test_what_is_for_daemons_is_refused_to_every_group(daemon: DaemonProcess) -> None:
    for gid in (FREE_UID, READERS, SPENDERS, ADMINS):
        reply = call_as(daemon, "probe.sibling", uid=FREE_UID, gid=gid)
        assert_not_allowed(reply, "it is for the node's own daemons")
    assert "result" in call_as(daemon, "probe.sibling", uid=0, gid=0)


def test_only_the_gateway_may_speak_for_another_node(daemon: DaemonProcess) -> None:
    gateway = pwd.getpwnam("games").pw_uid
    for uid, gid in ((FREE_UID, ADMINS), (pwd.getpwnam("daemon").pw_uid, ADMINS)):
        reply = call_as(daemon, "probe.who", uid=uid, gid=gid, peer=NODE)
        assert_not_allowed(reply, "may not speak for a remote node")
        assert "Only dux-registryd does." in reply["error"]["data"]["hint"]
    for uid in (0, gateway):
        assert call_as(daemon, "probe.who", uid=uid, gid=uid, peer=NODE)["result"]["peer"] == NODE


@pytest.mark.parametrize("peer", ["", "ab", NODE.upper(), NODE + "ab", "zz" * 32, 5, True, [NODE], {"node": NODE}])
def test_a_peer_that_is_no_node_id_is_an_invalid_request(daemon: DaemonProcess, peer: object) -> None:
    reply = call_as(daemon, "probe.who", uid=0, gid=0, peer=peer)
    assert (reply["error"]["code"], reply["error"]["data"]["name"]) == (-32600, "InvalidRequest")
    assert "'peer' is not a node id" in reply["error"]["message"]


@pytest.mark.parametrize("method", ["probe.word", "probe.pay", "probe.admin", "probe.sibling", "daemon.status"])
def test_a_remote_node_reaches_only_what_is_declared_for_peers(daemon: DaemonProcess, method: str) -> None:
    # Even when the gateway runs as root: its rights are not the remote node's.
    assert_not_allowed(call_as(daemon, method, uid=0, gid=0, peer=NODE), "can't be called from another node")


def test_what_is_for_other_nodes_is_refused_to_local_callers_root_included(daemon: DaemonProcess) -> None:
    assert call_as(daemon, "probe.remote", uid=0, gid=0, peer=NODE)["result"]["peer"] == NODE
    for uid, gid in ((0, 0), (FREE_UID, ADMINS)):
        assert_not_allowed(call_as(daemon, "probe.remote", uid=uid, gid=gid), "is for other nodes")


def test_a_caller_outside_the_sockets_group_can_not_even_connect(short_tmp: Path, daemon_logs: list[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    with probe(short_tmp) as daemon:
        daemon.start()
        short_tmp.chmod(0o755)
        answer = as_user(FREE_UID, FREE_UID, [], lambda: exchange(daemon.socket, {}))
        assert answer == "PermissionError"


# --- the same rules without root, on the function that decides -------------------------------------------------------


def stranger(*gids: int, uid: int = FREE_UID, peer: str | None = None) -> Caller:
    return Caller(uid, frozenset(gids or (FREE_UID,)), peer)


def test_an_access_list_of_unknown_names_lets_nobody_in() -> None:
    rules = Authorizer(Access(read=["no-such-group"], spend=[], admin=[], daemons=["no-such-user"], gateway=[]))
    for access in ("read", "spend", "admin", "daemon", "peer", "something-new"):
        with pytest.raises(NotAllowed) as caught:
            rules.check(stranger(), "probe.word", access, peers=False)
        assert caught.value.hint
    with pytest.raises(NotAllowed):
        rules.as_peer(stranger(), NODE)


def test_the_daemons_own_user_may_everything_but_what_is_for_peers() -> None:
    rules = Authorizer(Access())
    own = stranger(uid=os.geteuid())
    for access in ("read", "spend", "admin", "daemon"):
        rules.check(own, "probe.word", access, peers=False)
    with pytest.raises(NotAllowed):
        rules.check(own, "probe.remote", "peer", peers=True)
    assert rules.as_peer(own, NODE).peer == NODE
    with pytest.raises(InvalidRequest):
        rules.as_peer(own, NODE.upper())


def test_a_group_that_really_exists_is_looked_up_by_name() -> None:
    entry = next(group for group in grp.getgrall() if group.gr_gid != 0)
    rules = Authorizer(Access(read=[entry.gr_name], spend=[], admin=[]))
    rules.check(stranger(entry.gr_gid), "probe.word", "read", peers=False)
    with pytest.raises(NotAllowed) as caught:
        rules.check(stranger(entry.gr_gid), "probe.pay", "spend", peers=False)
    assert "needs group none" in caught.value.message


def test_a_peer_carries_none_of_the_gateways_rights() -> None:
    rules = Authorizer(Access())
    root = dataclasses.replace(stranger(uid=0), peer=NODE)
    with pytest.raises(NotAllowed):
        rules.check(root, "probe.admin", "admin", peers=False)
    rules.check(root, "probe.who", "read", peers=True)
    assert root.key == NODE
