"""dux-flopd put together."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duxcommon.api.flopd import ChainStatus, NetworkLabel, TxIntent
from duxcommon.coin.params import CHAINS, ChainParams
from duxcommon.config import AbsolutePath
from duxcommon.daemon import Daemon
from duxcommon.db import Store
from duxcommon.errors import (
    ConfigError,
    DuxError,
    KeystoreDamaged,
    MainChainRefused,
    WrongPassphrase,
)
from duxcommon.network import NetworkDefinition

from .bonds import Releases
from .core import Core
from .cosign import Guardian
from .fact_methods import FactMethods
from .faucet import Faucet
from .intents import Intent
from .keyring import Keyring
from .keystore import read_passphrase
from .methods import ChainMethods, KeyMethods, TxMethods, WalletMethods
from .schema import MIGRATIONS
from .sending import Transactions
from .settings import FlopdSettings
from .terminal import keystore_path
from .wallet import Wallet
from .watch import Seen, Watcher

CREDENTIAL = "wallet"
"""Name of systemd's credential that holds the passphrase."""
SEALED = "/etc/credstore.encrypted/dux-flopd.wallet"
"""Where the unit takes it from."""
FIRST_LOOK_S = 20.0
"""So long the start waits for a Core that is there but slow, as when it makes a new wallet."""


def chain_of(network: NetworkDefinition, settings: FlopdSettings) -> ChainParams:
    """The network's chain. Raises ConfigError when its name and genesis disagree, and MainChainRefused."""
    params = CHAINS[network.chain]
    if network.genesis != params.genesis:
        raise ConfigError(
            f"{settings.network}: genesis {network.genesis} is not that of chain {network.chain!r} ({params.genesis})"
        )
    if not params.worthless and network.birth_height < params.cltv_height:
        raise ConfigError(
            f"{settings.network}: birth_height {network.birth_height} is before block {params.cltv_height}, from which "
            "the chain enforces lock heights: bonds and deposits could be spent at once"
        )
    if not params.worthless and not settings.accept_main_chain_risk:
        raise MainChainRefused(
            "this network uses Flopcoin's main chain, where coins have value. Dux OS does not yet have its backup of "
            "keys and channels nor its full hardening against crashes, so that coins could be lost for good"
        )
    return params


class FlopDaemon(Daemon):
    """Keep the node's coins, follow the chain, and build, sign and send transactions."""

    name = "flopd"
    settings_model = FlopdSettings
    settings: FlopdSettings

    async def start(self) -> None:
        self.params = chain_of(self.network, self.settings)
        self.label = NetworkLabel(name=self.network.name, chain=self.network.chain, worthless=self.network.worthless)
        self.store = Store(self.settings.state_dir / "flopd.sqlite", MIGRATIONS)
        self.core = Core(self.settings.core, self.network.genesis)
        self.keyring = Keyring(keystore_path(self.settings), self.store, self.core, self.params)
        self.guardian = Guardian(self.keyring, self.store, self.network.id, self.settings.guardian_user)
        self.watcher = Watcher(self.core, self.store, self.params, self.settings.poll_s, self.network.birth_height)
        self.transactions = Transactions(self.core, self.store, self.watcher, self._ready)
        self.releases = Releases(self.keyring, self.store, self.watcher, self.transactions)
        self.wallet = Wallet(self.core, self.store, self.params, self.label, self.transactions)
        self.faucet = Faucet(self.core, self.store, self.watcher, self.params, self.label)
        self.watcher.on_connect = [
            self.keyring.import_missing,
            self.watcher.import_scripts,
            self.transactions.relock,
        ]
        self.watcher.on_block = [self.transactions.resend]
        self.watcher.on_freed = self.transactions.unlock
        await self._unlock_at_start()
        self.spawn(self.watcher.run(), "follow the chain")
        # A Core that is away is no reason not to start: every call says so until it is back.
        await self.watcher.first_round(FIRST_LOOK_S)

    async def stop(self) -> None:
        if hasattr(self, "core"):
            await self.core.close()
        if hasattr(self, "store"):
            await self.store.close()

    async def reload(self, settings: Any) -> None:
        if settings.core != self.settings.core or keystore_path(settings) != keystore_path(self.settings):
            raise ConfigError("`core` and `keystore` can't change while the daemon runs", hint="Restart it instead.")
        chain_of(self.network, settings)
        self.watcher.poll_s = settings.poll_s
        self.guardian.configure(settings.guardian_user)

    def methods(self) -> Iterable[object]:
        return [WalletMethods(self), ChainMethods(self), FactMethods(self), KeyMethods(self), TxMethods(self)]

    def notes(self) -> list[str]:
        found = []
        if self.watcher.problem is not None:
            found.append(self.watcher.problem.message)
        elif self.watcher.seen is not None and self.watcher.seen.syncing:
            found.append(f"Core is still catching up (block {self.watcher.seen.tip.height})")
        elif (reading := self.watcher.reading()) is not None:
            found.append(f"reading what old blocks say of work, bonds and votes (block {reading[0]} of {reading[1]})")
        status = self.keyring.status()
        if status.why is not None:
            found.append(f"the wallet is locked: {status.why}" if self.keyring.fault is None else status.why)
        return found

    def _ready(self) -> None:
        self.keyring.check_unlocked()
        self.watcher.ready()

    # --- the passphrase ---------------------------------------------------------------------------------------

    async def _unlock_at_start(self) -> None:
        """With the configured file, else with systemd's credential; without either it stays locked, and says why.

        Whatever is wrong with keystore or passphrase, the daemon runs: the chain is followed, what is spent is refused,
        and a restart would help nobody.
        """
        source, passphrase = self._passphrase_path(), None
        try:
            if source is not None:
                passphrase = read_passphrase(source, private=source == self.settings.passphrase_file)
        except DuxError as error:
            self.keyring.why_locked = f"{error.message}. {error.hint}"
        if passphrase is not None:
            self.keyring.expect(f"{source} holds the passphrase of one")
        if (fault := self.keyring.fault) is not None:
            self.log.warning(f"the wallet can't be used: {fault.message}", extra={"hint": fault.hint})
            return
        if source is None:
            self.keyring.why_locked = (
                f"neither `passphrase_file` in flopd.yaml nor systemd's credential {CREDENTIAL!r} ({SEALED}) gave the "
                "passphrase. Type it: `dux-ctl wallet unlock`"
            )
        elif passphrase is not None:
            try:
                await self.keyring.unlock(passphrase)
            except WrongPassphrase:
                self.keyring.why_locked = (
                    f"the passphrase in {source} does not open {keystore_path(self.settings)}: one of the two belongs "
                    "to another wallet. Put the right file back, or type the passphrase: `dux-ctl wallet unlock`"
                )
            except KeystoreDamaged as error:
                self.keyring.why_locked = f"{error.message}. {error.hint}"
        if self.keyring.keystore.locked:
            self.log.warning("the wallet stays locked", extra={"why": self.keyring.why_locked})

    def _passphrase_path(self) -> Path | None:
        path: AbsolutePath | None = self.settings.passphrase_file
        if path is not None:
            return path
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        # systemd guards the folder; the file's own mode may show an access list as group rights.
        return Path(folder) / CREDENTIAL if folder and (Path(folder) / CREDENTIAL).exists() else None

    async def unlock(self, passphrase: str) -> None:
        """Open the keystore and give Core the keys that it lacks."""
        await self.keyring.unlock(passphrase)
        if self.watcher.problem is None:
            await self.keyring.import_missing()

    # --- replies ----------------------------------------------------------------------------------------------

    def chain_status(self, seen: Seen) -> ChainStatus:
        """The wire form of what is known of the chain."""
        return ChainStatus(
            network=self.label,
            genesis=self.network.genesis,
            height=seen.tip.height,
            headers=max(seen.headers, seen.tip.height),
            best=seen.tip.hash,
            syncing=seen.syncing,
            peers=seen.peers,
            dialect=seen.dialect,
            version=seen.version,
        )

    def intent_reply(self, intent: Intent) -> TxIntent:
        """The wire form of an intent."""
        decided = intent.state == "confirmed" and intent.height is not None
        tip = self.watcher.tip
        depth = tip.height - intent.height + 1 if decided and tip and intent.height is not None else 0
        return TxIntent(
            id=intent.id,
            state=intent.state,
            txid=intent.txid,
            hex=intent.hex,
            fee=intent.fee,
            purpose=intent.purpose,
            ref=intent.ref,
            confirmations=max(0, depth),
            height=intent.height,
        )
