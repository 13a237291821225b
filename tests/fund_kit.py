"""Guardians, coins and snapshots of a fund that exists on no chain, for tests of what its next transaction is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dux_airdropd.plan import FundCoin, Plan, Snapshot, decide
from duxcommon.api.airdropd import Rules
from duxcommon.coin.script import multisig_script, p2sh_script, pubkey_of
from duxcommon.money import COIN, DUST
from duxcommon.network import Seat
from duxcommon.parameters import Parameters

NETWORK = "ab" * 32


def secret(number: int) -> bytes:
    """A private key that belongs to nobody."""
    return hashlib.sha256(b"fund-kit %d" % number).digest()


class Guardians:
    """m of n keys, and the scripts they make."""

    def __init__(self, m: int = 3, n: int = 5, first: int = 0) -> None:
        self.m = m
        self.secrets = {pubkey_of(secret(first + i)): secret(first + i) for i in range(n)}
        self.keys = sorted(self.secrets)
        self.redeem = multisig_script(m, self.keys)
        self.script = p2sh_script(self.redeem)

    def rules(self, version: int = 0, **parameters: int) -> Rules:
        """Rules under which these are the guardians."""
        return Rules(
            version=version,
            from_height=0,
            proposal=None,
            parameters=Parameters(**parameters),
            guardians=[Seat(node=None, pubkey=key.hex()) for key in self.keys],
            guardians_m=self.m,
            arbiters=[],
            fund_script=self.script.hex(),
        )


FIVE = Guardians()
OTHERS = Guardians(first=1)
"""One of the five was replaced."""


def coin(number: int, amount: int, guardians: Guardians = FIVE, height: int = 100) -> FundCoin:
    """An output at the guardians' address."""
    return FundCoin(hashlib.sha256(b"coin %d" % number).hexdigest(), number % 3, amount, guardians.script, height)


@dataclass(frozen=True)
class Spending:
    """A spend that was voted."""

    proposal: str
    script: bytes
    amount: int
    from_height: int = 0


def snapshot(
    amounts: Sequence[int],
    *,
    anchor: int = DUST,
    guardians: Guardians = FIVE,
    before: Guardians | None = None,
    old: Sequence[int] = (),
    **more: Any,
) -> Snapshot:
    """A fund with these amounts; with `before`, those guardians still hold the anchor if `moved` is False."""
    holder = before if before is not None and not more.pop("moved", False) else guardians
    redeems = {each.script: each.redeem for each in (guardians, before) if each is not None}
    return Snapshot(
        height=more.pop("height", 1000),
        sequence=more.pop("sequence", 1),
        anchor=coin(1_000_000, anchor, holder),
        coins=[coin(number, amount, guardians) for number, amount in enumerate(amounts)],
        old=[coin(500_000 + number, amount, before or guardians) for number, amount in enumerate(old)],
        rules=guardians.rules(**more.pop("parameters", {})),
        redeems=redeems,
        spends=more.pop("spends", ()),
        **more,
    )


def planned(view: Snapshot, eligible: int | None = None) -> Plan:
    """The plan that a snapshot must lead to."""
    decision = decide(view, eligible)
    assert isinstance(decision, Plan), decision
    return decision


def full(eligible: int = 10, flop: int = 101, **more: Any) -> Plan:
    """A payout of one coin of so many FLOP."""
    return planned(snapshot([flop * COIN], **more), eligible)


def some_keys(count: int) -> list[bytes]:
    """So many different keys, ascending; they look like public keys, which is enough to be paid."""
    return sorted(b"\x02" + hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count))
