"""A chain, a dux-flopd on it and dux-registryds beside it, for tests of eligibility: work and bonds are made by hand.

What airdropd tells (rules, state of the fund) comes from a stand-in on a real socket, so that a test can set it.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devchain_kit import SECRETS, given_coin, spend
from flopd_kit import DevTestChain, Flopd, network_of
from support.logs import assert_clean_logs
from support.process import DaemonProcess
from support.schema import CheckedBlockingClient

from dux_flopd.keystore import PAYOUT_PATH
from duxcommon.api.airdropd import FundAt, RuleBook, RulesPage
from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import BondNote
from duxcommon.coin.script import EscrowTerms, FundingNote, op_return_script, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import Coin, closing_tx, finish_close, serialize_tx, sign_input, txid_of
from duxcommon.config import Access
from duxcommon.errors import RulesPending
from duxcommon.identity import Identity
from duxcommon.money import COIN, DUST
from duxcommon.network import Member, NetworkDefinition, dump_network
from duxcommon.parameters import Parameters
from duxcommon.rpc import Server, collect, method, wire
from duxcommon.rulebook import Book, first_rules
from tests.registryd_kit import until

PARAMETERS = Parameters(window_blocks=40, min_tax_paid=2 * DUST, epochs_needed=2, share_cap_pct=400, bond_min=COIN)
WINDOW = PARAMETERS.window_blocks
BUYER, ARBITER = b"\x31" * 32, b"\x32" * 32
FOR_EVER = 1_000_000


class StandIn:
    """What airdropd answers, as the test sets it."""

    def __init__(self, network: NetworkDefinition) -> None:
        self.book = RuleBook(network=network.id, rules=[first_rules(network)], known_to=FOR_EVER)
        self.spendable = 0
        self.shares_paid = 0
        self.bond_price = network.parameters.bond_min
        self.silent = False

    @method("param.rules", access="daemon", errors=(RulesPending,))
    async def rules(self, have: str | None = None, after: int = -1) -> RulesPage:
        """The rules."""
        if self.silent:
            raise RulesPending("airdropd is reading the chain")
        return Book(self.book).page(have, after)

    @method("fund.at", access="daemon", example={"height": 1})
    async def at(self, height: int, *, ahead: bool = False) -> FundAt:
        """The fund."""
        return FundAt(height=height, spendable=self.spendable, shares_paid=self.shares_paid, bond_price=self.bond_price)


@contextmanager
def served(path: Path, methods: object) -> Iterator[None]:
    """Answer on a socket from a thread of its own."""
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        server = Server(collect([methods]), Access(), 1_000_000)
        return await asyncio.start_unix_server(server.serve_connection, path=str(path), limit=wire.MAX_MESSAGE)

    listening = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        path.unlink(missing_ok=True)


class Registryd(DaemonProcess):
    """A dux-registryd with its own folder and directory that uses a flopd and an airdropd of the world."""

    def __init__(
        self, folder: Path, world: "World", settings: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "network.yaml").write_text(dump_network(world.network))
        for name in ("flopd.sock", "airdropd.sock"):
            if not (folder / name).exists():
                (folder / name).symlink_to(world.folder / name)
        value = {
            "listen": "127.0.0.1", "port": 0, "directory_port": 0, "heartbeat_s": 1, "name": folder.name,
            "blobs_dir": str(folder / "blobs"), "min_free_mb": 0, **(settings or {}),
        }  # fmt: skip
        super().__init__(folder, "registryd", value, env=env)

    def ask(self, rpc: str, /, **params: Any) -> dict[str, Any]:
        """A checked call."""
        client = CheckedBlockingClient(self.socket)
        try:
            return client.call(rpc, params)
        finally:
            client.close()


class World:
    """The chain, its flopd, and helpers that put work and bonds on it."""

    def __init__(self, folder: Path, parameters: Parameters) -> None:
        self.folder = folder / "flopd"
        self.folder.mkdir()
        self.chain = DevTestChain(folder, "flopcoin")
        self.flopd = Flopd(self.folder, self.chain)
        guardian = Identity.generate()
        seat = Member(node=guardian.node_id, pubkey=pubkey_of(b"\x01" * 32).hex())
        base = network_of(self.chain)
        self.network = base.model_copy(
            update={"parameters": parameters, "guardians": [seat], "arbiters": [seat], "signatures": {}}
        ).signed_by(guardian)
        (self.folder / "network.yaml").write_text(dump_network(self.network))
        self.airdropd = StandIn(self.network)
        self.fund = bytes.fromhex(first_rules(self.network).fund_script)
        self.payout = self.flopd.keystore.key(PAYOUT_PATH).secret
        """Secret of the node's own payout key."""

    @property
    def height(self) -> int:
        """The chain's tip."""
        return self.chain.core.height()

    def mine_to(self, height: int) -> None:
        """Blocks until the tip is there."""
        assert self.height <= height, (self.height, height)
        self.chain.mine(height - self.height)

    def send(self, tx: Any) -> str:
        """Hand a transaction to the chain; it is not mined."""
        txid: str = self.chain.call("sendrawtransaction", serialize_tx(tx).hex())
        return txid

    def work(
        self, provider: bytes, gross: int = COIN, *, bps: int = 500, fund: bytes | None = None, noted: bool = True
    ) -> str:
        """A deposit and, in the third block from now, the close that settles it; the close's id."""
        terms = EscrowTerms(pubkey_of(provider), pubkey_of(BUYER), pubkey_of(ARBITER), 100_000)
        note = FundingNote(terms.provider, terms.arbiter, terms.lock_height)
        coin = given_coin(self.chain.core)
        amount = coin.amount - 2 * DUST
        said = op_return_script(note.encode() if noted else b"nothing")
        deposit = spend(coin, [(p2sh_script(terms.script()), amount), (said, 0)])
        self.send(deposit)
        self.chain.mine(1)
        close = closing_tx(terms, [Coin(txid_of(deposit), 0, amount)], gross, bps, fund or self.fund)
        signed = [[sign_input(close.tx, 0, close.redeem, secret)] for secret in (BUYER, provider)]
        txid = self.send(finish_close(close, *signed))
        self.chain.mine(1)
        return txid

    def bond(self, owner: bytes, lock_height: int, amount: int = COIN, *, paid: int = DUST) -> str:
        """A bond for a key, made by a stranger (a gift), in the next block but one."""
        coin = given_coin(self.chain.core)
        pubkey = pubkey_of(owner)
        outputs = [
            (bond_output(pubkey, lock_height), amount),
            (op_return_script(BondNote(pubkey, lock_height).encode()), 0),
            (p2pkh_script(pubkey_of(SECRETS[1])), coin.amount - amount - paid - 2 * DUST),
        ]
        if paid:
            outputs.append((self.fund, paid))
        txid = self.send(spend(coin, outputs))
        self.chain.mine(1)
        return txid

    def caught_up(self, registryd: Registryd) -> int:
        """The tip, once a registryd has read up to it."""
        self.flopd.at_tip()
        height = self.height

        def reached() -> bool:
            try:
                registryd.ask("node.eligible", height=height, limit=0)
            except Exception as error:
                if type(error).__name__ in ("RulesPending", "DaemonDown"):
                    return False
                raise
            return True

        until(reached, f"registryd to read block {height}")
        return height


@contextmanager
def world(folder: Path, parameters: Parameters = PARAMETERS) -> Iterator[World]:
    """A running world; its logs are clean at the end."""
    made = World(folder, parameters)
    try:
        made.chain.mine(20)
        with served(made.folder / "airdropd.sock", made.airdropd), made.flopd.start():
            yield made
    finally:
        made.chain.close()
    assert_clean_logs(folder)
