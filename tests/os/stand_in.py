"""Debian's litecoind on machines of tests, where it stands in for Flopcoin Core, and sudo."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from build_script import buildroot
from tests.os import layers, readme
from tests.os.nspawn import Failed, Machine

CHAIN = "litecoin-regtest"
SUBSTITUTIONS = {
    "setup flopcoin": f"setup flopcoin --chain {CHAIN}",
    "flopcoind flopcoin-cli": "/usr/lib/litecoin/litecoind /usr/bin/litecoin-cli",
    "/usr/local/bin/flopcoind": "/usr/local/bin/litecoind",
}
"""All in which what is typed here differs from what is written."""
CONF_LINES = "regtest=1\nvbparams=mweb:-2:0\naddresstype=legacy\nchangetype=legacy\nfallbackfee=0.01\nkeypool=10\n"
"""What makes litecoind speak as Flopcoin Core does; a Flopcoin Core needs no line of its own."""
YES = {r"\[y/N\] ": "y"}
README = readme.lines(readme.section(readme.page("README.md"), "Connect a real Flopcoin Core"))
PACKAGES = ("litecoind", "sudo")
SEEN_AT = "/srv/debian"
FETCH = (
    "apt-get -q update && mkdir /got && "
    f"apt-get -q install -y --no-install-recommends --download-only -o Dir::Cache::archives=/got {' '.join(PACKAGES)}"
)


def written(line: str) -> str:
    """A line as it is typed here; it has to stand in README.md."""
    assert line in README, README
    return readme.substituted(line, SUBSTITUTIONS)


@cache
def debs() -> Path:
    """The folder of Debian's packages; the machines themselves have no network."""
    root = buildroot.folder(buildroot.MACHINE)

    def make(target: Path) -> None:
        with Machine([root]) as machine:
            machine.prepare("bash", "-ec", FETCH)
            target.mkdir()
            for path in machine.path("/got").glob("*.deb"):
                (target / path.name).write_bytes(path.read_bytes())

    return layers.made("stand-in", f"{root.parent.name[-16:]}-{layers.digest(Path(__file__))}", make)


@contextmanager
def machine(*, sudo: bool, prepared: str) -> Iterator[Machine]:
    """A machine with dux-node and litecoind, not booted yet, with or without sudo; `prepared` by a script of root's."""
    try:
        fetched = debs()
    except Failed as error:
        pytest.skip(f"not run: needs the Debian packages {', '.join(PACKAGES)}, which apt does not get: {error}")
    with Machine(layers.installed(), binds={fetched: SEEN_AT}) as made:
        but = "" if sudo else "! -name 'sudo_*'"
        made.prepare("bash", "-ec", f"find {SEEN_AT} -name '*.deb' {but} -exec dpkg --install {{}} +; {prepared}")
        yield made
