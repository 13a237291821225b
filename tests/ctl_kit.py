"""What tests of dux-ctl's pages on the fund and its rules share: a control that answers from a table."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dux_ctl import main
from dux_ctl.control import Control
from duxcommon.api import governance as models
from duxcommon.errors import NotFound
from duxcommon.money import COIN

LABEL = {"name": "devnet", "chain": "devnet", "worthless": True}
WARNING = "network: devnet (devnet): private trial network, coins have no value"
ADDRESS = "e9Pfr1KeoLsbPaP8fwpfvBe3j3WDKsyjAQ"
KEY, OTHER_KEY = "02" + "11" * 32, "03" + "22" * 32
NODE, OTHER_NODE = "ab" * 32, "cd" * 32
HASH, TXID = "5b1f9c2ad401" + "0" * 52, "ef" * 32

Answers = dict[str, Any]


class Fake(Control):
    """Answers from a table of values, or of functions of the parameters; remembers what was asked."""

    def __init__(self, answers: Answers, *, as_json: bool = False) -> None:
        super().__init__(Path("/nowhere"), as_json, 1.0)
        self.answers: Answers = {"network.show": {**network(), **LABEL}, **answers}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        self.asked.append((method, params or {}))
        if method not in self.answers:
            raise NotFound(f"{method} is not expected here")
        answer = self.answers[method]
        found: dict[str, Any] = answer(params or {}) if callable(answer) else answer
        return found


def run(control: Control, *words: str) -> int:
    """One command line against a fake."""
    args = main.build_parser(words[0]).parse_args(words)
    verb: Callable[[argparse.Namespace, Control], int] = args.run
    return verb(args, control)


def wire(model: type[BaseModel], **values: Any) -> dict[str, Any]:
    """A reply as it comes over the socket: it fits the declared model or the test is wrong."""
    return model.model_validate_json(json.dumps(values)).model_dump(mode="json")


OLD_FUND = {"address": "dDRHcmpvuEhrc1YoCkygeHVoeQBtzThwNG", "counts_until": 13_000}


def network() -> dict[str, Any]:
    return wire(
        models.NetworkInfo, id=HASH, name="devnet", chain="devnet", genesis=HASH, birth_height=0, worthless=True,
        version=2, fund_address="e9Pfr1KeoLsbPaP8fwpfvBe3j3WDKsyjAQ", old_fund_addresses=[OLD_FUND],
        tax_bps=450, min_tax=1_000_000,
        airdrop_threshold=100 * COIN, guardians=[{"node": NODE, "pubkey": KEY}], guardians_m=1,
        arbiters=[{"node": None, "pubkey": OTHER_KEY}], time=0,
    )  # fmt: skip
