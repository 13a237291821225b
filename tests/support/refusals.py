"""Says that something was refused as it should be: code, name, hint and exit status, and that nothing was lost.

with unchanged(net, "bob"):
    refused(net, "bob", AppUnknown, exits.NOT_FOUND, ["app", "show", "nowhere"], words="no app 'nowhere'")
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from dux_devnet.layout import DAEMONS
from duxcommon.errors import DuxError

from .devnet import TestNet

ENDED = ("CLOSED", "REFUNDED", "CONFLICTED", "ABANDONED")


def standing(net: TestNet, node: str) -> dict[str, Any]:
    """What may not change by a refusal: coins, channels, open payments, the daemons and their internal errors."""
    balance = net.call(node, "wallet.balance")
    channels = net.call(node, "channel.list", {"limit": 200})["channels"]
    alive = {name: process["pid"] for name, process in net.status().items() if process["alive"]}
    daemons = [name for name in DAEMONS if f"{node}/{name}" in alive]
    return {
        "coins": {name: balance[name] for name in ("confirmed", "pending", "reserved", "in_channels")},
        "channels": [
            {name: c[name] for name in ("id", "state", "gross", "held", "seq")}
            for c in channels
            if c["state"] not in ENDED
        ],
        "held": [
            p["id"] for s in ("HELD", "ORDERED") for p in net.call(node, "payment.list", {"state": s})["payments"]
        ],
        "alive": alive,
        "internal errors": {name: status(net, node, name)["failures"] for name in daemons},
    }


def status(net: TestNet, node: str, daemon: str) -> dict[str, Any]:
    """`daemon.status` of one daemon, which has to answer."""
    client = net.client(node, daemon)
    try:
        return client.call("daemon.status", timeout=20)
    finally:
        client.close()


@contextmanager
def unchanged(net: TestNet, *nodes: str) -> Iterator[None]:
    """Nothing of these nodes is gone or different afterwards, and each daemon still answers."""
    before = {node: standing(net, node) for node in nodes}
    yield
    assert {node: standing(net, node) for node in nodes} == before


def assert_error(given: Any, error: type[DuxError], words: str = "") -> dict[str, Any]:
    """The error object is that of `error`: its code, its name, a hint; `words` are in the message."""
    assert isinstance(given, dict), given
    data = given["data"]
    assert (data["name"], given["code"]) == (error.__name__, error.code), given
    assert data["retry"] is error.retry
    assert len(data["hint"]) > 20, given
    assert words in given["message"], given
    assert isinstance(data["details"], dict)
    return given


def refused_call(
    net: TestNet, node: str, error: type[DuxError], method: str, params: dict[str, Any], words: str = ""
) -> DuxError:
    """The method refuses; the error is one that it declares."""
    with pytest.raises(error) as caught:
        net.call(node, method, params)
    assert_error(caught.value.to_rpc(), error, words)
    return caught.value


def refused(
    net: TestNet, node: str, error: type[DuxError], exit_status: int, command: Sequence[str], words: str = ""
) -> dict[str, Any]:
    """dux-ctl refuses: with --json as an error object, otherwise with message and hint on standard error."""
    told = net.ctl(node, "--json", *command)
    assert told.returncode == exit_status, told
    said = json.loads(told.stdout)
    given = assert_error(said["error"], error, words)
    people = net.ctl(node, *command)
    assert people.returncode == exit_status, people
    text = people.stderr.decode()
    assert f"({error.__name__} {error.code})" in text, text
    assert given["data"]["hint"] in text, text
    assert people.stdout == b"", people
    return given
