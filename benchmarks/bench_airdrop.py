"""A round of the community fund for 1,000 to 100,000 payout keys: build, build again, sign by 3 of 5 guardians.

Build: manifest and all unsigned transactions from the plan and the keys. Sign: each of three guardians signs the payout
and every batch, the leader checks all signatures and merges them, and the script engine runs over one transaction.
"""

import hashlib
import time
from collections.abc import Sequence

from dux_airdropd.manifest import Manifest, Unsigned, batch_transaction, digest_of, transaction, write
from dux_airdropd.plan import FundCoin, Plan, Snapshot, decide
from duxcommon.api.airdropd import Rules
from duxcommon.coin import multisig
from duxcommon.coin.script import multisig_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import serialize_tx, txid_of
from duxcommon.money import COIN, DUST
from duxcommon.network import Seat
from duxcommon.parameters import Parameters

NETWORK = "00" * 32
SIZES = (1_000, 10_000, 100_000)
SECRETS = {pubkey_of(secret): secret for secret in (hashlib.sha256(b"bench %d" % n).digest() for n in range(5))}
KEYS = sorted(SECRETS)
REDEEM = multisig_script(3, KEYS)
SCRIPT = p2sh_script(REDEEM)


def payout(count: int) -> Plan:
    """A round of 69 inputs and the anchor that gives each of `count` keys about 0.02 FLOP."""
    rules = Rules(
        version=0, from_height=0, proposal=None, parameters=Parameters(), guardians=[Seat(node=None, pubkey="02" * 33)],
        guardians_m=3, arbiters=[], fund_script=SCRIPT.hex(),
    )  # fmt: skip
    amount = max(100 * COIN, 2 * DUST * count) // 69 + COIN
    coins = [FundCoin(hashlib.sha256(b"%d" % n).hexdigest(), 0, amount, SCRIPT, 100) for n in range(69)]
    anchor = FundCoin("ff" * 32, 1, DUST, SCRIPT, 100)
    plan = decide(Snapshot(1000, 1, anchor, coins, (), rules, {SCRIPT: REDEEM}, ()), count)
    assert isinstance(plan, Plan)
    return plan


def build(plan: Plan, keys: Sequence[bytes]) -> tuple[Manifest, list[Unsigned]]:
    """All that the guardians sign in a round."""
    manifest = write(NETWORK, plan, digest_of(keys), REDEEM)
    first = transaction(manifest, keys, {SCRIPT: REDEEM})
    txid = txid_of(first.tx)
    waiting = [FundCoin(txid, 2 + n, amount, SCRIPT, 1100) for n, amount in enumerate(manifest.batches)]
    return manifest, [first, *(batch_transaction(manifest, keys, n, each) for n, each in enumerate(waiting))]


def sign(made: Sequence[Unsigned]) -> int:
    """Sign and merge all; the bytes that go onto the chain."""
    size = 0
    for one in made:
        by_key = {key: multisig.sign(one.tx, one.redeems, key, SECRETS[key]) for key in KEYS[:3]}
        assert not multisig.faults(one.tx, one.redeems, by_key)
        size += len(serialize_tx(multisig.merge(one.tx, one.redeems, by_key)))
    last = made[-1]
    by_key = {key: multisig.sign(last.tx, last.redeems, key, SECRETS[key]) for key in KEYS[:3]}
    signed = multisig.merge(last.tx, last.redeems, by_key)
    multisig.verify(signed, last.redeems, [coin.amount for coin in last.inputs])
    return size


def main() -> None:
    """Print a line for each number of keys."""
    print(f"{'keys':>8} {'build s':>9} {'again s':>9} {'sign s':>9} {'transactions':>13} {'bytes':>12}")
    for count in SIZES:
        keys = sorted(b"\x02" + hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(count))
        plan = payout(count)
        took = []
        for _ in range(2):
            begin = time.perf_counter()
            manifest, made = build(plan, keys)
            took.append(time.perf_counter() - begin)
        assert manifest.digest() == build(plan, keys)[0].digest()
        begin = time.perf_counter()
        size = sign(made)
        signing = time.perf_counter() - begin
        print(f"{count:>8,} {took[0]:>9.2f} {took[1]:>9.2f} {signing:>9.2f} {len(made):>13,} {size:>12,}", flush=True)
