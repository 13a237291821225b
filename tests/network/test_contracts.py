"""Every method of every daemon keeps its contract: called with its own example, on a real node, it answers with the
reply that it declares or with an error that it declares."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duxcommon.errors import DuxError, Internal, InvalidParams
from duxcommon.rpc import MethodSpec
from tests.gates.test_declarations import declared
from tests.support.devnet import TestNet, running_devnet
from tests.support.schema import SchemaChecker, checked_client

DAEMONS = [name for name in declared() if name != "common"]
STRANGER = "ab" * 32
LAST = ("wallet.lock", "provider.pause")
"""They change what the others find, so they come at the end."""


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """One node is enough: nobody else is asked."""
    with running_devnet(1) as net:
        yield net


def socket_of(net: TestNet, daemon: str) -> Path:
    return net.socket_path(net.layout.nodes[0], daemon)


async def exchange(
    net: TestNet, daemon: str, method: str, params: dict[str, Any], peer: str | None
) -> dict[str, Any] | DuxError:
    """The reply or the error, both checked against the daemon's own document."""
    client = checked_client(socket_of(net, daemon), SchemaChecker(socket_of(net, daemon)))
    try:
        return await client.call_raw(method, params, timeout=60.0, peer=peer)
    except DuxError as error:
        return error
    finally:
        await client.close()


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_daemon_serves_exactly_the_methods_that_it_declares(net: TestNet, daemon: str) -> None:
    served = set(SchemaChecker(socket_of(net, daemon)).methods)
    assert served == {spec.name for spec in [*declared()[daemon], *declared()["common"]]}


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_method_answers_its_example_as_declared(net: TestNet, daemon: str) -> None:
    specs = [*declared()[daemon], *declared()["common"]]
    for spec in sorted(specs, key=lambda spec: spec.name in LAST):
        peer = STRANGER if spec.access == "peer" else None
        answer = asyncio.run(exchange(net, daemon, spec.name, spec.example, peer))
        if isinstance(answer, DuxError):
            assert not isinstance(answer, Internal), f"{spec.name}: {answer}"
            assert not isinstance(answer, InvalidParams) or InvalidParams in spec.errors, f"{spec.name}: {answer}"
            assert answer.hint, spec.name


@pytest.mark.parametrize("daemon", DAEMONS)
def test_no_method_takes_what_it_does_not_declare(net: TestNet, daemon: str) -> None:
    for spec in declared()[daemon]:
        peer = STRANGER if spec.access == "peer" else None
        required = [name for name, field in spec.params.model_fields.items() if field.is_required()]
        bad: list[dict[str, Any]] = [{**spec.example, "no_such_parameter": 1}]
        bad += [{key: value for key, value in spec.example.items() if key != name} for name in required]
        bad += [{**spec.example, name: {"no": ["such", "value", None]}} for name in spec.params.model_fields]
        for params in bad:
            if not refused(spec, params):
                continue  # A parameter that holds any JSON.
            answer = asyncio.run(raw_error(net, daemon, spec.name, params, peer))
            assert answer == (-32602, "InvalidParams"), (spec.name, params, answer)


def refused(spec: MethodSpec, params: dict[str, Any]) -> bool:
    try:
        spec.parse(params)
    except InvalidParams:
        return True
    return False


async def raw_error(
    net: TestNet, daemon: str, method: str, params: dict[str, Any], peer: str | None
) -> tuple[int, str] | None:
    reader, writer = await asyncio.open_unix_connection(str(socket_of(net, daemon)))
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    if peer is not None:
        request["peer"] = peer
    writer.write(json.dumps(request).encode() + b"\n")
    reply = json.loads(await asyncio.wait_for(reader.readline(), 60))
    writer.close()
    await writer.wait_closed()
    error = reply.get("error")
    return (error["code"], error["data"]["name"]) if error else None
