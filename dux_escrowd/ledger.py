"""Every movement of money, written twice. Runs inside the write that makes the movement true.

Buyer: `channel:<id>` is what is the buyer's in a channel, `spending` and `tax` what it signed away, `gifts` what
strangers paid into its channels, `lost` what left a channel to nobody who is a party to it. Provider: `claim:<id>` is
what it may close for, `income` its part of that, `tax` the fund's. Both: `wallet` and `fees`.
"""

import sqlite3
import time

from duxcommon.books import book

from .contract import shares
from .rows import ChannelRow, FundingRow, SpendRow


def deposit_sent(connection: sqlite3.Connection, row: ChannelRow, funding: FundingRow, *, back: bool = False) -> None:
    """A deposit left the wallet for a channel; `back`: it never will."""
    sign = -1 if back else 1
    entries = {
        "wallet": -sign * (funding.amount + funding.fee),
        f"channel:{row.id}": sign * funding.amount,
        "fees": sign * funding.fee,
    }
    kind = "deposit-lost" if back else "deposit"
    book(connection, f"{kind}/{funding.id}/{row.version}", kind, int(time.time()), entries)


def signed_away(connection: sqlite3.Connection, row: ChannelRow, gross: int, seq: int, min_tax: int) -> None:
    """A new state raised the channel's gross from `row.gross`; both sides book it, each in its accounts."""
    before, after = shares(row.gross, row.tax_bps, min_tax), shares(gross, row.tax_bps, min_tax)
    provider, tax, total = after.provider - before.provider, after.tax - before.tax, gross - row.gross
    if not total:
        return
    if row.role == "buyer":
        entries = {f"channel:{row.id}": -total, "spending": provider, "tax": tax}
    else:
        entries = {f"claim:{row.id}": total, "income": -provider, "tax": -tax}
    book(connection, f"state/{row.id}/{seq}", "state", int(time.time()), entries)


def ended(connection: sqlite3.Connection, row: ChannelRow, spent: SpendRow, min_tax: int) -> None:
    """A close or refund confirmed (`booked` is odd), or a reorg took it back (even)."""
    turn = spent.booked
    promised = shares(spent.gross, row.tax_bps, min_tax)
    if row.role == "buyer":
        left = spent.own + spent.gifts - spent.provider - spent.tax - spent.buyer
        entries = {
            f"channel:{row.id}": spent.gross - spent.own,
            "gifts": -spent.gifts,
            "spending": spent.provider - promised.provider,
            "tax": spent.tax - promised.tax,
            "wallet": spent.buyer,
            "lost": spent.other,
            "fees": left - spent.other,
        }
    else:
        entries = {
            f"claim:{row.id}": -spent.gross,
            "wallet": spent.provider,
            "income": promised.provider - spent.provider,
            "tax": promised.tax,
        }
    if turn % 2 == 0:
        entries = {account: -amount for account, amount in entries.items()}
    kind = spent.kind if turn % 2 else f"{spent.kind}-lost"
    book(connection, f"{kind}/{row.id}/{spent.txid}/{turn}", kind, int(time.time()), entries)
