"""RPC calls about a wallet's past: gettransaction, listtransactions, listsinceblock."""

from typing import Any

from btclib.tx import Tx

from duxcommon.coin import script as coin_script

from . import errors, rules, spending, validate
from .errors import RpcError
from .jsonio import Amount
from .registry import Call, command
from .rpc_chain import lenient_hash
from .wallets import SPENDABLE, WATCHED, WalletTx


@command("gettransaction", "Wallet")
def gettransaction(call: Call, txid: str, include_watchonly: bool | None = None) -> dict[str, Any]:
    """A transaction of the wallet: what it brought, its depth (negative: a conflict is in a block), its bytes."""
    wallet = call.wallet
    known = call.node.wallets.tx(wallet, lenient_hash(call, txid, "txid"))
    if known is None:
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, "Invalid or non-wallet transaction id")
    mine = WATCHED if include_watchonly else SPENDABLE
    tx = validate.parse_tx(known.raw)
    debit = _debit(spending.debits_of(call.node, wallet, tx), mine)
    fee = sum(output.value for output in tx.vout) - debit if debit else 0  # negative, as Core shows it
    credit = spending.credit_of(call.node, wallet, known.txid, mine)
    shown: dict[str, Any] = {"amount": Amount(credit - debit - fee)}
    if debit:
        shown["fee"] = Amount(fee)
    shown |= _common(call, wallet, known, tx)
    shown["details"] = _entries(call, wallet, known, mine, details=True)
    shown["hex"] = known.raw.hex()
    return shown


def _debit(debits: dict[int, int], mine: int) -> int:
    return sum(value for kind, value in debits.items() if kind >= mine)


def _common(call: Call, wallet: int, known: WalletTx, tx: Tx) -> dict[str, Any]:
    depth = known.depth(call.node.tip.height)
    shown: dict[str, Any] = {"confirmations": depth}
    if known.coinbase:
        shown["generated"] = True
    if known.block is not None:
        shown["blockhash"] = known.block.hex()
        if call.modern:
            shown["blockheight"] = known.height
        shown["blockindex"] = known.pos
        shown["blocktime"] = known.block_time
    elif depth == 0:
        shown["trusted"] = known.txid in call.node.mempool and spending.is_ours(call.node, wallet, tx)
    shown["txid"] = known.txid.hex()
    shown["walletconflicts"] = [other.hex() for other in call.node.wallets.conflicts(wallet, tx, known.txid)]
    shown["time"] = known.received if known.block_time is None else min(known.received, known.block_time)
    shown["timereceived"] = known.received
    shown["bip125-replaceable"] = "no"
    return shown


def _entries(call: Call, wallet: int, known: WalletTx, mine: int, *, details: bool = False) -> list[dict[str, Any]]:
    """One entry for each output sent, then for each received, as Core's ListTransactions."""
    tx = validate.parse_tx(known.raw)
    debits = spending.debits_of(call.node, wallet, tx)
    debit = _debit(debits, mine)
    fee = Amount(sum(output.value for output in tx.vout) - debit)
    common = {} if details else _common(call, wallet, known, tx)
    sent: list[dict[str, Any]] = []
    received: list[dict[str, Any]] = []
    for vout, output in enumerate(tx.vout):
        script = output.script_pub_key.script
        owned = call.node.wallets.owned(wallet, script)
        if debit and owned is not None and owned.label is None:
            continue  # change
        place = _place(call, script, None if owned is None else owned.label)
        watched = owned is not None and owned.secret is None
        if debit:
            head = {"involvesWatchonly": True} if watched or debits[WATCHED] else {}
            entry = {**head, **place, "category": "send", "amount": Amount(-output.value), "vout": vout, "fee": fee}
            sent.append({**entry, **common, "abandoned": False})
        if owned is not None and owned.mine >= mine:
            head = {"involvesWatchonly": True} if watched else {}
            entry = {**head, **place, "category": _category(call, known), "amount": Amount(output.value)}
            received.append({**entry, "vout": vout, **common})
    return sent + received


def _place(call: Call, script: bytes, label: str | None) -> dict[str, Any]:
    place: dict[str, Any] = {} if call.modern else {"account": label or ""}
    address = coin_script.address_of(script, rules.PARAMS)
    if address is not None:
        place["address"] = address
    if label is not None:
        place["label"] = label
    return place


def _category(call: Call, known: WalletTx) -> str:
    if not known.coinbase:
        return "receive"
    depth = known.depth(call.node.tip.height)
    if depth < 1:
        return "orphan"
    return "generate" if depth > rules.maturity(known.height or 0) else "immature"


@command("listtransactions", "Wallet")
def listtransactions(
    call: Call, account: str = "*", count: int = 10, skip: int = 0, include_watchonly: bool = False
) -> list[dict[str, Any]]:
    """The newest entries of the wallet (with a name: those that pay addresses of that label), oldest of them first."""
    if count < 0 or skip < 0:
        raise RpcError(errors.INVALID_PARAMETER, f"Negative {'count' if count < 0 else 'from'}")
    wallet = call.wallet
    entries: list[dict[str, Any]] = []
    for known in call.node.wallets.newest_txs(wallet):
        if len(entries) >= count + skip:
            break
        for entry in _entries(call, wallet, known, WATCHED if include_watchonly else SPENDABLE):
            if account in ("*", entry.get("label")):
                entries.append(entry)
    return entries[skip : skip + count][::-1]


@command("listsinceblock", "Wallet", dialects=("flopcoin",))
def listsinceblock(
    call: Call, blockhash: str | None = None, target_confirmations: int = 1, include_watchonly: bool = False
) -> dict[str, Any]:
    """Everything of the wallet in blocks after one, which may have fallen out of the chain, and what is unconfirmed."""
    return _since(call, blockhash, target_confirmations, include_watchonly)[0]


@command("listsinceblock", "Wallet", dialects=("modern",))
def listsinceblock_modern(
    call: Call,
    blockhash: str | None = None,
    target_confirmations: int = 1,
    include_watchonly: bool = False,
    include_removed: bool = True,
) -> dict[str, Any]:
    """As in Flopcoin Core, and `removed`: the wallet's transactions in blocks that fell out since."""
    reply, removed = _since(call, blockhash, target_confirmations, include_watchonly)
    if include_removed:
        reply = {"transactions": reply["transactions"], "removed": removed, "lastblock": reply["lastblock"]}
    return reply


def _since(
    call: Call, text: str | None, target: int, include_watchonly: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if target < 1:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter")
    node, wallet = call.node, call.wallet
    mine = WATCHED if include_watchonly else SPENDABLE
    since = None if text is None or text == "" else node.store.block(lenient_hash(call, text, "blockhash"))
    if since is None and text and call.modern:
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, "Block not found")
    removed: list[dict[str, Any]] = []
    while since is not None and not since.active:
        for _, txid, _ in node.transactions(since.hash):
            lost = node.wallets.tx(wallet, txid)
            if lost is not None:
                removed += _entries(call, wallet, lost, mine)
        since = node.store.block(since.prev)
    entries: list[dict[str, Any]] = []
    for known in node.wallets.txs_since(wallet, -1 if since is None else since.height):
        entries += _entries(call, wallet, known, mine)
    last = node.store.block_at(max(node.tip.height + 1 - target, 0))
    assert last is not None
    return {"transactions": entries, "lastblock": last.hash.hex()}, removed
