"""Gathers from flopd what a replay needs: settled work, bonds, and the fund's payments over a stretch of blocks."""

from collections.abc import Sequence
from typing import Any, TypeVar

from duxcommon.api.flopd import (
    BondFact,
    BondPage,
    FundFact,
    FundPage,
    Place,
    SettlementFact,
    SettlementPage,
)
from duxcommon.coin.settlement import rates_for, tax_rate
from duxcommon.eligibility import Lock
from duxcommon.money import DUST
from duxcommon.rpc import Client
from duxcommon.rulebook import Book

from .ports import Fund
from .replay import Past, Settled

PAGE = 2000
ROUNDS = 1000

P = TypeVar("P", SettlementPage, BondPage, FundPage)


async def gather(flopd: Client, fund: Fund, book: Book, birth: int, low: int, high: int, window: int) -> Past:
    """The past of the blocks (low, high], with the work of `window` blocks before. Raises what flopd answers."""
    works = await _facts(flopd, "chain.settlements", SettlementPage, max(birth, low - window), high)
    bonds = await _facts(flopd, "chain.bonds", BondPage, birth, high)
    payments = await _facts(flopd, "chain.fund", FundPage, low + 1, high)
    counted = [fact for fact in works if _counts(fact, book)]
    return Past(
        work=[
            Settled(fact.at.height, bytes.fromhex(fact.provider), fact.payout + fact.tax, fact.tax) for fact in counted
        ],
        bonds=_locks(bonds, book),
        other=_other(payments, {fact.txid for fact in counted}),
        rounds=[
            (one.height, one.share)
            for one in reversed(fund.rounds(None, ROUNDS))
            if one.kind == "payout" and one.height <= low
        ],
        opening=fund.at(low).spendable if low >= birth else 0,
    )


async def _facts(flopd: Client, method: str, page: type[P], low: int, high: int) -> list[Any]:
    found: list[Any] = []
    after: Place | None = None
    while True:
        params = {
            "from_height": low,
            "to_height": high,
            "after": None if after is None else after.model_dump(),
            "limit": PAGE,
        }
        told = await flopd.call(method, page, params)
        found += told.facts
        if told.next is None:
            return found
        after = told.next


def _counts(fact: SettlementFact, book: Book) -> bool:
    height = fact.at.height
    if bytes.fromhex(fact.fund_script) not in book.fund_scripts_at(height):
        return False
    rates = rates_for(fact.deposits, book.tax_at)
    return tax_rate(fact.payout, fact.tax, rates, book.at(height).parameters.min_tax) is not None


def _locks(facts: Sequence[BondFact], book: Book) -> dict[bytes, list[Lock]]:
    found: dict[bytes, list[Lock]] = {}
    for fact in facts:
        height = fact.at.height
        if any(fact.paid.get(script.hex(), 0) >= DUST for script in book.fund_scripts_at(height)):
            found.setdefault(bytes.fromhex(fact.pubkey), []).append(Lock(height, fact.lock_height, fact.amount))
    return found


def _other(payments: Sequence[FundFact], taxes: set[str]) -> list[tuple[int, int]]:
    """What came in besides taxes; what the fund's own transactions pay back to it is none of that."""
    own = {fact.spender for fact in payments if fact.event == "spent"}
    return [
        (fact.at.height, fact.amount)
        for fact in payments
        if fact.event == "paid" and fact.txid not in taxes and fact.txid not in own
    ]
