"""Setting up a Core as a plan that can be shown first: what is there, what would change, and doing it.

Every step replaces whole files and is left out when it was done before, so that an interrupted run is just run again.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duxcommon.errors import CoreChainDiffers, CoreNotReady, MainChainNotAccepted
from duxcommon.network import NetworkDefinition, load_network

from . import corefiles, corefind, corenode
from .corecheck import Checked, Finding, Question, check
from .corecommands import Commands, as_root, commands
from .coreconf import USER, loopback, parse, ports, unsafe_included
from .corefiles import ConfFile, Target
from .corefind import KINDS
from .corenode import Node
from .corerpc import DEADLINE_S, Login
from .fresh import connect_flopd
from .invitation import ChainAccess
from .machine import Machine
from .paths import Paths
from .rpcauth import new_password
from .users import HUMANS


def _whole(value: str | Path) -> str:
    return os.path.abspath(value) if isinstance(value, Path) else value


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    chain: str | None = None
    datadir: Path | None = None
    conf: Path | None = None
    network: Path | None = None
    """A signed definition to put this node on."""
    deadline_s: float = DEADLINE_S
    """For each answer of Core."""

    @property
    def command(self) -> str:
        """What was typed to mean this Core, without what to do with it."""
        named = [("--chain", self.chain), ("--datadir", self.datadir), ("--conf", self.conf)]
        words = [word for option, value in named if value is not None for word in (option, _whole(value))]
        return as_root(shlex.join(["dux-ctl", "setup", "flopcoin", *words]))


@dataclass(frozen=True, slots=True)
class Plan:
    """A Core, how it is, and what is to be done."""

    paths: Paths
    target: Target
    conf: ConfFile
    password: str
    checked: Checked
    node: Node
    definition: NetworkDefinition | None
    """The network to move to; None when none was named or the node is on it."""
    findings: tuple[Finding, ...]
    connects: bool
    """Whether dux-flopd, which is on this chain already, gets another address or password."""
    commands: Commands
    wish: Wish
    may_change: bool
    """Whether this process has the rights to carry it out."""

    @property
    def hindrances(self) -> list[Finding]:
        """What must be right before a node may stand on this Core."""
        modern = self.checked.dialect == "modern"
        # A missing wallet is made by dux-flopd, on Cores that have several. Peers are there or will be.
        bearable = {"node", "peers", "program", *(["wallet"] if modern else [])}
        return [one for one in self.findings if one.state == "wrong" and one.name != "node"] + [
            one for one in self.findings if one.state == "missing" and one.name not in bearable
        ]


def make(paths: Paths, wish: Wish) -> Plan:
    """Look at everything and change nothing. Raises TwoCores, CoreFileUnusable, CoreChainDiffers, and what
    `load_network` raises; MainChainNotAccepted when a definition of Flopcoin's main chain is given without the risk
    being accepted.
    """
    node = corenode.look(paths)
    definition = load_network(wish.network) if wish.network is not None else None
    target = _target(wish, definition)
    if definition is not None and definition.chain == "main" and not node.accepts_main_chain:
        raise MainChainNotAccepted(f"{wish.network} is a network on Flopcoin's main chain, whose coins have value")
    root = os.geteuid() == 0 or not paths.real
    kept = corenode.kept_password(paths) if root else None
    password = kept or new_password()
    conf = corefiles.read_conf(target, password, trust=not root)
    typed = commands(target)
    others, trouble = corefiles.logins(target, conf)
    kind = target.kind
    fits = node.network is not None and node.network.chain == kind.params.name
    stands = definition or (node.network if fits else None)
    question = Question(
        kind=kind,
        ports=_ports(target, conf),
        ours=Login(USER, kept, f"the login {USER}") if kept else None,
        others=others,
        start=typed.start,
        restart=typed.restart,
        cli=typed.cli,
        setup=wish.command,
        wallet=node.wallet if fits else corenode.DEFAULT_WALLET,
        trusted=frozenset({0, os.getuid(), target.folder.uid}),
        ours_hidden=not root,
        birth_height=stands.birth_height if stands is not None else 0,
        deadline_s=wish.deadline_s,
    )
    checked = check(question, corefind.listeners)
    findings = [*_files(target, conf, wish.command), *checked.findings]
    if trouble and checked.state("login") != "ok":
        findings.append(Finding("cookie", "missing", trouble, "Run this as root, or as Core's user."))
    findings.append(corenode.finding(node, kind.params.name, checked.port, wish.command))
    connects = (
        fits
        and root
        and checked.dialect != ""
        and corenode.unconnected(
            paths, node, _access(checked.port, password), corenode.wallet_name(node, checked), _run_by(target)
        )
    )
    moves = definition is not None and (node.network is None or node.network.id != definition.id)
    return Plan(
        paths, target, conf, password, checked, node, definition if moves else None,
        tuple(findings), connects, typed, wish, root,
    )  # fmt: skip


def _target(wish: Wish, definition: NetworkDefinition | None) -> Target:
    named = wish.chain or (definition.chain if definition is not None else None)
    if definition is not None and named != definition.chain:
        raise CoreChainDiffers(f"{wish.network} is a network on chain {definition.chain}, and --chain says {named}")
    if named is not None and named not in KINDS:
        raise CoreChainDiffers(
            f"{wish.network} is a network on chain {named}, which is not Flopcoin's",
            hint="A private trial network is joined with `dux-ctl network join FILE`.",
        )
    home, uid = corefind.person()
    kind = KINDS[named or "main"]
    target = corefiles.choose(kind, datadir=wish.datadir, conf=wish.conf, home=home, uid=uid)
    if named is None and (found := corefiles.chain_started(target)) in KINDS and found != kind.section:
        target = corefiles.choose(KINDS[found], datadir=wish.datadir, conf=wish.conf, home=home, uid=uid)
    return target


def _ports(target: Target, conf: ConfFile) -> list[int]:
    # A Core of the older family does not read included files.
    read = [conf.lines, parse(conf.text)]
    found = [port for lines in read for port in ports(lines, target.kind.section, target.kind.params.rpc_port)]
    found = list(dict.fromkeys(found))
    written = target.process.options.get("rpcport", "") if target.process else ""
    return [int(written), *found] if written.isascii() and written.isdigit() else found


def _files(target: Target, conf: ConfFile, command: str) -> list[Finding]:
    found = []
    if target.process is not None:
        found.append(Finding("program", "ok", f"{target.process.program} runs as process {target.process.pid}"))
    elif target.program is not None:
        found.append(Finding("program", "ok", f"{target.program}"))
    else:
        looked = ", ".join(target.kind.program_folders)
        do = "Install Flopcoin Core (/usr/share/doc/dux-common/flopcoin.md says how to run it as a service)."
        found.append(Finding("program", "missing", f"no {target.kind.programs[0]} in {looked}", do))
    mend = f"`{command}` shows what it would change, and asks."
    if not conf.exists:
        found.append(Finding("conf", "missing", f"there is no {conf.path}", mend))
    elif not conf.changes:
        found.append(Finding("conf", "ok", f"{conf.path} is safe"))
    else:
        for change in conf.changes:
            state: Any = "missing" if change.key in ("rpcauth", "server", "regtest", "testnet") else "wrong"
            found.append(Finding("conf", state, f"{conf.path}: {change.key}: {change.why}", mend))
    found += _included(target, conf)
    if target.process is not None:
        found += _command_line(target.process.options)
    return found


def _included(target: Target, conf: ConfFile) -> list[Finding]:
    """What is to be said of files that `includeconf` names; they are only read."""
    found = []
    for one in conf.included:
        if one.trouble:
            text = (
                f"{conf.path} includes {one.path}, which was not read ({one.trouble}); a newer Core does not start then"
            )
            found.append(Finding("conf", "wrong", text, f"Mend that file, or take its includeconf out of {conf.path}."))
        unsafe = unsafe_included(list(one.lines), target.kind.section)
        for change in dict.fromkeys(unsafe):
            text = f"{one.path}, which {conf.path} includes: {change.key}: {change.why}"
            found.append(Finding("conf", "wrong", text, f"Take {change.key} out of {one.path}, then restart Core."))
        if not one.trouble and not unsafe:
            found.append(Finding("conf", "ok", f"{one.path}, which {conf.path} includes, was read and is safe"))
    return found


def _command_line(options: dict[str, str]) -> list[Finding]:
    wrong = {
        "rpcpassword": "every user of this machine can read the password there",
        **{
            key: "it opens the wallet to other machines"
            for key in ("rpcbind", "rpcallowip")
            if not loopback(options.get(key, ""))
        },
    }
    return [
        Finding("options", "wrong", f"Core was started with -{key}: {why}", f"Start it without -{key}.")
        for key, why in wrong.items()
        if key in options
    ]


def _access(port: int, password: str) -> ChainAccess:
    return ChainAccess.model_validate({"url": f"http://127.0.0.1:{port}/", "user": USER, "password": password})


def _run_by(target: Target) -> str | None:
    """Whose Core it is, where that is a person: dux-flopd takes a stranger's for what it is."""
    uid = target.folder.uid
    return corefind.user_name(uid) if uid >= HUMANS.start else None


def configure(plan: Plan) -> Path | None:
    """Write Core's configuration and keep the password; where the old file is kept, None where nothing was replaced.

    Raises CoreFileUnusable, and SetupNoSpace, SetupReadOnly or SetupStepFailed for the password's file.
    """
    # First the password: a login in Core's file that nobody has the password of would be of no use.
    with _in_words(plan.paths):
        corenode.keep_password(plan.paths, plan.password)
    return corefiles.write_conf(plan.conf) if plan.conf.changes or not plan.conf.exists else None


@contextmanager
def _in_words(paths: Paths) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        from .firstboot import in_words

        raise in_words(error, paths) from error


def connect(plan: Plan) -> bool:
    """Point dux-flopd, which is on this chain already, at this Core; whether it was restarted.

    Raises CoreNotReady, and what `configure` raises for files of the node.
    """
    _ready(plan, "dux-flopd keeps the Core that it has")
    with _in_words(plan.paths):
        access = _access(plan.checked.port, plan.password)
        connect_flopd(plan.paths, access, corenode.wallet_name(plan.node, plan.checked), _run_by(plan.target))
    return corenode.restart_flopd()


def move(plan: Plan, say: Callable[[str], None], machine: Machine | None = None) -> Path:
    """Put the node on the network of the plan; where what it had lies now. Raises CoreNotReady, and what `switch` does.

    Everything is as it was before when it raises.
    """
    assert plan.definition is not None
    _ready(plan, "the node stays on its network")
    # It knows all about starting and stopping nodes, which nobody needs who only looks.
    from .joining import switch

    return switch(
        plan.paths,
        network=plan.definition,
        chain=_access(plan.checked.port, plan.password),
        own_wallet=plan.checked.dialect == "modern",
        run_by=_run_by(plan.target),
        say=say,
        machine=machine,
    )


def _ready(plan: Plan, instead: str) -> None:
    if plan.hindrances:
        names = ", ".join(dict.fromkeys(one.name for one in plan.hindrances))
        raise CoreNotReady(f"this Core is not ready yet ({names}): {instead}")
