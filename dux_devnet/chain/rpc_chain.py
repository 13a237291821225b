"""RPC calls about blocks and the node: what Core's rpc/blockchain.cpp, net.cpp and mining.cpp answer."""

import asyncio
import struct
from decimal import Decimal
from typing import Any

from duxcommon.coin import script as coin_script
from duxcommon.errors import DuxError

from . import errors, jsonio, policy, rules
from .errors import RpcError
from .jsonio import Amount
from .registry import COMMANDS, Call, command, lookup
from .render import script_json, tx_json
from .store import Block

VERSION = 2_000_000
SUBVERSION = "/DuxDevchain:2.0.0/"
_DIFFICULTY = Decimal("4.656542373906925e-10")
_BATCH = 100
"""Blocks made in one durable commit; between two batches other calls are served."""


def block_hash(text: str, name: str = "blockhash") -> bytes:
    """32 bytes of a hash in hex; raises RpcError (-8) as Core's ParseHashV."""
    if len(text) != 64:
        raise RpcError(errors.INVALID_PARAMETER, f"{name} must be of length 64 (not {len(text)}, for '{text[:80]}')")
    try:
        return jsonio.unhex(text)
    except ValueError:
        raise RpcError(errors.INVALID_PARAMETER, f"{name} must be hexadecimal string (not '{text}')") from None


def lenient_hash(call: Call, text: str, name: str) -> bytes:
    """The same where Core 0.14 takes any text for a hash, which then is simply unknown."""
    try:
        return block_hash(text, name)
    except RpcError:
        if call.modern:
            raise
        return b""


def find_block(call: Call, text: str, name: str = "blockhash") -> Block:
    """The block of a hash, on the chain in force or not; raises RpcError (-5)."""
    found = call.node.store.block(lenient_hash(call, text, name))
    if found is None:
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, "Block not found")
    return found


def _confirmations(call: Call, block: Block) -> int:
    return call.node.tip.height - block.height + 1 if block.active else -1


def _header_json(call: Call, block: Block, raw: bytes) -> dict[str, Any]:
    version, _, merkle, when, bits, nonce = struct.unpack("<i32s32sIII", raw[:80])
    shown: dict[str, Any] = {
        "hash": block.hash.hex(),
        "confirmations": _confirmations(call, block),
        "height": block.height,
        "version": version,
        "versionHex": f"{version & 0xFFFFFFFF:08x}",
        "merkleroot": merkle[::-1].hex(),
        "time": when,
        "mediantime": call.node.store.median_time(block) if block.active else when,
        "nonce": nonce,
        "bits": f"{bits:08x}",
        "difficulty": _DIFFICULTY,
        "chainwork": f"{2 * (block.height + 1):064x}",
    }
    if call.modern:
        shown["nTx"] = block.txs
    if block.height:
        shown["previousblockhash"] = block.prev.hex()
    following = call.node.store.block_at(block.height + 1) if block.active else None
    if following is not None:
        shown["nextblockhash"] = following.hash.hex()
    return shown


@command("getblockchaininfo", "Blockchain")
def getblockchaininfo(call: Call) -> dict[str, Any]:
    """State of the chain: height, best block, whether it is still catching up."""
    tip = call.node.tip
    syncing = call.node.syncing
    return {
        "chain": rules.PARAMS.name,
        "blocks": tip.height,
        "headers": tip.height + (100 if syncing else 0),
        "bestblockhash": tip.hash.hex(),
        "difficulty": _DIFFICULTY,
        "mediantime": call.node.store.median_time(tip),
        "verificationprogress": Decimal("0.5") if syncing else 1,
        "initialblockdownload": syncing,
        "chainwork": f"{2 * (tip.height + 1):064x}",
        "pruned": False,
        "softforks": {} if call.modern else [],
        "warnings": "",
    }


@command("getbestblockhash", "Blockchain")
def getbestblockhash(call: Call) -> str:
    """Hash of the tip."""
    return call.node.tip.hash.hex()


@command("getblockcount", "Blockchain")
def getblockcount(call: Call) -> int:
    """Height of the tip."""
    return call.node.tip.height


@command("getblockhash", "Blockchain")
def getblockhash(call: Call, height: int) -> str:
    """Hash of the block at a height of the chain in force."""
    found = call.node.store.block_at(height) if 0 <= height <= call.node.tip.height else None
    if found is None:
        raise RpcError(errors.INVALID_PARAMETER, "Block height out of range")
    return found.hash.hex()


@command("getblockheader", "Blockchain")
def getblockheader(call: Call, blockhash: str, verbose: bool = True) -> Any:
    """A block's header, as an object or (verbose false) as hex."""
    found = find_block(call, blockhash, "hash")
    raw = call.node.store.raw_block(found.hash)
    return _header_json(call, found, raw) if verbose else raw[:80].hex()


@command("getblock", "Blockchain", dialects=("flopcoin",))
def getblock(call: Call, blockhash: str, verbose: bool = True) -> Any:
    """A block with its transaction ids, or (verbose false) as hex."""
    return _block(call, blockhash, 1 if verbose else 0)


@command("getblock", "Blockchain", dialects=("modern",))
def getblock_modern(call: Call, blockhash: str, verbosity: int | bool = 1) -> Any:
    """A block as hex (0), with transaction ids (1) or with whole transactions (2)."""
    return _block(call, blockhash, int(verbosity))


def _block(call: Call, text: str, verbosity: int) -> Any:
    found = find_block(call, text)
    raw = call.node.store.raw_block(found.hash)
    if verbosity <= 0:
        return raw.hex()
    shown = _header_json(call, found, raw)
    txs = list(call.node.transactions(found.hash))
    shown["size"] = shown["strippedsize"] = len(raw)
    shown["weight"] = 4 * len(raw)
    shown["tx"] = [txid.hex() if verbosity == 1 else tx_json(tx, call.modern) for tx, txid, _ in txs]
    return shown


@command("gettxout", "Blockchain")
def gettxout(call: Call, txid: str, n: int, include_mempool: bool = True) -> Any:
    """An unspent output, or null; the mempool counts unless told otherwise."""
    wanted = lenient_hash(call, txid, "txid")
    node = call.node
    if include_mempool and node.mempool.spender(wanted, n) is not None:
        return None
    coin = node.coin(wanted, n) if include_mempool else node.store.coin(wanted, n)
    if coin is None:
        return None
    shown: dict[str, Any] = {
        "bestblock": node.tip.hash.hex(),
        "confirmations": 0 if coin.height is None else node.tip.height - coin.height + 1,
        "value": Amount(coin.value),
        "scriptPubKey": script_json(coin.script),
        "coinbase": coin.coinbase,
    }
    if not call.modern:
        shown["version"] = 1
    return shown


@command("getrawmempool", "Blockchain")
def getrawmempool(call: Call) -> list[str]:
    """Ids of the waiting transactions."""
    return [entry.txid.hex() for entry in call.node.mempool]


@command("invalidateblock", "Hidden")
def invalidateblock(call: Call, blockhash: str) -> None:
    """Treat a block and all after it as invalid: how tests make a reorganisation."""
    found = find_block(call, blockhash)
    if not found.height:
        raise RpcError(errors.DATABASE, "the genesis block cannot be invalidated")
    call.node.invalidate(found)


@command("reconsiderblock", "Hidden")
def reconsiderblock(call: Call, blockhash: str) -> None:
    """Lift the verdict of invalidateblock from a block and its descendants."""
    call.node.reconsider(find_block(call, blockhash))


@command("generatetoaddress", "Generating")
async def generatetoaddress(call: Call, nblocks: int, address: str, maxtries: int = 1_000_000) -> list[str]:
    """Make blocks at once, their coins to an address."""
    del maxtries  # Core bounds its search for nonces with it; here every second one will do
    return await make_blocks(call, nblocks, output_script(address, "Error: Invalid address"))


@command("generate", "Generating", dialects=("flopcoin",))
async def generate(call: Call, nblocks: int, maxtries: int = 1_000_000) -> list[str]:
    """Make blocks at once, their coins to a new address of the wallet."""
    del maxtries
    with call.node.store.transaction():
        script = call.node.wallets.new_script(call.wallet, "")
    return await make_blocks(call, nblocks, script)


async def make_blocks(call: Call, count: int, script: bytes) -> list[str]:
    """Blocks in batches of one commit each; stops early when the process is told to stop."""
    hashes: list[str] = []
    while len(hashes) < count and not call.node.stopping:
        with call.node.change():
            for _ in range(min(_BATCH, count - len(hashes))):
                hashes.append(call.node.mine(script).hex())
        await asyncio.sleep(0)
    return hashes


def output_script(address: str, refusal: str = "Invalid address") -> bytes:
    """The script of an address of this chain; raises RpcError (-5) with the text `refusal`."""
    try:
        return coin_script.script_of(address, rules.PARAMS)
    except DuxError:
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, refusal) from None


@command("getnetworkinfo", "Network")
def getnetworkinfo(call: Call) -> dict[str, Any]:
    """Version and relay rules; this chain is one process and has no peers."""
    return {
        "version": VERSION,
        "subversion": SUBVERSION,
        "protocolversion": 70015,
        "localservices": "0000000000000001",
        "localrelay": True,
        "timeoffset": 0,
        "networkactive": True,
        "connections": 0,
        "networks": [],
        "relayfee": Amount(policy.MIN_FEE_RATE),
        "incrementalfee": Amount(policy.MIN_FEE_RATE),
        "localaddresses": [],
        "warnings": "",
    }


@command("estimatesmartfee", "Util", dialects=("flopcoin",))
def estimatesmartfee(call: Call, nblocks: int) -> dict[str, Any]:
    """No estimate: blocks here are never full, so there is nothing to learn from."""
    return {"feerate": -1, "blocks": nblocks}


@command("estimatesmartfee", "Util", dialects=("modern",))
def estimatesmartfee_modern(call: Call, conf_target: int, estimate_mode: str = "conservative") -> dict[str, Any]:
    """No estimate: blocks here are never full, so there is nothing to learn from."""
    del estimate_mode
    if not 1 <= conf_target <= 1008:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid conf_target, must be between 1 and 1008")
    return {"errors": ["Insufficient data or no feerate found"], "blocks": conf_target}


@command("help", "Control")
def help_text(call: Call, command: str | None = None) -> str:
    """All calls of this dialect, or how to use one."""
    if command is not None:
        try:
            return lookup(call.dialect, command).help
        except RpcError:
            return f"help: unknown command: {command}\n"
    groups: dict[str, list[str]] = {}
    for made in COMMANDS[call.dialect].values():
        if made.category != "Hidden":
            groups.setdefault(made.category, []).append(made.usage)
    return "\n\n".join("\n".join([f"== {name} ==", *sorted(lines)]) for name, lines in sorted(groups.items())) + "\n"
