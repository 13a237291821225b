"""`dux-devnet demo`: the first paid call on real parts, told step by step, and checked on the chain at the end."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dux_ctl import wheels
from dux_ctl.account import Row, difference_of, table
from dux_taskd import verify
from duxcommon.bundle import MANIFEST, load_manifest
from duxcommon.errors import ConfigError, DuxError
from duxcommon.money import COIN
from duxcommon.network import NetworkDefinition, load_network

from .account import Reader, read_chain
from .layout import lay_out, node_names
from .main import Say, show_logs, start_all
from .network import Devnet, DevnetError, wait_until

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "apps" / "image-upscale"
SELLER, BUYER = "alice", "bob"
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
"""The app answers in the format in which it was asked."""
PURSE = 100
"""FLOP of the trial chain that bob gets from its faucet."""


@dataclass(frozen=True)
class Money:
    """What one look at the three parties shows, in koinu."""

    alice: int
    bob: int
    fund: int


def ctl(devnet: Devnet, node: str, *words: str, show: bool = True) -> str:
    """Run `dux-ctl` as that node's owner would; its standard output. Raises DevnetError when it fails."""
    if show:
        print(f"    {node}$ dux-ctl {' '.join(words)}", flush=True)
    environment = {**os.environ, "DUXNET_RUN_DIR": str(devnet.layout.run_dir(node))}
    command = [sys.executable, "-m", "dux_ctl.main", *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False, cwd=os.getcwd())
    if done.returncode != 0:
        raise DevnetError(f"dux-ctl {' '.join(words)} ended with status {done.returncode}", hint=done.stdout.strip())
    return done.stdout


def ctl_json(devnet: Devnet, node: str, *words: str, show: bool = False) -> Any:
    """The same with --json."""
    return json.loads(ctl(devnet, node, *words, "--json", show=show))


def money(devnet: Devnet) -> Money:
    """Everything that alice, bob and the fund have in confirmed coins now."""
    alice = devnet.client(SELLER, "flopd").call("wallet.balance")
    bob = devnet.client(BUYER, "flopd").call("wallet.balance")
    fund = devnet.client(BUYER, "airdropd").call("fund.status")
    return Money(alice["confirmed"], bob["confirmed"], fund["confirmed"])


def run_demo(image: Path | None, output: Path | None) -> int:
    """The whole story; the exit status. Leaves nothing behind but the larger picture."""
    picture = image or next((APP / "sample").glob("input*"))
    media = _check_picture(picture)
    target = (output or Path.cwd() / f"upscaled{SUFFIXES[media]}").absolute()
    folder = Path(tempfile.mkdtemp(prefix="dux-demo-", dir="/tmp"))
    say = Say()
    try:
        devnet = Devnet(lay_out(folder, node_names(3)))
        try:
            with ThreadPoolExecutor(1) as pool:
                prepared = pool.submit(_prepare_app)
                devnet.launch()
                start_all(devnet, say)
                return _story(devnet, picture, target, prepared, say)
        except Exception:
            show_logs(folder)
            raise
        finally:
            devnet.down()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_picture(picture: Path) -> str:
    """The picture's media type. What the app would refuse is said before anything is started. Raises ConfigError."""
    again = "Choose another: make demo IMAGE=path/to/a/picture.jpg"
    try:
        with picture.open("rb") as file:
            head = file.read(verify.HEAD)
            size = picture.stat().st_size
    except OSError as error:
        raise ConfigError(f"can't read the picture {picture}: {error.strerror}", hint=again) from None
    try:
        return verify.check_input(load_manifest(APP / MANIFEST).input, size, head)
    except DuxError as error:
        raise ConfigError(f"{picture}: {error.message}", hint=again) from None


def _prepare_app() -> None:
    """Fetch the app's locked wheels while the nodes start; `dux-ctl app publish` finds them in its cache."""
    wheels.fetch(APP / wheels.LOCK, lambda text: None)


def _story(devnet: Devnet, picture: Path, target: Path, prepared: "Future[None]", say: Say) -> int:
    network = load_network(devnet.layout.folder / "network.yaml")
    say(f"bob gets {PURSE} FLOP from the faucet of the trial chain")
    address = ctl_json(devnet, BUYER, "wallet", "receive")["address"]
    devnet.chain("faucet", address, str(PURSE))
    wait_until(lambda: money(devnet).bob >= PURSE * COIN, 60, "bob's coins")
    before = money(devnet)

    say("alice publishes image-upscale at 10 FLOP a call")
    prepared.result()
    ctl(devnet, SELLER, "app", "publish", str(APP.relative_to(Path.cwd()) if APP.is_relative_to(Path.cwd()) else APP))

    say("bob looks for it")
    wait_until(lambda: _live(devnet), 60, "alice's app in bob's directory")
    print(_indent(ctl(devnet, BUYER, "app", "search", "upscale")))

    say(f"bob calls it with {picture.name}")
    words = ["task", "run", "image-upscale", str(picture), "--set", "factor=2", "--output", str(target), "--force"]
    ctl(devnet, BUYER, *words)
    say(f"the larger picture is {target}")

    say("bob closes the channel; one transaction pays alice, the community fund and bob's change")
    channel = ctl_json(devnet, BUYER, "channel", "list")["channels"][0]["id"]
    ctl_json(devnet, BUYER, "channel", "close", channel, show=True)
    closed = wait_until(lambda: _closed(devnet, channel), 60, "the closing transaction")
    wait_until(lambda: money(devnet).fund > before.fund, 60, "the community fund to see its part")
    say("read back from the chain and the books:")
    return _account(devnet, network, before, closed)


def _live(devnet: Devnet) -> bool:
    listings = devnet.client(BUYER, "registryd").call("app.search", {"words": "upscale"})["listings"]
    return bool(listings and listings[0]["live_providers"])


def _closed(devnet: Devnet, channel: str) -> dict[str, Any] | None:
    found = [
        devnet.client(node, "escrowd").call("channel.show", {"id": channel}) for node in (SELLER, BUYER)
    ]  # both must have seen it
    return found[1] if all(c["state"] == "CLOSED" for c in found) else None


def _account(devnet: Devnet, network: NetworkDefinition, before: Money, closed: dict[str, Any]) -> int:
    """Print the table; 0 only if every koinu is where it belongs."""
    chain = read_chain(Reader(devnet.chain, {}), network, closed)
    after = wait_until(lambda: _settled(devnet, before, chain.provider), 60, "alice's coins")
    rows = [
        Row("alice (provider)", chain.provider, after.alice - before.alice),
        Row("community fund", chain.fund, after.fund - before.fund),
        Row("bob (buyer)", chain.buyer, after.bob - before.bob),
        Row("fees of 2 transactions", chain.fees, None),
    ]
    print("\n" + _indent(table(rows)))
    difference = difference_of(rows)
    for node in (SELLER, BUYER):
        difference += abs(int(ctl_json(devnet, node, "audit")["difference"]))
    print(_indent(f"difference {difference} koinu") + "\n")
    return 0 if difference == 0 else 1


def _settled(devnet: Devnet, before: Money, earned: int) -> Money | None:
    now = money(devnet)
    return now if now.alice - before.alice >= earned else None


def _indent(text: str) -> str:
    return "\n".join(f"      {line}" for line in text.rstrip().splitlines())
