"""Where Debian packages come from: the machine's own apt configuration, or `--mirror`; no host is named here.

python build_script/mirror.py trixie                      # print the sources for trixie (deb822)
python build_script/mirror.py trixie --mirror URL         # of this mirror instead
"""

import argparse
import platform
import shlex
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_script.progress import Failed, ended

SUITE = "trixie"
"""What Dux OS is built for: Debian 13."""
CODENAMES = frozenset(
    (
        "buster",
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "sid",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    )
)
KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")
SCHEMES = ("http://", "https://")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class NoMirror(Failed):
    """No Debian archive was found, or no key to check it with; the text says what to do."""


@dataclass(frozen=True)
class Source:
    """One archive: a base URI, its suites, its components, and the keyring (path or armoured key) that signs it."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...] = ("main",)
    signed_by: str = ""
    check_valid_until: bool = True
    """Off for a dated snapshot, whose signed index is older than apt would take."""

    def deb822(self) -> str:
        """A stanza for a `.sources` file, without the empty line after it."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {' '.join(self.suites)}"]
        lines += [f"Components: {' '.join(self.components)}"]
        if self.signed_by:
            lines.append("Signed-By: " + self.signed_by)
        if not self.check_valid_until:
            lines.append("Check-Valid-Until: no")
        return "\n".join(lines) + "\n"


def deb822(sources: Iterable[Source]) -> str:
    """The content of a `.sources` file."""
    return "\n".join(source.deb822() for source in sources)


def from_stanzas(text: str) -> Iterator[Source]:
    """The archives of a `.sources` file (deb822); disabled stanzas and those of other types are left out."""
    for block in "\n".join(line for line in text.splitlines() if not line.startswith("#")).split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
            yield Source(uri, tuple(suites), tuple(components), fields.get("signed-by", ""))


def from_lines(text: str) -> Iterator[Source]:
    """The archives of a one-line `.list` file."""
    for line in text.splitlines():
        words = line.split("#")[0].strip()
        if not words.startswith("deb "):
            continue
        rest, signed_by = words[4:].strip(), ""
        if rest.startswith("["):
            options, _, rest = rest[1:].partition("]")
            for option in shlex.split(options):
                key, _, value = option.partition("=")
                signed_by = value if key == "signed-by" else signed_by
        uri, suite, *components = rest.split() if len(rest.split()) >= 2 else ("", "")
        if uri:
            yield Source(uri, (suite,), tuple(components), signed_by)


def configured(root: Path = Path("/")) -> list[Source]:
    """Every archive that apt below `root` is configured with, those that are reached through a list file resolved."""
    apt = root / "etc/apt"
    found = list(from_lines(_text(apt / "sources.list")))
    for path in sorted((apt / "sources.list.d").glob("*")) if (apt / "sources.list.d").is_dir() else []:
        if path.suffix == ".list":
            found += from_lines(_text(path))
        elif path.suffix == ".sources":
            found += from_stanzas(_text(path))
    return [
        Source(uri.rstrip("/"), source.suites, source.components, source.signed_by)
        for source in found
        for uri in _resolved(source.uri, root)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _resolved(uri: str, root: Path) -> list[str]:
    """The first mirror that a `mirror+file:` names (Debian's cloud images have such lists); else the URI itself."""
    if uri.startswith("mirror+file:"):
        listed = _text(root / uri.removeprefix("mirror+file:").lstrip("/")).splitlines()
        uri = next((line.split()[0] for line in listed if line.startswith(SCHEMES)), "")
    return [uri] if uri.startswith(SCHEMES) else []


def _main(sources: Iterable[Source]) -> Source | None:
    """The main archive among them: one that has a Debian suite with `main`, Debian's own key first."""
    able = [s for s in sources if CODENAMES & set(s.suites) and "main" in s.components]
    return min(able, key=lambda s: "debian-archive" not in s.signed_by, default=None)


def _security(sources: Iterable[Source]) -> Source | None:
    names = {f"{name}{end}" for name in CODENAMES for end in ("-security", "/updates")}
    return next((s for s in sources if names & set(s.suites) and "main" in s.components), None)


def keyring(root: Path = Path("/")) -> str:
    """The path of Debian's archive keys on this machine.  Raises NoMirror when they are not installed."""
    for name in KEYRINGS:
        if (path := root / "usr/share/keyrings" / name).is_file():
            return str(path)
    raise NoMirror("the keys of Debian's archive are not on this machine; now: apt install debian-archive-keyring")


def answers(uri: str, suite: str) -> bool:
    """Whether there is such a suite (its signed index answers within 10 s)."""
    try:
        with urllib.request.urlopen(f"{uri}/dists/{suite}/InRelease", timeout=10) as reply:  # noqa: S310 - http(s) only
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def sources(
    suite: str = SUITE,
    *,
    mirror: str | None = None,
    security_mirror: str | None = None,
    root: Path = Path("/"),
    exists: Callable[[str, str], bool] = answers,
) -> list[Source]:
    """The archives for `suite`: its own, its updates, its security updates, as far as the mirror has them.

    An archive that carries one release carries the others: a Debian 12 machine's mirror serves trixie as well. Where
    the machine is configured without security updates, they are looked for beside the main archive.
    Raises NoMirror when the machine has no Debian archive configured and none is given.
    """
    for given in (mirror, security_mirror):
        if given is not None and not given.startswith(SCHEMES):
            raise NoMirror(f"{given!r} is no mirror: a URL that begins with http:// or https:// is needed")
    known = configured(root)
    found = _main(known)
    if mirror is None and found is None:
        raise NoMirror(
            "no Debian archive was found in /etc/apt/sources.list or /etc/apt/sources.list.d: "
            "name one with --mirror URL (the part before /dists/)"
        )
    base = (mirror or (found.uri if found else "")).rstrip("/")
    signed_by = found.signed_by if found and mirror is None and found.signed_by else keyring(root)
    updates = any(f"{name}-updates" in s.suites for s in known for name in CODENAMES) and mirror is None
    suites = [suite, f"{suite}-updates"] if updates or exists(base, f"{suite}-updates") else [suite]
    result = [Source(base, tuple(suites), ("main",), signed_by)]
    configured_security = _security(known) if mirror is None else None
    if security_mirror is not None:
        result.append(Source(security_mirror.rstrip("/"), (f"{suite}-security",), ("main",), signed_by))
    elif configured_security is not None:
        signed_by = configured_security.signed_by or signed_by
        result.append(Source(configured_security.uri, (f"{suite}-security",), ("main",), signed_by))
    elif (beside := _beside(base)) and exists(beside, f"{suite}-security"):
        result.append(Source(beside, (f"{suite}-security",), ("main",), signed_by))
    return result


def _beside(base: str) -> str:
    """Where mirrors keep the security archive: …/debian-security beside …/debian, also where a date follows."""
    head, found, tail = base.rpartition("/debian")
    return f"{head}/debian-security{tail}" if found and tail[:1] in ("", "/") else ""


def architecture() -> str:
    """Debian's name of this machine's architecture."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--mirror` and `--security-mirror`, the same for everything that builds."""
    parser.add_argument("--mirror", metavar="URL", help="Debian mirror (default: this machine's own)")
    parser.add_argument("--security-mirror", metavar="URL", help="mirror of the security updates (default: as above)")


def main() -> int:
    """Print the sources; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default=SUITE)
    add_options(parser)
    options = parser.parse_args()
    found = sources(options.suite, mirror=options.mirror, security_mirror=options.security_mirror)
    print(deb822(found), end="")
    return 0


if __name__ == "__main__":
    ended(main)
