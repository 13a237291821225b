"""Keys for the other daemons, and signing with them: a channel's transactions and nothing else."""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from duxcommon.api.flopd import KeyInfo, PrevOut, WalletStatus
from duxcommon.coin.params import ChainParams
from duxcommon.coin.script import EscrowTerms, address_of, p2pkh_script, parse_escrow, wif_of
from duxcommon.coin.tx import outpoint_of, parse_tx, sign_input
from duxcommon.db import Store
from duxcommon.errors import DuxError, KeystoreMissing, KeystoreUnusable, KeyUnknown, SignRefused, WalletLocked
from duxcommon.money import format_flop

from . import outputs
from .core import Core
from .funding import MAX_FEE, Proof
from .keystore import ARBITER_PATH, GUARDIAN_PATH, PAYOUT_PATH, KeyPair, Keystore, caller_path

LABEL = "dux"
"""Label of our keys in Core's wallet."""
LOST = (
    "Put the file back from a backup, or make it anew from its recovery words: `dux-flopd keystore create --restore`. "
    "A new one would not have its coins."
)


class Keyring:
    """The keystore, the keys that were made from it, and their copies in Core's wallet.

    The copies make what the keys earn ordinary balance: Core sees it and can spend it.
    """

    def __init__(self, path: Path, store: Store, core: Core, params: ChainParams) -> None:
        self._path = path
        self._store = store
        self._core = core
        self._params = params
        self._keystore: Keystore | None = None
        self._fault = KeystoreMissing("")
        """Why there is no keystore to use, while there is none."""
        self.why_locked = "nobody has given the passphrase since the start"
        """Why it is locked and what to do, for people."""
        self._log = logging.getLogger("flopd")
        self._making = asyncio.Lock()
        self._owned: dict[bytes, tuple[int, str]] = {
            bytes.fromhex(row["pubkey"]): (row["owner"], caller_path(row["number"]))
            for row in store.read(lambda c: c.execute("SELECT number, owner, pubkey FROM keys").fetchall())
        }
        """Owner and path of each key that was made; in memory because signing is on the path of every paid call."""
        self._sign_of_one = "keys were made from one" if self._owned else ""
        self.reopen()

    # --- the keystore ----------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Take the keystore file if there is one by now; why one can't be used is said by every use of it."""
        if self._keystore is None:
            try:
                self._keystore = Keystore.open(self._path)
            except KeystoreMissing as error:
                self._fault = error
                if self._sign_of_one:
                    self._fault = KeystoreMissing(f"{error.message}, but {self._sign_of_one}: it was lost", hint=LOST)
            except DuxError as error:
                self._fault = KeystoreUnusable(error.message, hint=error.hint)

    @property
    def keystore(self) -> Keystore:
        """Raises KeystoreMissing, or KeystoreUnusable for a file that is damaged, unsafe or of a newer version."""
        if self._keystore is None:
            raise type(self._fault)(self._fault.message, hint=self._fault.hint)
        return self._keystore

    @property
    def fault(self) -> KeystoreMissing | None:
        """Why there is no keystore to use; None when there is one."""
        return self._fault if self._keystore is None else None

    def expect(self, sign: str) -> None:
        """Take `sign` as a proof that there was a keystore."""
        self._sign_of_one = self._sign_of_one or sign
        self.reopen()

    def check_unlocked(self) -> None:
        """Raises WalletLocked, or what `keystore` raises."""
        if self.keystore.locked:
            raise WalletLocked(f"the wallet is locked: {self.why_locked}")

    async def unlock(self, passphrase: str) -> None:
        """Open the keystore and give Core the keys that it lacks. Raises WrongPassphrase, KeystoreMissing."""
        self.reopen()
        await asyncio.to_thread(self.keystore.unlock, passphrase)

    def lock(self) -> None:
        """Forget the private keys until the next unlock."""
        self.keystore.lock()
        self.why_locked = "it was locked with `dux-ctl wallet lock`"

    def status(self) -> WalletStatus:
        """Whether there is a keystore, whether it is open, and its payout key."""
        self.reopen()
        if self._keystore is None:
            there = isinstance(self._fault, KeystoreUnusable)
            why = f"{self._fault.message}. {self._fault.hint}"
            return WalletStatus(locked=True, exists=there, payout_pubkey=None, payout_address=None, why=why)
        info, locked = self.payout(), self._keystore.locked
        return WalletStatus(
            locked=locked,
            exists=True,
            payout_pubkey=info.pubkey,
            payout_address=info.address,
            why=self.why_locked if locked else None,
        )

    # --- keys ------------------------------------------------------------------------------------------------

    def info(self, pubkey: bytes) -> KeyInfo:
        """A key as replies tell it."""
        address = address_of(p2pkh_script(pubkey), self._params)
        assert address is not None  # P2PKH has one
        return KeyInfo(pubkey=pubkey.hex(), address=address)

    def payout(self) -> KeyInfo:
        """The stable payout key. Raises KeystoreMissing."""
        return self.info(self.keystore.payout_pubkey)

    def proof(self) -> Proof:
        """The payout key as a payment can prove it. Raises KeystoreMissing."""
        return Proof(p2pkh_script(self.keystore.payout_pubkey), self.payout().address)

    def payout_pair(self) -> KeyPair:
        """The payout key with its private key. Raises WalletLocked, KeystoreMissing."""
        self.check_unlocked()
        return self.keystore.key(PAYOUT_PATH)

    def guardian(self) -> KeyPair:
        """The key as a guardian of the community fund, with its private key. Raises WalletLocked, KeystoreMissing."""
        self.check_unlocked()
        return self.keystore.key(GUARDIAN_PATH)

    def arbiter(self) -> KeyInfo:
        """The key as an arbiter. Raises WalletLocked, KeystoreMissing."""
        self.check_unlocked()
        return self.info(self.keystore.key(ARBITER_PATH).pubkey)

    async def new(self, owner: int, ref: str) -> KeyInfo:
        """The key that this caller has under this name, made at the first call and imported into Core's wallet.

        Keys are numbered, so that recovery words find them again one after the other. Raises WalletLocked.
        """
        async with self._making:
            row = self._store.read(lambda c: _find(c, owner, ref))
            if row is None:
                self.check_unlocked()
                number = self._store.read(lambda c: c.execute("SELECT count(*) FROM keys").fetchone()[0])
                pubkey = self.keystore.key(caller_path(number)).pubkey
                await self._store.write(lambda c: _add(c, number, owner, ref, pubkey))
                self._owned[pubkey] = (owner, caller_path(number))
                row = self._store.read(lambda c: _find(c, owner, ref))
            assert row is not None
            if not row["imported"]:
                await self._import(row["number"])
        return self.info(bytes.fromhex(row["pubkey"]))

    async def _import(self, number: int) -> None:
        self.check_unlocked()
        secret = self.keystore.key(caller_path(number)).secret
        await self._core.import_key(wif_of(secret, self._params), LABEL, rescan=False)
        await self._store.write(lambda c: c.execute("UPDATE keys SET imported = 1 WHERE number = ?", (number,)))

    async def import_missing(self) -> None:
        """Give Core's wallet the keys that it lacks; without the passphrase that has to wait."""
        if self._keystore is None or self._keystore.locked:
            return
        try:
            if await self._core.knows(self.payout().address) != "mine":
                secret = self._keystore.key(PAYOUT_PATH).secret
                # Restored words may have earned before: only then is the chain read for them.
                rescan = self._keystore.restored
                await self._core.import_key(wif_of(secret, self._params), LABEL, rescan=rescan)
            rows = self._store.read(lambda c: c.execute("SELECT number FROM keys WHERE imported = 0").fetchall())
            for row in rows:
                await self._import(row["number"])
        except DuxError as error:
            self._log.warning("Core's wallet lacks keys of ours", extra={"error": error.name, "why": error.message})

    # --- signing ---------------------------------------------------------------------------------------------

    def _secret(self, owner: int, pubkey: bytes) -> bytes:
        self.check_unlocked()
        if pubkey == self.keystore.payout_pubkey:
            return self.keystore.key(PAYOUT_PATH).secret
        found = self._owned.get(pubkey)
        if found is None or found[0] != owner:
            raise KeyUnknown(f"{pubkey.hex()} is no key of this caller")
        return self.keystore.key(found[1]).secret

    def sign(self, owner: int, raw: str, prevouts: Sequence[PrevOut], pubkey: bytes) -> list[bytes]:
        """This key's signatures (low S, SIGHASH_ALL) of all inputs of a channel's transaction, in order.

        Asks neither Core nor the disk. Raises WalletLocked, KeyUnknown, BadTransaction, and SignRefused unless every
        input spends an escrow script with this key in it and the fee is at most 0.1 FLOP.
        """
        secret = self._secret(owner, pubkey)
        tx = parse_tx(raw)
        spent = [(prevout.txid, prevout.vout) for prevout in prevouts]
        if [outpoint_of(txin) for txin in tx.vin] != spent:
            raise SignRefused("the outputs that are named are not those that the transaction spends, in its order")
        known = self._store.read(lambda c: outputs.amounts(c, spent))
        for prevout in prevouts:
            # A signature does not cover the amounts that it spends: a false one would hide the fee.
            if known.get((prevout.txid, prevout.vout), prevout.amount) != prevout.amount:
                raise SignRefused(f"{prevout.txid}:{prevout.vout} holds another amount than the one that is named")
        fee = sum(prevout.amount for prevout in prevouts) - sum(output.value for output in tx.vout)
        if not 0 <= fee <= MAX_FEE:
            raise SignRefused(f"the transaction would pay a fee of {format_flop(fee)} FLOP")
        redeems = [bytes.fromhex(prevout.redeem) for prevout in prevouts]
        for redeem in redeems:
            terms = _terms(redeem)
            if terms is None or pubkey not in (terms.provider, terms.buyer, terms.arbiter):
                raise SignRefused("an input spends something else than a channel of this key")
        return [sign_input(tx, index, redeem, secret) for index, redeem in enumerate(redeems)]


@lru_cache(maxsize=4096)
def _terms(redeem: bytes) -> EscrowTerms | None:
    return parse_escrow(redeem)


def _find(connection: sqlite3.Connection, owner: int, ref: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM keys WHERE owner = ? AND ref = ?", (owner, ref)
    ).fetchone()
    return row


def _add(connection: sqlite3.Connection, number: int, owner: int, ref: str, pubkey: bytes) -> None:
    connection.execute(
        "INSERT INTO keys (number, owner, ref, pubkey) VALUES (?, ?, ?, ?)", (number, owner, ref, pubkey.hex())
    )
