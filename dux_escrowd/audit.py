"""Proves, to the koinu, that channels, payments, books and the deposits on the chain say the same."""

import sqlite3
from collections.abc import Iterator
from typing import Literal

from duxcommon import books
from duxcommon.api.escrowd import AuditCheck, AuditReport
from duxcommon.errors import EscrowError

from . import contract, rows
from .desk import Desk
from .rows import ChannelRow
from .watcher import Watcher


def _check(name: str, expected: int, found: int, unit: Literal["koinu", "count"] = "koinu") -> AuditCheck:
    return AuditCheck(name=name, expected=expected, found=found, difference=found - expected, unit=unit)


class Audit:
    """Compares every figure that is kept twice."""

    def __init__(self, desk: Desk, watcher: Watcher) -> None:
        self._desk = desk
        self._watcher = watcher

    async def run(self) -> AuditReport:
        """All checks, after a fresh look at the chain. Raises what flopd answers."""
        status = await self._desk.flopd.status()
        self._desk.tip = status.height
        await self._watcher.look()
        checks = self._desk.store.read(lambda c: list(self._checks(c)))
        checks += self._states()
        return AuditReport(ok=all(c.difference == 0 for c in checks), height=status.height, checks=checks)

    def _checks(self, connection: sqlite3.Connection) -> Iterator[AuditCheck]:
        found = books.check(connection)
        yield _check("all entries of the books", 0, found.total)
        yield _check("balances that differ from their entries", 0, len(found.differences), "count")
        for (channel_id,) in connection.execute("SELECT id FROM channel ORDER BY n").fetchall():
            row = rows.channel(connection, channel_id)
            yield from self._payments(connection, row)
            yield from self._books(connection, row)

    def _payments(self, connection: sqlite3.Connection, row: ChannelRow) -> Iterator[AuditCheck]:
        name = f"channel {row.id[:16]}"
        sums = {
            state: (int(count), int(total))
            for state, count, total in connection.execute(
                "SELECT state, COUNT(*), SUM(amount) FROM payment WHERE channel = ? GROUP BY state", (row.id,)
            )
        }
        waiting = [sums.get(state, (0, 0)) for state in ("HELD", "ORDERED", "DONE")]
        yield _check(f"{name}: held for open payments", sum(total for _, total in waiting), row.held)
        yield _check(f"{name}: number of open payments", sum(count for count, _ in waiting), row.open, "count")
        yield _check(f"{name}: gross of released payments", sums.get("RELEASED", (0, 0))[1] + row.credit, row.gross)

    def _books(self, connection: sqlite3.Connection, row: ChannelRow) -> Iterator[AuditCheck]:
        """The channel's account against the row, and against the outputs on the chain that nobody has spent."""
        name = f"channel {row.id[:16]}"
        settled = sum(spend.gross for spend in rows.spends(connection, row.id).values() if spend.booked % 2 == 1)
        if row.role == "provider":
            yield _check(
                f"{name}: claim in the books", row.gross - settled, books.balance(connection, f"claim:{row.id}")
            )
            return
        sent = [funding for funding in rows.fundings(connection, row.id) if funding.state == "SENT"]
        seen = {(d.txid, d.vout): d for d in rows.deposits(connection, row.id)}
        ended = {spend.txid for spend in rows.spends(connection, row.id).values() if spend.booked % 2 == 1}
        held = 0
        for funding in sent:
            deposit = seen.get((funding.txid or "", funding.vout or 0))
            # A deposit that no block and no mempool shows is still to be sent again by flopd.
            amount = funding.amount if deposit is None else deposit.amount
            held += 0 if deposit is not None and deposit.spender in ended else amount
        yield _check(
            f"{name}: deposits on the chain less what is signed away",
            held - (row.gross - settled),
            books.balance(connection, f"channel:{row.id}"),
        )

    def _states(self) -> list[AuditCheck]:
        """The newest state of every channel that can still be closed is valid and carries the channel's gross."""
        checks = []
        for row in self._desk.store.read(rows.followed_channels):
            state = row.newest_state
            if state is None:
                checks.append(_check(f"channel {row.id[:16]}: gross without a signed state", 0, row.gross))
                continue
            try:
                contract.check_state(self._desk.escrow(row), state)
                checks.append(_check(f"channel {row.id[:16]}: gross of the newest state", row.gross, state.gross))
            except EscrowError:
                checks.append(_check(f"channel {row.id[:16]}: gross of the newest state", row.gross, 0))
        return checks
