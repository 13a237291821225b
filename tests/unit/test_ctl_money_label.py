"""Wherever dux-ctl shows an amount, it says on which network, and that the coins of a trial network have no value."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import catalogue, main, render
from dux_ctl.control import Control
from duxcommon.errors import DaemonDown
from tests.ctl_kit import HASH, KEY, TXID, WARNING

LABEL = {"name": "devnet", "chain": "devnet", "worthless": True}
METHODS = catalogue.load()["methods"]
SHOWN = [name for name, entry in METHODS.items() if entry["access"] in ("read", "spend", "admin")]


def sample(schema: dict[str, Any], name: str = "") -> Any:
    """A value that fits a schema, with something in every list and no null where anything else may stand."""
    if name == "network":
        return LABEL
    schema = catalogue.resolve(schema)
    if "enum" in schema or "const" in schema:
        return (schema.get("enum") or [schema["const"]])[0]
    if "anyOf" in schema or "oneOf" in schema:
        return sample((schema.get("anyOf") or schema["oneOf"])[0])
    kind = schema.get("type")
    if kind == "object":
        return {key: sample(item, key) for key, item in schema.get("properties", {}).items() if key != "next"} | (
            {"next": None} if "next" in schema.get("properties", {}) else {}
        )
    if kind == "array":
        return [sample(schema["items"])] if "items" in schema else []
    if kind == "boolean":
        return True
    if kind in ("integer", "number"):
        return max(7, schema.get("minimum", 7))
    return {r"^0[23][0-9a-f]{64}$": KEY, r"^[0-9a-f]{64}$": TXID}.get(schema.get("pattern", ""), "word")


class Everything(Control):
    """Answers every method by its schema; the network's methods say that it is a trial network."""

    def __init__(self, *, airdropd: bool = True) -> None:
        super().__init__(Path("/nowhere"), False, 1.0)
        self.airdropd = airdropd

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        if method == "daemon.status":
            return sample(METHODS[method]["reply"]) | {"network": "devnet", "worthless": True}
        if METHODS[method]["daemon"] == "airdropd" and not self.airdropd:
            raise DaemonDown("airdropd is away")
        answer: dict[str, Any] = sample(METHODS[method]["reply"])
        if method == "network.show":
            answer |= LABEL
        if method.startswith("task."):
            empty = hashlib.sha256(b"").hexdigest()
            answer |= {"state": "DONE", "result": {"hash": empty, "size": 0, "media": "text/plain", "data": ""}}
        if method == "app.show":
            answer["record"]["body"] = {"manifest": {}}
        return answer

    def client(self, daemon: str) -> Any:
        if daemon == "airdropd" and not self.airdropd:
            raise DaemonDown("airdropd is away")
        return self

    def close(self) -> None:
        pass


def labelled(text: str) -> bool:
    return any(line.endswith(WARNING.removeprefix("network: ")) for line in text.splitlines())


def has_money(schema: dict[str, Any], seen: frozenset[str] = frozenset()) -> bool:
    """Whether an amount stands anywhere in a reply."""
    reference = schema.get("$ref", "")
    if reference in seen:
        return False
    seen |= {reference} if reference else set()
    schema = catalogue.resolve(schema)
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    if isinstance(schema.get("items"), dict):
        inner.append(schema["items"])
    return schema.get("unit") == "koinu" or any(has_money(one, seen) for one in inner)


@pytest.mark.parametrize("method", SHOWN)
def test_every_page_with_an_amount_says_that_the_coins_have_no_value(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    control = Everything()
    control.emit_reply(method, control.call(method))
    shown = capsys.readouterr().out
    if "FLOP" in shown:
        assert labelled(shown), shown


def test_pages_with_amounts_were_looked_at() -> None:
    money = [name for name in SHOWN if has_money(METHODS[name]["reply"])]
    assert {"wallet.balance", "wallet.history", "channel.list", "payment.list", "task.list", "fund.status"} <= set(
        money
    )


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["audit"],
        ["why", "airdrop"],
        ["why", "hello-words"],
        ["why", HASH],
        ["why", HASH[:32]],
        ["why", KEY],
        ["app", "search", "words"],
        ["app", "show", "hello-words"],
        ["airdrop", "eligible"],
        ["airdrop", "verify", "1"],
        ["task", "run", "hello-words", "--detach"],
        ["wallet", "balance"],
        ["wallet", "history"],
        ["channel", "list"],
        ["payment", "list"],
        ["fund", "status"],
        ["param", "list"],
        ["proposal", "list"],
    ],
    ids=" ".join,
)
def test_every_command_with_an_amount_says_that_the_coins_have_no_value(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dux_ctl.tasks._check_keys", lambda control: None)
    args = main.build_parser(words[0]).parse_args(words)
    args.run(args, Everything())
    shown = capsys.readouterr().out
    assert labelled(shown), shown


def test_a_paid_task_says_so_beside_its_price(capsys: pytest.CaptureFixture[str]) -> None:
    args = main.build_parser("task").parse_args(["task", "result", HASH[:32]])
    assert args.run(args, Everything()) == 0
    said = capsys.readouterr().err
    assert "FLOP to node" in said
    assert labelled(said), said


def test_without_airdropd_another_daemon_tells_which_network_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    control = Everything(airdropd=False)
    control.emit_reply("wallet.history", control.call("wallet.history"))
    assert re.search(rf"^network: devnet: {render.WORTHLESS}$", capsys.readouterr().out, re.MULTILINE)


def test_an_app_that_calls_itself_worthless_hides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    control = Everything()
    control.emit({}, lambda: f"5.00 FLOP for this app, {render.WORTHLESS}")
    assert labelled(capsys.readouterr().out)


def test_amounts_of_a_network_with_value_are_never_called_worthless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Everything()
    monkeypatch.setattr(control, "label", lambda: {"name": "flop", "chain": "main", "worthless": False})
    control.emit({}, lambda: "5.00 FLOP")
    shown = capsys.readouterr().out
    assert "network: flop (main)" in shown
    assert render.WORTHLESS not in shown
