"""Which rules a channel may carry: the tax, the fund's script and the arbiters in force around a height. Pure.

A channel keeps the tax and the fund's script of its opening for all its states. Two nodes whose chains differ by some
blocks may see a change of the rules at different moments: what was in force a little before the next block, or will be
a little after it, is taken by both sides, as long as the close will still be settled work.
"""

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

from duxcommon.api.airdropd import Rules
from duxcommon.coin.settlement import RATE_GRACE
from duxcommon.errors import ArbiterRefused, TermsRefused
from duxcommon.network import Seat
from duxcommon.rulebook import OLD_FUND_BLOCKS, Book

from .channel import ChainDeposit

AHEAD = 36
"""Blocks that a provider's chain may be ahead of or behind the buyer's when a channel is opened."""

CONFIRM_WITHIN = 72
"""So many blocks a deposit is given to confirm, of the RATE_GRACE during which its rate may have been replaced."""


def _between(book: Book, low: int, high: int) -> list[Rules]:
    """The versions that were in force somewhere from `low` to `high`, the newest first."""
    first, last = book.at(max(0, low)).version, book.at(high).version
    return [rules for rules in reversed(book.book.rules) if first <= rules.version <= last]


def _around(book: Book, tip: int) -> list[Rules]:
    """The versions that a deposit made at `tip` may carry. Raises RulesPending."""
    coming = book.at(tip + 1).version
    low = tip + 1 - (RATE_GRACE - CONFIRM_WITHIN)
    found = _between(book, low, max(tip + 1, min(book.known_to, tip + 1 + AHEAD)))
    return sorted(found, key=lambda rules: rules.version != coming)


def in_force(book: Book, tip: int) -> Rules:
    """What a channel that is opened at `tip` carries: the version of the next block. Raises RulesPending."""
    return book.at(tip + 1)


def _percent(tax_bps: int) -> str:
    return f"{tax_bps // 100}.{tax_bps % 100:02d} %"


def check_tax(book: Book, tax_bps: int, tip: int) -> None:
    """Whether a deposit that is made now may carry this rate. Raises TermsRefused, and RulesPending."""
    if any(rules.parameters.tax_bps == tax_bps for rules in _around(book, tip)):
        return
    now = in_force(book, tip)
    details = {"tax_bps": tax_bps, "in_force": now.parameters.tax_bps, "height": tip + 1}
    ended = next(
        (
            newer
            for older, newer in reversed(list(pairwise(book.book.rules)))
            if older.parameters.tax_bps == tax_bps and newer.from_height <= tip + 1
        ),
        None,
    )
    here = f"{_percent(now.parameters.tax_bps)} is in force at block {tip + 1}"
    if ended is None:
        raise TermsRefused(f"the contract carries a tax of {_percent(tax_bps)}; {here}", details=details)
    raise TermsRefused(
        f"the contract carries a tax of {_percent(tax_bps)}, which was replaced at block {ended.from_height}; {here}, "
        "and a deposit made now may confirm too late for the old rate",
        details={**details, "replaced_at": ended.from_height},
    )


def check_fund(book: Book, script: str, tip: int, lock_height: int) -> None:
    """Whether a channel may pay its tax to this script until its end. Raises TermsRefused, and RulesPending."""
    now = in_force(book, tip)
    if all(rules.fund_script != script for rules in _around(book, tip)):
        raise TermsRefused(
            f"the contract pays the tax to a script that is not the community fund's at block {tip + 1}",
            details={"fund_script": script[:100], "in_force": now.fund_script, "height": tip + 1},
        )
    last = counts_until(book, script)
    if script != now.fund_script and last is not None and last < lock_height:
        raise TermsRefused(
            f"the contract pays the tax to a fund address that was replaced and counts until block {last}; "
            f"the channel may live until block {lock_height}",
            details={"fund_script": script[:100], "in_force": now.fund_script, "counts_until": last},
        )


def counts_until(book: Book, script: str) -> int | None:
    """The last height at which a payment to this fund script counts; None while it is the newest one.

    A script that the book does not hold counts never: 0.
    """
    rules = book.book.rules
    if rules[-1].fund_script == script:
        return None
    return max(
        (newer.from_height + OLD_FUND_BLOCKS - 1 for older, newer in pairwise(rules) if older.fund_script == script),
        default=0,
    )


def arbiter(book: Book, pubkey: str, tip: int) -> Seat:
    """The arbiter with this key. Raises ArbiterRefused where it is none around `tip`, and RulesPending."""
    for rules in _around(book, tip):
        for seat in rules.arbiters:
            if seat.pubkey == pubkey:
                return seat
    raise ArbiterRefused(f"this arbiter is not one of the network's at block {tip + 1}")


def arbiters_apart(seats: Sequence[Seat], provider: str, own: str, trusted: Collection[str]) -> list[str]:
    """Keys of the arbiters that may be neither the provider, by its node, nor this node, by its key.

    `trusted` are those that this node takes; all where it is empty. An arbiter voted in whose node is not known here
    could be the provider itself, which would take the whole deposit: it is only taken where there is no other.
    """
    apart = [
        seat
        for seat in seats
        if seat.node != provider and seat.pubkey != own and (not trusted or seat.pubkey in trusted)
    ]
    return [seat.pubkey for seat in [seat for seat in apart if seat.node is not None] or apart]


def fits(book: Book, tax_bps: int, height: int) -> bool:
    """Whether settled work may have a deposit that confirmed at `height` under this rate. Raises RulesPending."""
    return any(rules.parameters.tax_bps == tax_bps for rules in _between(book, height - RATE_GRACE, height))


def counting(
    book: Book, tax_bps: int, deposits: Sequence[ChainDeposit], signed: Callable[[], Collection[tuple[str, int]]]
) -> Sequence[ChainDeposit]:
    """The deposits that states may spend: those that would keep the close from being settled work are left out.

    That is what confirmed too late for its rate, and what strangers paid in: it lacks the channel's note.
    A deposit in `signed()` stays, because the newest state spends it. Where all spoil it, nothing can be spoiled
    and all of them stay. What is left out goes back to the buyer at the lock height.
    """

    def spoils(deposit: ChainDeposit) -> bool:
        height = deposit.height
        late = height is not None and height <= book.known_to and not fits(book, tax_bps, height)
        return late or not deposit.noted

    spoiling = [deposit for deposit in deposits if spoils(deposit)]
    if not spoiling or not any(one.height is not None and one not in spoiling for one in deposits):
        return deposits
    spent = signed()
    return [one for one in deposits if one not in spoiling or (one.txid, one.vout) in spent]
