"""Signing for the other daemons: their own channels, their own keys, a sane fee, and fast."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dux_flopd import outputs
from dux_flopd.blocks import Block, SeenTx
from dux_flopd.core import Core
from dux_flopd.keyring import Keyring
from dux_flopd.keystore import Keystore, caller_path
from dux_flopd.outputs import Tip
from dux_flopd.schema import MIGRATIONS
from dux_flopd.settings import CoreSettings
from duxcommon.api.flopd import PrevOut
from duxcommon.coin.params import DEVNET
from duxcommon.coin.script import EscrowTerms, multisig_script, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import Coin, check_signature, closing_tx, make_tx, serialize_tx
from duxcommon.db import Store
from duxcommon.errors import BadTransaction, DuxError, KeystoreMissing, KeyUnknown, SignRefused, WalletLocked
from duxcommon.money import COIN

PASS = "a passphrase"
ME, OTHER_USER = 1000, 1001
THEM, ARBITER = pubkey_of(b"\x0b" * 32), pubkey_of(b"\x0a" * 32)
FUND = p2sh_script(b"\x51")


class NoCore(Core):
    """Fails the test when Core is asked for anything but to take a key."""

    async def call(self, method: str, *params: Any, timeout_s: int | None = None) -> Any:
        assert method == "importprivkey"
        return None


@pytest.fixture
def keyring(short_tmp: Path) -> Iterator[Keyring]:
    Keystore.create(short_tmp / "keys.json", PASS, log_n=10)
    store = Store(short_tmp / "flopd.sqlite", MIGRATIONS)
    core = NoCore(CoreSettings(url="http://127.0.0.1:1/", cookie=short_tmp / "c"), DEVNET.genesis)
    made = Keyring(short_tmp / "keys.json", store, core, DEVNET)
    asyncio.run(made.unlock(PASS))
    yield made
    asyncio.run(store.close())


def new(keyring: Keyring, owner: int = ME, ref: str = "c/1") -> bytes:
    return bytes.fromhex(asyncio.run(keyring.new(owner, ref)).pubkey)


def spend(provider: bytes, buyer: bytes, deposits: int = 1, fee: int | None = None) -> dict[str, Any]:
    """A closing transaction over some deposits, as a request."""
    terms = EscrowTerms(provider, buyer, ARBITER, 10_000)
    coins = [Coin(f"{number:064x}", 0, 10 * COIN) for number in range(1, deposits + 1)]
    tx = closing_tx(terms, coins, 5 * COIN, 500, FUND).tx
    if fee is not None:
        total = sum(coin.amount for coin in coins)
        tx = make_tx([(coin.txid, coin.vout) for coin in coins], [(FUND, total - fee)])
    prevouts = [
        PrevOut(txid=coin.txid, vout=coin.vout, amount=coin.amount, redeem=terms.script().hex()) for coin in coins
    ]
    return {"raw": serialize_tx(tx).hex(), "prevouts": prevouts, "tx": tx, "redeem": terms.script()}


def sign(keyring: Keyring, request: dict[str, Any], pubkey: bytes, owner: int = ME) -> list[bytes]:
    return keyring.sign(owner, request["raw"], request["prevouts"], pubkey)


@pytest.mark.parametrize("deposits", [1, 7])
def test_signatures_are_good_under_standard_policy(keyring: Keyring, deposits: int) -> None:
    payout, own = keyring.keystore.payout_pubkey, new(keyring)
    for pubkey, request in ((payout, spend(payout, THEM, deposits)), (own, spend(THEM, own, deposits))):
        made = sign(keyring, request, pubkey)
        assert len(made) == deposits
        for index, signature in enumerate(made):
            assert check_signature(request["tx"], index, request["redeem"], pubkey, signature)
        assert sign(keyring, request, pubkey) == made


def test_a_key_has_a_name_and_an_owner_and_stays_the_same(keyring: Keyring, short_tmp: Path) -> None:
    first = new(keyring)
    assert new(keyring) == first == keyring.keystore.key(caller_path(0)).pubkey
    assert new(keyring, ref="c/2") == keyring.keystore.key(caller_path(1)).pubkey
    assert new(keyring, OTHER_USER) == keyring.keystore.key(caller_path(2)).pubkey

    async def at_once() -> list[str]:
        return [info.pubkey for info in await asyncio.gather(*(keyring.new(ME, "c/3") for _ in range(8)))]

    assert len(set(asyncio.run(at_once()))) == 1


def test_nobody_signs_with_the_key_of_another_daemon(keyring: Keyring) -> None:
    own = new(keyring)
    request = spend(THEM, own)
    assert sign(keyring, request, own)
    for owner, pubkey in ((OTHER_USER, own), (ME, THEM)):
        with pytest.raises(KeyUnknown) as caught:
            sign(keyring, request, pubkey, owner)
        assert "key.new" in caught.value.hint


def test_a_restart_remembers_the_keys_and_signs_only_when_unlocked(keyring: Keyring, short_tmp: Path) -> None:
    own = new(keyring)
    request = spend(THEM, own)
    keyring.lock()
    with pytest.raises(WalletLocked) as caught:
        sign(keyring, request, own)
    assert "wallet unlock" in caught.value.hint
    assert new(keyring) == own
    with pytest.raises(WalletLocked):
        new(keyring, ref="another")
    again = Keyring(short_tmp / "keys.json", keyring._store, keyring._core, DEVNET)
    asyncio.run(again.unlock(PASS))
    assert sign(again, request, own)
    assert new(again, ref="another") not in (own, again.keystore.payout_pubkey)


def test_without_a_keystore_everything_says_so(keyring: Keyring, short_tmp: Path) -> None:
    bare = Keyring(short_tmp / "none.json", keyring._store, keyring._core, DEVNET)
    assert not bare.status().exists
    for attempt in (bare.payout, bare.check_unlocked, bare.lock):
        with pytest.raises(KeystoreMissing) as caught:
            attempt()
        assert "keystore create" in caught.value.hint


def other_scripts(pubkey: bytes) -> list[bytes]:
    good = EscrowTerms(THEM, pubkey, ARBITER, 10_000).script()
    return [
        b"",
        p2pkh_script(pubkey),
        multisig_script(2, [pubkey, THEM, ARBITER]),
        good + b"\x51",
        good[:-1],
        good.replace(b"\xad", b"\x69"),
        EscrowTerms(THEM, pubkey_of(b"\x0c" * 32), ARBITER, 10_000).script(),
    ]


@pytest.mark.parametrize("number", range(7))
def test_only_escrow_scripts_with_the_key_are_signed(keyring: Keyring, number: int) -> None:
    own = new(keyring)
    request = spend(THEM, own)
    script = other_scripts(own)[number]
    request["prevouts"] = [request["prevouts"][0].model_copy(update={"redeem": script.hex()})]
    with pytest.raises(SignRefused):
        sign(keyring, request, own)


def test_an_unfair_fee_is_not_signed(keyring: Keyring) -> None:
    own = new(keyring)
    assert sign(keyring, spend(THEM, own, fee=10_000_000), own)
    for fee in (10_000_001, -1):
        with pytest.raises(SignRefused) as caught:
            sign(keyring, spend(THEM, own, fee=fee), own)
        assert "fee" in caught.value.message


def test_a_false_amount_does_not_hide_the_fee(keyring: Keyring) -> None:
    own = new(keyring)
    terms = EscrowTerms(THEM, own, ARBITER, 10_000)
    deposit = SeenTx(make_tx([("11" * 32, 0)], [(p2sh_script(terms.script()), 10 * COIN)]))

    def seen(connection: Any) -> None:
        outputs.jump(connection, Tip(0, "genesis"))
        outputs.watch(connection, p2sh_script(terms.script()).hex(), "c/1", None)
        outputs.apply(connection, Block("a", "genesis", [deposit]), 1, live=True)

    asyncio.run(keyring._store.write(seen))
    tx = make_tx([(deposit.txid, 0)], [(FUND, COIN)])
    true = PrevOut(txid=deposit.txid, vout=0, amount=10 * COIN, redeem=terms.script().hex())
    for amount in (COIN + 1000, 10 * COIN):
        prevout = true.model_copy(update={"amount": amount})
        with pytest.raises(SignRefused):
            keyring.sign(ME, serialize_tx(tx).hex(), [prevout], own)


def test_the_named_outputs_must_be_those_that_are_spent(keyring: Keyring) -> None:
    own = new(keyring)
    for change in (
        lambda prevouts: prevouts[:1],
        lambda prevouts: [*prevouts, prevouts[0]],
        lambda prevouts: prevouts[::-1],
        lambda prevouts: [],
    ):
        request = spend(THEM, own, 2)
        request["prevouts"] = change(request["prevouts"])
        with pytest.raises(SignRefused):
            sign(keyring, request, own)


@pytest.mark.parametrize("raw", ["", "00", "ff" * 100, "01000000" + "00" * 6])
def test_bytes_that_are_no_transaction_are_refused(keyring: Keyring, raw: str) -> None:
    with pytest.raises(BadTransaction):
        keyring.sign(ME, raw, [], keyring.keystore.payout_pubkey)


def test_every_refusal_leaves_no_trace(keyring: Keyring) -> None:
    before = keyring._store.read(lambda c: c.total_changes)
    with pytest.raises(DuxError):
        sign(keyring, spend(THEM, ARBITER), THEM)
    assert keyring._store.read(lambda c: c.total_changes) == before


def test_a_signature_takes_less_than_a_millisecond(keyring: Keyring) -> None:
    own = new(keyring)
    request = spend(THEM, own)
    best = float("inf")
    for _ in range(50):
        started = time.perf_counter()
        sign(keyring, request, own)
        best = min(best, time.perf_counter() - started)
    assert best < 0.001, f"{best * 1e6:.0f} µs"
