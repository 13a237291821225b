"""The same calls to dux-devchain and to a real litecoind: equal error codes, equal words, equal shapes of answers.

litecoind is the nearest daemon that Debian has; what Flopcoin's dialect says otherwise is taken from flopcoind.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from btclib.script.script import serialize
from btclib.tx import Tx
from devchain_kit import LITECOIND, OWN, SECRETS, Core, Devchain, Litecoind, Refused, spend

from duxcommon.coin.script import EscrowTerms, address_of, op_return_script, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import (
    Coin,
    closing_tx,
    finish_close,
    finish_refund,
    make_tx,
    parse_tx,
    refund_tx,
    serialize_tx,
    sign_input,
    txid_of,
    with_script_sigs,
)
from duxcommon.money import COIN, format_flop

PROVIDER, BUYER, ARBITER = (pubkey_of(secret) for secret in SECRETS)
NOBODY_SCRIPT = b"\x76\xa9\x14" + bytes(20) + b"\x88\xac"
CLTV_ACTIVE = 1400
MISSING = "0" * 64

NOT_OFFERED = {
    "getaddressinfo": {"desc", "hdkeypath", "hdmasterfingerprint", "hdseedid", "ismweb"},
    "getblockchaininfo": {"size_on_disk", "softforks"},
    "getnetworkinfo": {"connections_in", "connections_out", "localservicesnames", "networks"},
    "getwalletinfo": {"avoid_reuse", "descriptors", "format", "hdseedid", "keypoolsize_hd_internal"},
    "listunspent": {"desc"},
    "getrawtransaction": {"ismweb"},
    "getblock": {"ismweb"},
    "validateaddress": {"ismweb"},
}
"""Members of litecoind's answers that dux-devchain leaves out: descriptors, HD paths, MWEB and figures of its disk."""

_FEE = re.compile(r"\d+ < \d+")
Outcome = tuple[str, str, Any]


def shape(value: Any, leave: set[str]) -> Any:
    """An answer without its values: kinds of the members, and of a list's first item."""
    if isinstance(value, dict):
        return {key: shape(item, leave) for key, item in sorted(value.items()) if key not in leave}
    if isinstance(value, list):
        return [shape(item, leave) for item in value[:1]]
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | Decimal) else type(value).__name__


class Recorder:
    """Makes calls and writes down how each ended."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.outcomes: list[Outcome] = []

    def __call__(self, method: str, *params: Any, wallet: str | None = None, label: str = "") -> Any:
        """The result, or None for a refusal."""
        name = f"{len(self.outcomes)} {method} {label}".strip()
        try:
            result = self.core.call(method, *params, wallet=wallet)
        except Refused as refused:
            # A wrong number of arguments is answered with the help text, which is each daemon's own.
            words = "" if refused.code == -1 and "\n" in refused.message else _without_names(refused.message)
            self.outcomes.append((name, "refused", (refused.code, refused.status, words)))
            return None
        self.outcomes.append((name, "answered", shape(result, NOT_OFFERED.get(method, set()))))
        return result

    def send(self, tx: Tx, label: str) -> Any:
        return self("sendrawtransaction", serialize_tx(tx).hex(), label=label)

    def mine(self, blocks: int) -> list[str]:
        address = address_of(NOBODY_SCRIPT, self.core.params)
        hashes: list[str] = self.core.call("generatetoaddress", blocks, address)
        return hashes

    def coin(self, script: bytes, amount: int) -> Coin:
        """A confirmed output of a script of the test's, paid by wallet `w`."""
        address = address_of(script, self.core.params)
        payer = self.core.wallet("w")
        made = payer.funded({str(address): format_flop(amount)}, feeRate="0.02")
        tx = parse_tx(made["hex"])
        payer.sendrawtransaction(made["hex"])
        self.mine(1)
        return Coin(txid_of(tx), [output.script_pub_key.script for output in tx.vout].index(script), amount)


def _without_names(text: str) -> str:
    """Litecoin is Flopcoin here; what lies in quotes (paths, hex) and fees by size are values."""
    parts = _FEE.sub("", text.replace("Litecoin", "Flopcoin").replace("litecoin", "flopcoin")).split("'")
    return "'".join(part if index % 2 == 0 else "" for index, part in enumerate(parts))


def compare(left: Recorder, right: Recorder) -> None:
    """Both recorded the same; all differences are shown."""
    assert [name for name, *_ in left.outcomes] == [name for name, *_ in right.outcomes]
    different = [(mine, real) for mine, real in zip(left.outcomes, right.outcomes, strict=True) if mine != real]
    assert not different, "\n".join(f"devchain:  {mine}\nlitecoind: {real}" for mine, real in different)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Core, Core]]:
    if not LITECOIND.exists():
        pytest.skip("not run: litecoind is not installed")
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    (folder / "l").mkdir()
    litecoind = Litecoind(folder / "l")
    devchain = None
    try:
        devchain = Devchain(folder / "c", "modern")
        yield devchain, litecoind
    finally:
        if devchain is not None:
            devchain.close()
        litecoind.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def funded(both: tuple[Core, Core]) -> tuple[Core, Core]:
    """Both with the same wallets and height, `w` rich, after their answers without wallets were compared."""
    recorders = [Recorder(core) for core in both]
    for call in recorders:
        call("getbalance")
        call("getbalance", wallet="w")
        call("loadwallet", "w")
        call("createwallet", "w", False, False, "", False, False)
        call("createwallet", "w")
        call("loadwallet", "w")
        call("getbalance", label="with one wallet")
        call("createwallet", "v")
        call("getbalance", label="with two")
        call("getbalance", wallet="v")
        address = call("getnewaddress", "mined", "legacy", wallet="w")
        call.core.call("generatetoaddress", 100, address)
        call.mine(CLTV_ACTIVE - 100)
    compare(*recorders)
    return both


def test_answers_about_the_chain_have_the_same_shape(funded: tuple[Core, Core]) -> None:
    recorders = [Recorder(core) for core in funded]
    for call in recorders:
        info = call("getblockchaininfo")
        assert info["blocks"] == CLTV_ACTIVE
        call("getnetworkinfo")
        tip = call("getbestblockhash")
        call("getblockcount")
        call("getblockhash", CLTV_ACTIVE)
        call("getblockhash", CLTV_ACTIVE - 1)
        for wrong in (CLTV_ACTIVE + 1, -1, "x", None, True, Decimal("0.5")):
            call("getblockhash", wrong if not isinstance(wrong, Decimal) else 0.5)
        call("getblockhash")
        call("getblockhash", 1, 2)
        for method in ("getblock", "getblockheader"):
            call(method, tip)
            call(method, call.core.call("getblockhash", 5), label="with a next one")
            for wrong in (MISSING, "zz", "zz" * 32, 5, None):
                call(method, wrong)
        for verbosity in (0, 1, False, True):
            call("getblock", tip, verbosity)
        call("getblockheader", tip, False)
        call("gettxout", MISSING, 0)
        call("gettxout", "zz", 0)
        call("getrawmempool")
        call("estimatesmartfee", 2)
        call("estimatesmartfee", 0)
        call("nosuch")
        call("invalidateblock", MISSING)
        call("reconsiderblock", MISSING)
        call("generatetoaddress", 1, "bad")
        call("generateblock", "bad", [])
        call("generateblock", address_of(NOBODY_SCRIPT, call.core.params), [MISSING])
        call("generateblock", address_of(NOBODY_SCRIPT, call.core.params), ["zz"])
        call("generateblock", address_of(NOBODY_SCRIPT, call.core.params), [])
    compare(*recorders)


def test_addresses_keys_and_imports_answer_alike(funded: tuple[Core, Core]) -> None:
    recorders = [Recorder(core) for core in funded]
    for call in recorders:
        core = call.core
        address = call("getnewaddress", "rent", "legacy", wallet="w")
        call("getnewaddress", "", "nosuch", wallet="w")
        call("getnewaddress", 5, wallet="w")
        call("getaddressinfo", address, wallet="w")
        call("getaddressinfo", address, wallet="v", label="of another wallet")
        call("getaddressinfo", "bad", wallet="w")
        call("validateaddress", address)
        call("validateaddress", "bad")
        watched = address_of(p2sh_script(b"\x51"), core.params)
        call("importaddress", watched, "watched", False, wallet="v")
        call("importaddress", watched, "watched again", False, wallet="v")
        call("getaddressinfo", watched, wallet="v")
        call("importaddress", address, "", False, wallet="w", label="of its own")
        call("importaddress", "zz", "", False, wallet="v")
        call("importaddress", wallet="v")
        call("importprivkey", "zz", wallet="v")
        call("importprivkey", core.wif(bytes([99]) * 32), "key", False, wallet="v")
        call("getaddressinfo", address_of(p2pkh_script(pubkey_of(bytes([99]) * 32)), core.params), wallet="v")
        call("getwalletinfo", wallet="w")
        call("listunspent", 1, 9_999_999, wallet="w")
        call("listunspent", "x", wallet="w")
        call("listunspent", 1, 9_999_999, ["bad"], wallet="w")
        call("listtransactions", "*", 3, 0, False, wallet="w")
        call("listtransactions", "*", -1, wallet="w")
        call("listtransactions", "*", 1, -1, wallet="w")
        call("gettransaction", MISSING, wallet="w")
        call("gettransaction", 5, wallet="w")
        call("listsinceblock", MISSING, wallet="w")
        call("listsinceblock", "zz", wallet="w")
        call("listsinceblock", core.call("getbestblockhash"), 0, wallet="w")
    compare(*recorders)


def test_a_payment_answers_alike_from_funding_to_confirmation(funded: tuple[Core, Core]) -> None:
    recorders = [Recorder(core) for core in funded]
    for call in recorders:
        core = call.core
        target = core.wallet("v").address("to v")
        raw = call("createrawtransaction", [], {target: "1.5"})
        outputs: Any
        for outputs in ({"bad": "1"}, {target: "1.123456789"}, {target: "x"}, {target: "-1"}, {target: []}, "x"):
            call("createrawtransaction", [], outputs)
        for wrong in ({"txid": "00", "vout": 0}, {"txid": MISSING}, {"vout": 0}, {"txid": MISSING, "vout": -1}):
            call("createrawtransaction", [wrong], {})
        bad: Any
        for bad in ({"nosuch": 1}, {"changePosition": 5}, {"changeAddress": "bad"}, {"lockUnspents": 1}):
            call("fundrawtransaction", raw, bad, wallet="w")
        call("fundrawtransaction", "00", wallet="w")
        call("fundrawtransaction", "01000000000000000000", wallet="w")
        rich = core.call("createrawtransaction", [], {target: "70000000"})
        call("fundrawtransaction", rich, wallet="w", label="too much")
        options = {"feeRate": "0.02", "changePosition": 1, "lockUnspents": True, "change_type": "legacy"}
        funded_tx = call("fundrawtransaction", raw, options, wallet="w")
        locked = call("listlockunspent", wallet="w")
        call("lockunspent", False, locked[:1], wallet="w", label="locked already")
        call("lockunspent", True, [{"txid": MISSING, "vout": 0}], wallet="w")
        call("lockunspent", True, [{"txid": locked[0]["txid"], "vout": 999}], wallet="w")
        call("lockunspent", "x", wallet="w")
        call("lockunspent", True, locked, wallet="w")
        call("lockunspent", True, locked[:1], wallet="w", label="not locked")
        call("lockunspent", False, locked, wallet="w", label="once more")
        call("signrawtransactionwithwallet", wallet="w")
        call("signrawtransactionwithwallet", funded_tx["hex"], wallet="v", label="by another wallet")
        signed = call("signrawtransactionwithwallet", funded_tx["hex"], wallet="w")
        call("sendrawtransaction", "00")
        call("sendrawtransaction", "zz")
        call("sendrawtransaction", 5)
        txid = call("sendrawtransaction", signed["hex"])
        call("sendrawtransaction", signed["hex"], label="again")
        call("getrawmempool", label="with one")
        call("listlockunspent", wallet="w", label="after the send")
        call("getrawtransaction", txid)
        call("getrawtransaction", txid, True)
        for wallet in ("w", "v"):
            call("gettransaction", txid, False, wallet=wallet, label=f"unconfirmed {wallet}")
            call("getwalletinfo", wallet=wallet)
            call("listunspent", 0, 9_999_999, [target], wallet=wallet)
            call("listtransactions", "*", 2, wallet=wallet)
        (block,) = call.mine(1)
        call("sendrawtransaction", signed["hex"], label="confirmed")
        call("getrawtransaction", txid, label="confirmed")
        call("getrawtransaction", txid, False, block)
        call("getrawtransaction", txid, True, block)
        call("getrawtransaction", MISSING, False, block)
        call("getrawtransaction", txid[:-2])
        call("gettxout", txid, 0)
        call("gettxout", txid, 9)
        for wallet in ("w", "v"):
            call("gettransaction", txid, False, wallet=wallet, label=f"confirmed {wallet}")
            call("gettransaction", txid, True, wallet=wallet)
            call("listsinceblock", core.call("getblockhash", core.height() - 1), 1, True, wallet=wallet)
        call("invalidateblock", block)
        call("gettransaction", txid, False, wallet="w", label="disconnected")
        call("getblockheader", block)
        call("listsinceblock", block, 1, True, wallet="w")
        call("reconsiderblock", block)
        call("gettransaction", txid, False, wallet="w", label="connected again")
        call.mine(1)
    compare(*recorders)


def test_refused_transactions_are_refused_in_the_same_words(funded: tuple[Core, Core]) -> None:
    recorders = [Recorder(core) for core in funded]
    for call in recorders:
        coin = call.coin(OWN, 10 * COIN)
        rest = (OWN, 9 * COIN + 98_500_000)
        inputs = [(coin.txid, coin.vout)]
        call.send(make_tx(inputs, []), "no outputs")
        call.send(make_tx(inputs * 2, [rest]), "an input twice")
        call.send(make_tx(inputs, [(OWN, 10**18 + 1)]), "too large")
        call.send(make_tx(inputs, [(OWN, -1)]), "negative")
        call.send(make_tx([("0" * 64, 0xFFFFFFFF)], [rest]), "a coinbase")
        call.send(spend(coin, [(OWN, coin.amount + 1)]), "more out than in")
        call.send(spend(coin, [(OWN, coin.amount - 1000)]), "fee too small")
        call.send(spend(coin, [(OWN, 1), rest]), "dust")
        call.send(spend(coin, [(op_return_script(b"x"), 0)] * 2 + [rest]), "two notes")
        call.send(spend(coin, [(b"\x51", 9 * COIN)]), "a script of no kind")
        call.send(spend(coin, [(b"\x6a\x4c\x60" + bytes(96), 0), rest]), "a long note")
        call.send(spend(coin, [(OWN, COIN // 1000)] * 3000), "too big")
        version = spend(coin, [rest])
        version.version = 3
        call.send(version, "version")
        call.send(with_script_sigs(make_tx(inputs, [rest]), [b"\x61"]), "not push only")
        call.send(with_script_sigs(make_tx(inputs, [rest]), [serialize([bytes(520)] * 4)]), "long input script")
        good = spend(coin, [rest])
        other = make_tx(inputs, [rest])
        call.send(other, "unsigned")
        stolen = make_tx(inputs, [(p2pkh_script(BUYER), 9 * COIN)])
        call.send(with_script_sigs(stolen, [good.vin[0].script_sig]), "signed for another output")
        call.send(spend(Coin("11" * 32, 0, COIN), [(OWN, COIN // 2)]), "unknown input")
        later = spend(coin, [rest], lock_time=call.core.height() + 2, sequence=0xFFFFFFFE)
        call.send(later, "lock time")
        call.send(good, "good")
        call.send(spend(coin, [(OWN, rest[1] - 1)]), "conflict")
        child = Coin(txid_of(good), 0, rest[1])
        for depth in range(24):
            tx = spend(child, [(OWN, child.amount - 1_000_000)])
            call.send(tx, f"child {depth}")
            child = Coin(txid_of(tx), 0, child.amount - 1_000_000)
        call.send(spend(child, [(OWN, child.amount - 1_000_000)]), "one child too many")
        call.mine(1)
        call.send(spend(coin, [(OWN, rest[1] - 1)]), "lost to a block")
        call.send(good, "confirmed, its output spent")
    compare(*recorders)


def test_the_escrow_gets_the_same_verdicts(funded: tuple[Core, Core]) -> None:
    recorders = [Recorder(core) for core in funded]
    for call in recorders:
        core = call.core
        terms = EscrowTerms(PROVIDER, BUYER, ARBITER, core.height() + 8)
        script = p2sh_script(terms.script())
        deposits = [call.coin(script, 12 * COIN), call.coin(script, 3 * COIN)]
        closing = closing_tx(terms, deposits, 10 * COIN, 500, p2sh_script(b"\x51"))
        sigs = [_sign_all(closing.tx, closing.redeem, secret) for secret in SECRETS]
        for first in range(3):
            for second in (1, 2):
                call.send(finish_close(closing, sigs[first], sigs[second]), f"closed by {first} and {second}")
        refund = refund_tx(terms, deposits)
        signed = finish_refund(refund, _sign_all(refund.tx, refund.redeem, SECRETS[1]))
        call.send(signed, "refund too early")
        early = Tx(1, core.height(), refund.tx.vin, refund.tx.vout, check_validity=False)
        early_sigs = _sign_all(early, refund.redeem, SECRETS[1])
        script_sigs = [serialize([sig]) + b"\x00" + serialize([refund.redeem]) for sig in early_sigs]
        call.send(with_script_sigs(early, script_sigs), "refund with a lower lock time")
        call.mine(terms.lock_height - core.height() - 1)
        call.send(signed, "refund one block early")
        call.mine(1)
        for number in (0, 2):
            call.send(
                finish_refund(refund, _sign_all(refund.tx, refund.redeem, SECRETS[number])), f"refund by {number}"
            )
        usual = finish_close(closing, sigs[1], sigs[0])
        inputs = [given.script_sig for given in usual.vin]
        call.send(with_script_sigs(usual, [b"\x51" + item[1:] for item in inputs]), "dummy that is not empty")
        call.send(with_script_sigs(usual, [b"\x00\x4c" + item[1:] for item in inputs]), "push that is not minimal")
        call.send(with_script_sigs(usual, [b"\x51" + item for item in inputs]), "stack that is not clean")
        call.send(usual, "close")
        call.send(signed, "refund after the close")
        call.mine(1)
        call.send(signed, "refund after the close was mined")
    compare(*recorders)


def _sign_all(tx: Tx, redeem: bytes, secret: bytes) -> list[bytes]:
    return [sign_input(tx, index, redeem, secret) for index in range(len(tx.vin))]
