"""Users of the chain beside its owner: who they are, which calls they may make, how much the faucet gives them."""

import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Self

from dux_setup import rpcauth
from duxcommon.errors import ConfigError
from duxcommon.money import format_flop

from .wallets import WALLET_NAME

ALLOWED = frozenset(
    {
        "faucet",
        "fundrawtransaction",
        "getbestblockhash",
        "getblock",
        "getblockchaininfo",
        "getblockhash",
        "getblockheader",
        "getnetworkinfo",
        "getnewaddress",
        "getrawtransaction",
        "gettransaction",
        "importaddress",
        "importprivkey",
        "listsinceblock",
        "listtransactions",
        "listunspent",
        "lockunspent",
        "sendrawtransaction",
        "signrawtransaction",
        "validateaddress",
    }
)
"""What dux-flopd calls, what `dux-ctl demo` reads of the chain, and the faucet."""

HOUR_S = 3600.0
RESCANS_PER_HOUR = 20
"""Each reads the whole chain while nobody else is served."""
KEPT_PER_HOUR = 4_000_000
"""Bytes of wallets, addresses and labels, about ten thousand of them: the chain keeps all in memory and for good."""
MAX_USERS = 1000
MAX_FILE = 200_000


class Refused(Exception):
    """A user asked for more than its share; the text says of what."""


class _LastHour:
    """What a user took within the last hour."""

    def __init__(self) -> None:
        self._taken: deque[tuple[float, int]] = deque()

    def total(self) -> int:
        before = time.monotonic() - HOUR_S
        while self._taken and self._taken[0][0] < before:
            self._taken.popleft()
        return sum(amount for _, amount in self._taken)

    def take(self, amount: int) -> None:
        self._taken.append((time.monotonic(), amount))


class Users:
    """The lines of one file, and what their owners took since the start."""

    def __init__(self, entries: dict[str, str], *, per_call: int = 0, per_hour: int = 0) -> None:
        self._entries = entries
        self.per_call = per_call
        self.per_hour = per_hour
        self.gifts: defaultdict[str, _LastHour] = defaultdict(_LastHour)
        self.rescans: defaultdict[str, _LastHour] = defaultdict(_LastHour)
        self.kept: defaultdict[str, _LastHour] = defaultdict(_LastHour)

    @classmethod
    def load(cls, path: Path, *, per_call: int, per_hour: int) -> Self:
        """Read `path`: empty lines and such that begin with # say nothing. Raises ConfigError with the line."""
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE + 1).decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"can't read the chain's users {path}: {error}",
                hint="`dux-ctl network host` and the first boot of a node write it.",
            ) from error
        if len(text) > MAX_FILE:
            raise ConfigError(f"{path} is larger than {MAX_FILE} bytes")
        entries: dict[str, str] = {}
        for number, line in enumerate(map(str.strip, text.split("\n")), 1):
            if not line or line.startswith("#"):
                continue
            try:
                user, _, _ = rpcauth.parse(line)
            except ValueError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from None
            if user in entries:
                raise ConfigError(f"{path}, line {number}: user {user!r} stands twice")
            entries[user] = line
        if len(entries) > MAX_USERS:
            raise ConfigError(f"{path} holds more than {MAX_USERS} users")
        return cls(entries, per_call=per_call, per_hour=per_hour)

    def after(self, old: "Users") -> None:
        """Take over what was counted before a reload."""
        self.gifts, self.rescans, self.kept = old.gifts, old.rescans, old.kept

    def __len__(self) -> int:
        return len(self._entries)

    def login(self, given: bytes) -> "Guest | None":
        """Who `name:password` lets in; None is nobody."""
        name, _, password = given.decode("utf-8", "replace").partition(":")
        entry = self._entries.get(name)
        known = entry is not None and rpcauth.accepts(entry, name, password)
        return Guest(name, self) if known else None


class Guest:
    """One user who logged in."""

    def __init__(self, name: str, users: Users) -> None:
        self.name = name
        self._users = users

    def may_call(self, method: str) -> bool:
        """Whether users may make this call at all."""
        return method in ALLOWED

    def may_use(self, wallet: str | None) -> bool:
        """Whether a path is a wallet's: 32 hex digits that nobody can guess stand for the right to use it."""
        return wallet is not None and WALLET_NAME.fullmatch(wallet) is not None

    def check_gift(self, amount: int) -> None:
        """Raises Refused when the faucet may not give that much now."""
        users = self._users
        if amount > users.per_call:
            raise Refused(f"the faucet gives a user at most {format_flop(users.per_call)} FLOP at a time")
        if users.gifts[self.name].total() + amount > users.per_hour:
            raise Refused(
                f"the faucet gives a user at most {format_flop(users.per_hour)} FLOP an hour; come back later"
            )

    def gave(self, amount: int) -> None:
        """Count what the faucet gave."""
        self._users.gifts[self.name].take(amount)

    def rescan(self) -> None:
        """Count a reading of the whole chain; raises Refused for one too many."""
        taken = self._users.rescans[self.name]
        if taken.total() >= RESCANS_PER_HOUR:
            raise Refused(f"the chain is searched for a user's keys at most {RESCANS_PER_HOUR} times an hour")
        taken.take(1)

    def room(self) -> int:
        """Bytes that the user's calls may still add to the wallets' books within this hour."""
        return max(0, KEPT_PER_HOUR - self._users.kept[self.name].total())

    def keep(self, size: int) -> None:
        """Count what a call added to the books."""
        if size:
            self._users.kept[self.name].take(size)
