"""What a settled channel moved, read from the raw transactions on the chain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from btclib.tx import Tx

from dux_flopd.blocks import parse_block
from duxcommon.coin import settlement
from duxcommon.coin.fund import fund_script
from duxcommon.coin.tx import parse_tx, txid_of
from duxcommon.network import NetworkDefinition

from .network import DevnetError

Rpc = Callable[..., Any]
"""Calls a method of the chain with its parameters."""


@dataclass(frozen=True)
class Parts:
    """Gains of the parties in koinu, losses below 0; together with the fees they sum to 0."""

    provider: int
    fund: int
    buyer: int
    fees: int


class Reader:
    """Reads confirmed transactions; `heights` says in which block those lie that the chain keeps no index of."""

    def __init__(self, rpc: Rpc, heights: Mapping[str, int]) -> None:
        self._rpc = rpc
        self._heights = heights

    def tx(self, txid: str) -> Tx:
        """A transaction. Raises DevnetError when it can't be found."""
        if txid not in self._heights:
            return parse_tx(self._rpc("getrawtransaction", txid))
        block = parse_block(bytes.fromhex(self._rpc("getblock", self._rpc("getblockhash", self._heights[txid]), False)))
        found = next((seen.tx for seen in block.txs if txid_of(seen.tx) == txid), None)
        if found is None:
            raise DevnetError(f"transaction {txid} is not in block {self._heights[txid]}")
        return found

    def height(self, txid: str) -> int:
        """The height of its block."""
        if txid in self._heights:
            return self._heights[txid]
        verbose = self._rpc("getrawtransaction", txid, True)
        return int(self._rpc("getblockheader", verbose["blockhash"])["height"])


def read_chain(chain: Reader, network: NetworkDefinition, closed: Mapping[str, Any]) -> Parts:
    """The parties' gains from the funding and closing transactions of a closed Channel, by the one settlement rule.

    Raises DevnetError when that rule finds no settled work.
    """
    closing = chain.tx(closed["close_txid"])
    prevouts, paid, fund_fees = [], 0, 0
    for deposit in closed["deposits"]:
        funding = chain.tx(deposit["txid"])
        sources = [(chain.tx(txin.prev_out.tx_id.hex()), txin.prev_out.vout) for txin in funding.vin]
        spent = sum(int(source.vout[number].value) for source, number in sources)
        output = funding.vout[deposit["vout"]]
        kept = sum(out.value for out in funding.vout) - output.value
        paid += spent - kept
        fund_fees += spent - kept - output.value
        script, note = output.script_pub_key.script, settlement.note_in(funding)
        prevouts.append(settlement.Prevout(script, output.value, chain.height(deposit["txid"]), note))
    rate = closed["contract"]["tax_bps"]
    found = settlement.settle(closing, prevouts, [fund_script(network)], lambda _: rate)
    if not isinstance(found, settlement.Settlement):
        raise DevnetError(f"the closing transaction is not settled work: {found.reason.name}")
    return Parts(found.payout, found.tax, found.change - paid, fund_fees + found.fee)
