"""Pure: reads Core's configuration, says what is unsafe in it, and makes a safe one of it that keeps foreign lines.

Two families read this file: Flopcoin Core 2.0 (of the Bitcoin 0.14 family), which knows no sections and takes a line
below `[regtest]` for an unknown key, and modern Cores, which apply `rpcbind` and `rpcport` outside a section to the
main chain only. So everything that this module writes stands before the first section, where both read it, and
listening on loopback alone is what both do without any `rpcbind` and `rpcallowip`.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from .rpcauth import accepts, rpcauth

USER = "dux"
"""Whom dux-flopd logs in as."""

_HEADER = re.compile(r"\[([^\]]*)\]")
_SECTIONS = ("main", "test", "regtest", "signet")
_SECRET = re.compile(r"(rpcpassword\s*=|rpcauth\s*=\s*[^:\s]*:)[^\n]*")
_MARK = "# dux-ctl setup flopcoin:"


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it stands in the file, and what Core reads in it."""

    raw: str
    """With its line end."""
    section: str = ""
    """Of modern Cores; empty before the first."""
    key: str = ""
    """Empty for comments, section headers, and what is no `key=value`."""
    value: str = ""
    is_header: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it should be, and that `secured` changes."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Secured:
    """A safe configuration, and what was changed for it; nothing when it was safe already."""

    text: str
    changes: tuple[Change, ...]


def parse(text: str) -> list[Line]:
    """The lines of a configuration; joined, their `raw` parts are the text again, whatever it was."""
    lines: list[Line] = []
    section = ""
    for raw in re.findall(r"[^\n]*\n|[^\n]+", text):
        content = raw.partition("#")[0].strip()
        header = _HEADER.fullmatch(content)
        key, equals, value = (part.strip() for part in content.partition("="))
        if header is not None:
            section = header[1]
            lines.append(Line(raw, section, is_header=True))
        elif equals and key:
            lines.append(_setting(raw, section, key, value))
        else:
            lines.append(Line(raw, section))
    return lines


def _setting(raw: str, section: str, key: str, value: str) -> Line:
    prefix, dot, rest = key.partition(".")
    if dot and not section and prefix in _SECTIONS:
        section, key = prefix, rest
    if key.startswith("no") and key[2:]:
        # Core reads `noserver=1` as `server=0`.
        key, value = key[2:], "0" if is_on(value) else "1"
    return Line(raw, section, key, value)


def is_on(value: str) -> bool:
    """What Core makes of the value of a switch: empty is on, text that begins with no number is off."""
    if not value:
        return True
    number = re.match(r"[+-]?\d+", value)
    return number is not None and int(number[0]) != 0


def first(lines: list[Line], key: str, section: str = "") -> str | None:
    """The value that counts in a section, or before all sections: Core takes the first."""
    return next((line.value for line in lines if line.key == key and line.section == section), None)


def includes(lines: list[Line], section: str) -> list[str]:
    """What `includeconf` of the main configuration names for a chain (main, test or regtest), in Core's order.

    Those of the section come first; `noincludeconf=1` takes back what stands before it in the same place. Cores of the
    0.14 family know no `includeconf`.
    """
    found: list[str] = []
    for part in (section, ""):
        named: list[str] = []
        for line in lines:
            if line.key != "includeconf" or line.section != part:
                continue
            if not line.raw.partition("=")[0].strip().rpartition(".")[2].startswith("no"):
                named.append(line.value)
            elif not is_on(line.value):
                named.clear()
        found += named
    return found


def unsafe_included(lines: list[Line], section: str) -> list[Change]:
    """What an included file sets that `secured` would turn off if it stood in the main one."""
    why = {
        "rpcpassword": "a password stands in the clear",
        "rpcbind": "it opens the wallet to other machines",
        "rpcallowip": "it opens the wallet to other machines",
    }
    return [
        Change(line.key, why[line.key])
        for line in lines
        if line.section in ("", section) and line.key in why and (line.key == "rpcpassword" or not loopback(line.value))
    ]


def chain_of(lines: list[Line]) -> str:
    """The chain that a configuration starts: main, test, regtest, or whatever else `chain=` names."""
    for key, chain in (("regtest", "regtest"), ("testnet", "test")):
        value = first(lines, key)
        if value is not None and is_on(value):
            return chain
    return first(lines, "chain") or "main"


def ports(lines: list[Line], section: str, default: int) -> list[int]:
    """Where Core may be listening for RPC, the likeliest first; two where the families read the file differently."""
    written = [first(lines, "rpcport", section), first(lines, "rpcport")]
    found = [
        int(value) for value in written if value and value.isascii() and value.isdigit() and 0 < int(value) < 2**16
    ]
    if not written[1]:
        found.append(default)
    return list(dict.fromkeys(found)) or [default]


def login_in(lines: list[Line], section: str) -> tuple[str, str] | None:
    """`rpcuser` and `rpcpassword`, the old way to log in, where both stand in the file."""
    for part in ("", section):
        user, password = first(lines, "rpcuser", part), first(lines, "rpcpassword", part)
        if user and password:
            return user, password
    return None


def secured(text: str, section: str, password: str, *, trust: bool = False) -> Secured:
    """`text` with everything unsafe for `section` (main, test, regtest) off, and a login of USER with `password`.

    With `trust`, a login of USER that is there counts, whatever its password. A configuration that sets nothing yet
    gets the line that starts the chain. Doing it twice changes nothing more. The result holds no password.
    """
    lines = parse(text)
    empty = not any(line.key for line in lines)
    changes: list[Change] = []
    added: list[str] = []

    def off(wanted: Callable[[Line], bool], why: str, *, hide: bool = False) -> None:
        for index, line in enumerate(lines):
            if line.key and line.section in ("", section) and wanted(line):
                changes.append(Change(line.key, why))
                end = line.raw[len(line.raw.rstrip("\r\n")) :]
                shown = line.key if hide else line.raw.strip()
                lines[index] = Line(f"{_MARK} off, {why}: {shown}{end}", line.section)

    if empty and section != "main":
        line = "testnet=1" if section == "test" else "regtest=1"
        changes.append(Change(line.partition("=")[0], f"this Core is for the chain {section}"))
        added.append(line)
    if not (trust and any(line.key == "rpcauth" and line.value.startswith(f"{USER}:") for line in lines)):
        _our_login(lines, section, password, changes, added)
    _old_login(lines, section, changes, added)
    off(lambda line: line.key == "rpcpassword", "the password stood in the clear", hide=True)
    off(lambda line: line.key == "rpcuser", "rpcauth names the user")
    off(lambda line: line.key == "rpcbind" and not loopback(line.value), "it opens the wallet to other machines")
    bound = any(line.key == "rpcbind" and not line.section for line in lines)
    off(
        lambda line: line.key == "rpcallowip" and not (bound and loopback(line.value)),
        "it opens the wallet to other machines"
        if bound
        else "without rpcbind an older Core then listens on every address; this machine may always call",
    )
    off(lambda line: line.key == "server" and not is_on(line.value), "dux-flopd calls Core by RPC")
    if first(lines, "server") is None:
        if not any(change.key == "server" for change in changes):
            changes.append(Change("server", "dux-flopd calls Core by RPC, and a Core with a window is silent without"))
        added.append("server=1")
    return Secured(_inserted(lines, added), tuple(changes))


def _entries(lines: list[Line], section: str) -> list[str]:
    return [line.value for line in lines if line.key == "rpcauth" and line.section in ("", section)]


def _our_login(lines: list[Line], section: str, password: str, changes: list[Change], added: list[str]) -> None:
    if any(_lets_in(entry, USER, password) for entry in _entries(lines, section)):
        return
    changes.append(Change("rpcauth", f"dux-flopd logs in as {USER}"))
    for index, line in enumerate(lines):
        if line.key == "rpcauth" and not line.section and line.value.startswith(f"{USER}:"):
            end = line.raw[len(line.raw.rstrip("\r\n")) :]
            lines[index] = Line(f"{_MARK} an older login of {USER} stood here{end}")
    added.append(f"rpcauth={rpcauth(USER, password)}")


def _old_login(lines: list[Line], section: str, changes: list[Change], added: list[str]) -> None:
    """So that other programs go on working, adds what an old user and password become."""
    old = login_in(lines, section)
    if old is None or any(_lets_in(entry, *old) for entry in _entries(lines, section)):
        return
    try:
        added.append(f"rpcauth={rpcauth(*old)}")
    except ValueError:
        # Core takes more kinds of names than a line of rpcauth holds safely.
        changes.append(Change("rpcuser", "its name can't be kept: programs that logged in so need a new login"))
    else:
        changes.append(Change("rpcauth", f"programs that log in as {old[0]} go on doing so"))


def _lets_in(entry: str, user: str, password: str) -> bool:
    try:
        return accepts(entry, user, password)
    except ValueError:
        return False


def _inserted(lines: list[Line], added: list[str]) -> str:
    raws = [line.raw for line in lines]
    if not added:
        return "".join(raws)
    at = next((index for index, line in enumerate(lines) if line.is_header), len(lines))
    head, tail = "".join(raws[:at]), "".join(raws[at:])
    if head and not head.endswith("\n"):
        head += "\n"
    return head + "".join(f"{line}\n" for line in (f"{_MARK} RPC for dux-flopd, on this machine alone", *added)) + tail


def loopback(value: str) -> bool:
    """Whether an `rpcbind` or `rpcallowip` names nothing but this machine itself."""
    host = value
    if match := re.fullmatch(r"\[([^\]]*)\](?::\d+)?", value):
        host = match[1]
    elif value.count(":") == 1:
        host = value.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_network(host, strict=False).is_loopback
    except ValueError:
        return False


def diff(old: str, new: str, name: str) -> str:
    """What changes in the file `name`, as a unified diff with all secrets hidden."""
    before, after = (_SECRET.sub(r"\1(hidden)", text).splitlines() for text in (old, new))
    return "\n".join(difflib.unified_diff(before, after, f"{name} (now)", f"{name} (then)", n=1, lineterm=""))
