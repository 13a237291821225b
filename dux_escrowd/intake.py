"""The provider's side of signed states: check everything, then store before anything is done for the buyer."""

import sqlite3
import time

from duxcommon.api.escrowd import SignedState
from duxcommon.errors import ChannelClosed, ChannelUnknown, WrongDeposits

from . import channel as rules
from . import contract, ledger, rows
from .channel import Claim
from .desk import Desk
from .rows import ChannelRow


def provider_row(desk: Desk, channel_id: str, buyer: str) -> ChannelRow:
    """The channel on which `buyer` pays this node; raises ChannelUnknown, for other people's channels too."""
    row = desk.row(channel_id)
    if row.role != "provider" or row.peer != buyer:
        raise ChannelUnknown(f"there is no channel {channel_id} with this buyer")
    return row


def check(desk: Desk, row: ChannelRow, state: SignedState) -> bool:
    """Whether `state` is newer than the stored one, after all checks that need no write.

    Raises ChannelUnknown, StateStale, StateConflict, WrongAmount, WrongDeposits, BadStateSignature, HighS, WrongKey,
    and ChannelClosed while this node closes the channel alone.
    """
    if state.channel != row.id:
        raise ChannelUnknown(f"the state is for channel {state.channel}")
    stored = row.newest_state
    given = rows.claim_of(state)
    if rules.judge(row.line, None if stored is None else rows.claim_of(stored), given) == "known":
        return False
    counted = {(d.txid, d.vout): d.amount for d in desk.counted(row)}
    for deposit in state.deposits:
        amount = counted.get((deposit.txid, deposit.vout))
        if amount is None:
            raise WrongDeposits(
                f"{deposit.txid}:{deposit.vout} is no deposit of this channel that is confirmed deep enough here"
            )
        if amount != deposit.amount:
            raise WrongDeposits(f"{deposit.txid}:{deposit.vout} holds {amount} koinu, not {deposit.amount}")
    if row.id in desk.closing:
        raise ChannelClosed("the channel is being closed; a newer state comes too late")
    contract.check_state(desk.escrow(row), state)
    return True


def store(connection: sqlite3.Connection, desk: Desk, channel_id: str, state: SignedState) -> ChannelRow:
    """Inside a write: make a checked state the newest, book it, and mark what it pays. Repeats change nothing."""
    row = rows.channel(connection, channel_id)
    stored = row.newest_state
    given = rows.claim_of(state)
    if rules.judge(row.line, None if stored is None else rows.claim_of(stored), given) == "known":
        return row
    if row.state not in rules.LIVE:
        raise ChannelClosed(f"the channel is {row.state}; a newer state comes too late")
    payments = {p.task: p for p in rows.open_payments(connection, channel_id) if p.task is not None}
    claims = [Claim(task, p.amount, p.state) for task, p in payments.items()]
    line, credit, paid = rules.pay(row.line, given, row.credit, claims, state.pays)
    for task in paid:
        rows.move_payment(connection, payments[task], "release", f"{payments[task].id}/state/{state.seq}")
    ledger.signed_away(connection, row, line.gross, line.seq, desk.min_tax)
    row = rows.keep_line(connection, row, line, credit=credit, newest=state.model_dump_json())
    if row.state == "FUND_SENT" and row.usable:
        # A reorg had moved a deposit; the state was signed anew over where it is now.
        row = rows.move(connection, row, "fund-deep")
    return row


def now() -> int:
    """Unix time in whole seconds."""
    return int(time.time())
