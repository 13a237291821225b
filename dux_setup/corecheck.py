"""Asks a Core by RPC whether a node can stand on it, and says of each thing: ok, missing or wrong, and what to do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from duxcommon.coin.params import CHAINS_BY_GENESIS
from duxcommon.money import COIN, format_flop

from .corefind import Kind, Listener, user_name
from .corerpc import DEADLINE_S, WARMUP, CoreClient, CoreTrouble, Login, LoginRefused, NoCore, NotListening, Refused

METHOD_NOT_FOUND, WALLET_MISSING = -32601, -18
STALE_S = 6 * 3600
"""As dux-flopd sees it: a chain of value whose newest blocks are older than this is not read to its end."""
MAX_RELAY_FEE = 1_000_000
"""Koinu per 1000 bytes; transactions of a node pay a little more than this."""

State = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    text: str
    do: str = ""
    """What to do now; empty where it is ok."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Question:
    """What to look at."""

    kind: Kind
    ports: Sequence[int]
    """The first on which anything listens is asked."""
    ours: Login | None
    """dux-flopd's own login, where it can be read."""
    others: Sequence[Login]
    """Logins to go on with where ours is not known to Core yet."""
    start: str
    """The command that starts this Core."""
    restart: str
    """The one that lets it read its configuration again."""
    cli: str
    """Core's client, to be followed by a method."""
    setup: str
    """The command that sets this Core up."""
    wallet: str
    """Name of the wallet, on Cores that have several."""
    trusted: frozenset[int] | None
    """The users whose program gets a password; None for anyone's."""
    ours_hidden: bool = False
    """Whether only root could read our login."""
    birth_height: int = 0
    """Of the network that is to stand on it."""
    deadline_s: float = DEADLINE_S


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found out."""

    findings: tuple[Finding, ...]
    port: int
    dialect: Literal["flopcoin", "modern", ""] = ""
    """Empty where nothing answered."""

    def state(self, name: str) -> str:
        """Of the finding with this name; empty where that was not reached."""
        return next((finding.state for finding in self.findings if finding.name == name), "")


def check(question: Question, listeners: Callable[[int], list[Listener]]) -> Checked:
    """Look at everything that can be reached; what depends on a failed step is left out."""
    findings: list[Finding] = []
    port = next((port for port in question.ports if listeners(port)), question.ports[0])
    refused = _listening(question, listeners(port), port, findings)
    if refused:
        return Checked(tuple(findings), port)
    client = _login(question, port, findings)
    if client is None:
        return Checked(tuple(findings), port)
    dialect: Literal["flopcoin", "modern", ""] = ""
    try:
        if _chain(question, client, findings):
            dialect = _version(client, findings)
            for look in (_sync, _peers, _wallet, _fees):
                look(question, client, dialect, findings)
    except CoreTrouble as trouble:
        findings.append(Finding("answer", "wrong", str(trouble), "Look at Core's debug.log, then check again."))
    except (KeyError, TypeError, ValueError, ArithmeticError):
        findings.append(
            Finding("answer", "wrong", "an answer has another form than Core's", "Is it a Core of another coin?")
        )
    return Checked(tuple(findings), port, dialect)


def _listening(question: Question, found: list[Listener], port: int, findings: list[Finding]) -> bool:
    """Whether the port is taken by somebody who must not get a password."""
    open_to = sorted({one.address for one in found if not one.loopback})
    if open_to:
        do = f"Take rpcbind and rpcallowip out of what starts Core, then: {question.restart}"
        findings.append(Finding("listen", "wrong", f"port {port} is open to other machines ({open_to[0]})", do))
    elif found:
        findings.append(Finding("listen", "ok", f"listens on port {port}, on this machine alone"))
    strangers = sorted({one.uid for one in found} - (question.trusted or frozenset()))
    if question.trusted is None or not strangers:
        return False
    text = f"port {port} belongs to a program of user {user_name(strangers[0])}, who is not Core's; it got no password"
    findings.append(Finding("login", "wrong", text, "Stop that program, or name that user's Core with --datadir."))
    return True


def _login(question: Question, port: int, findings: list[Finding]) -> CoreClient | None:
    logins = [*([question.ours] if question.ours else []), *question.others]
    # Without any login a Core still says that it is one: it refuses.
    for login in logins or [Login("nobody", "x", "nobody")]:
        client = CoreClient(port, login, deadline_s=question.deadline_s)
        try:
            client.call("getblockhash", 0)
        except LoginRefused:
            continue
        except NotListening as trouble:
            findings.append(Finding("running", "missing", str(trouble), f"Start Core: {question.start}"))
            return None
        except NoCore as trouble:
            do = f"Another program has the port: find it with `ss -ltnp sport = :{port}` and stop it, or set rpcport."
            findings.append(Finding("running", "wrong", str(trouble), do))
            return None
        except Refused as refused:
            if refused.code == WARMUP:
                findings.append(Finding("running", "missing", f"Core is starting: {refused.reason}", "Check again."))
                return None
        _logged_in(question, login, findings)
        return client
    if not logins:
        text, do = "Core runs, but no login for it can be read by you", "Run this as root, or as Core's user."
    else:
        text, do = (
            f"Core refuses {' and '.join(one.name for one in logins)}",
            f"Let it read its file: {question.restart}",
        )
    findings.append(Finding("login", "missing", text, do))
    return None


def _logged_in(question: Question, login: Login, findings: list[Finding]) -> None:
    if login is question.ours:
        findings.append(Finding("login", "ok", f"Core takes the login {login.user}"))
    elif question.ours_hidden:
        text = f"Core takes {login.name}; only root can try the login of dux-flopd"
        findings.append(Finding("login", "ok", text))
    elif question.ours is None:
        findings.append(Finding("login", "missing", f"there is no login for dux-flopd; asked with {login.name}",
                                f"Make it: {question.setup}"))  # fmt: skip
    else:
        text = f"Core does not know the login {question.ours.user} yet; asked with {login.name}"
        findings.append(Finding("login", "missing", text, f"Let it read its file: {question.restart}"))


def _chain(question: Question, client: CoreClient, findings: list[Finding]) -> bool:
    genesis = str(client.call("getblockhash", 0))[:64]
    wanted = question.kind.params
    if genesis == wanted.genesis:
        findings.append(Finding("chain", "ok", f"{wanted.name} (genesis {genesis[:12]}…)"))
        return True
    known = CHAINS_BY_GENESIS.get(genesis)
    name = known.name if known else f"an unknown chain (genesis {_clean(genesis[:12])}…)"
    do = f"Start Core for {wanted.name}, or name its chain with --chain."
    findings.append(Finding("chain", "wrong", f"Core is on {name}, and {wanted.name} is needed", do))
    return False


def _version(client: CoreClient, findings: list[Finding]) -> Literal["flopcoin", "modern"]:
    info = client.call("getnetworkinfo")
    try:
        client.call("signrawtransactionwithwallet")
        old = False
    except Refused as refused:
        old = refused.code == METHOD_NOT_FOUND
    family = "like Flopcoin 2.0" if old else "like newer Cores"
    findings.append(Finding("version", "ok", f"{_clean(str(info['subversion']))}, speaks {family}"))
    return "flopcoin" if old else "modern"


def _sync(question: Question, client: CoreClient, dialect: str, findings: list[Finding]) -> None:
    info = client.call("getblockchaininfo")
    blocks, headers = int(info["blocks"]), int(info["headers"])
    age = time.time() - int(info["mediantime"])
    # A trial chain may stand still for days.
    stale = not question.kind.params.worthless and age > STALE_S
    need = max(headers - 1, question.birth_height)
    if blocks < need or stale:
        newest = f", the newest {age / 3600:.0f} hours old" if stale else ""
        text = f"still reading the chain: block {blocks} of {max(headers, question.birth_height)}{newest}"
        findings.append(Finding("sync", "missing", text, "Wait and check again; Core needs other nodes for it."))
    else:
        findings.append(Finding("sync", "ok", f"block {blocks} of {headers}"))
    lost = int(info.get("pruneheight") or 0) if info.get("pruned") else 0
    if info.get("pruned") and (lost > question.birth_height or not question.birth_height):
        text = f"Core throws old blocks away (from block {lost} on they are there)"
        do = (
            f"dux-flopd reads every block of its network: take prune= out of the configuration, then {question.restart}"
        )
        findings.append(Finding("blocks", "wrong", text, do))


def _peers(question: Question, client: CoreClient, dialect: str, findings: list[Finding]) -> None:
    count = int(client.call("getnetworkinfo")["connections"])
    if count or question.kind.section == "regtest":
        findings.append(Finding("peers", "ok", f"connected with {count} other nodes"))
    else:
        do = "Is this machine online? Core may need minutes after its start, or addnode= in its configuration."
        findings.append(Finding("peers", "missing", "connected with no other node", do))


def _wallet(question: Question, client: CoreClient, dialect: str, findings: list[Finding]) -> None:
    name = question.wallet
    path = "/" if dialect == "flopcoin" else f"/wallet/{name}"
    try:
        info = client.call("getwalletinfo", path=path)
    except Refused as refused:
        if refused.code == METHOD_NOT_FOUND:
            do = f"Take disablewallet=1 out of the configuration, then {question.restart}"
            findings.append(Finding("wallet", "wrong", "Core runs without a wallet", do))
        elif refused.code == WALLET_MISSING:
            text = f"Core has loaded no wallet {name!r}"
            findings.append(Finding("wallet", "missing", text, "dux-flopd makes it when it connects."))
        else:
            raise
        return
    until = info.get("unlocked_until")
    if until is not None and int(until) <= time.time():
        do = f"Unlock it for as long as the node is to work: {question.cli} walletpassphrase PASSPHRASE SECONDS"
        findings.append(Finding("wallet", "wrong", "Core's wallet is encrypted and locked: nothing can be paid", do))
    elif info.get("descriptors") or info.get("private_keys_enabled") is False:
        do = "Name another wallet at the end of core.url; dux-flopd makes one that fits."
        findings.append(Finding("wallet", "wrong", f"wallet {name!r} can't take single keys", do))
    else:
        findings.append(Finding("wallet", "ok", "there, and can sign"))


def _fees(question: Question, client: CoreClient, dialect: str, findings: list[Finding]) -> None:
    fee = int(Decimal(client.call("getnetworkinfo")["relayfee"]) * COIN)
    if fee > MAX_RELAY_FEE:
        text = f"Core passes on nothing that pays less than {format_flop(fee)} FLOP/kB; this node pays little over 0.01"
        findings.append(Finding("fees", "wrong", text, "Take minrelaytxfee= out of the configuration."))
    else:
        findings.append(Finding("fees", "ok", f"passes on what pays {format_flop(fee)} FLOP/kB"))


def _clean(text: str) -> str:
    """What a stranger's program says, fit for a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:80])
