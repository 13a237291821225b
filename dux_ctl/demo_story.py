"""What happens in `dux-ctl demo`: both nodes offer the same app, each calls the other's, the channels are closed."""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from duxcommon.errors import DemoFailed, DuxError, GuestFailed
from duxcommon.money import COIN, DUST, format_flop

from . import apps, audit, demo_report, exits
from .account import Row, difference_of
from .control import Control
from .demo_guest import GuestProcess
from .status import ENDED
from .tasks import ENDED as TASK_ENDED

APP = "hello-words"
PLACES = (Path(__file__).resolve().parents[1] / "apps" / APP, Path("/usr/share/duxnet/apps") / APP)
"""In a working copy, and where the packages put it."""
DEPOSIT = COIN * 9 // 10
"""With the closing fee on top it stays below 1 FLOP, up to which one confirmation is enough."""
PURSE = 2 * COIN
GIFT = 3 * COIN
WAIT_S = 180.0
"""Longest wait for one step; an emulated machine takes ten times as long as a real one."""
TIDY_S = 90.0
PAUSE_S = 0.2
TASK_WAIT_S = 3.0
HISTORY = 200
"""Newest transactions among which the demonstration's own are looked for."""
HISTORY_MOST = 5000


class Voice(Protocol):
    """How the story is told."""

    def __call__(self, text: str) -> None: ...

    def waiting(self, text: str) -> None:
        """What is waited for at this moment."""


@dataclass
class Side:
    """One of the two nodes."""

    name: str
    node: str
    control: Control
    app: str = ""
    """The app it sells, once it is published."""
    price: int = 0
    owners: bool = False
    """Its owner had published the app before: it stays."""


@dataclass
class Call:
    """One paid call."""

    buyer: Side
    provider: Side
    channel: str = ""
    task: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    """The result."""


class Story:
    """Tells it once; `tidy` takes back whatever is still there, and `remains` names what could not be."""

    def __init__(self, control: Control, node: str, guest: GuestProcess, say: Voice) -> None:
        self._say = say
        self._guest = guest
        self._mine = Side("this node", node, control)
        self._theirs: Side | None = None
        self._mark = secrets.token_hex(8)
        self.remains: list[str] = []
        self._tidying = False
        self._unanswered: tuple[Side, str, dict[str, Any]] | None = None
        self._lost: set[str] = set()
        """Channels that nobody can close now."""

    def tell(self) -> dict[str, Any]:
        """Everything, in order; what `--json` prints. Raises DemoFailed, GuestFailed and what the daemons answer."""
        mine = self._mine
        folder = next((place for place in PLACES if place.is_dir()), None)
        if folder is None:
            raise DemoFailed(f"the app {APP} is not here", hint=f"It belongs in {PLACES[1]} (package dux-common).")
        network = mine.control.call("network.show")
        label = {key: network[key] for key in ("name", "chain", "worthless")}
        self._fill_purse(mine)
        self._publish(mine, folder)
        run_dir = self._guest.wait_ready()
        control = Control(run_dir, mine.control.as_json, mine.control.timeout)
        theirs = self._theirs = Side("the guest", control.call("node.self")["node"], control)
        self._say(f"the guest is node {theirs.node[:12]}… of the network {network['name']}")
        self._fill_purse(theirs)
        self._publish(theirs, folder)
        there, back = Call(mine, theirs), Call(theirs, mine)
        for call in (there, back):
            self._find(call)
            self._open(call)
        for call in (there, back):
            self._run(call, folder / "sample" / "input.txt")
        for call in (there, back):
            self._close(call)
        self._say("reading back from the chain and from the books of both sides")
        calls = [self._account(call) for call in (there, back)]
        audits = {side.name: self._audit(side) for side in (mine, theirs)}
        difference = sum(call["difference"] for call in calls) + sum(audits.values())
        return {"network": label, "calls": calls, "audit": audits, "difference": difference}

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _fill_purse(self, side: Side) -> None:
        if side.control.call("wallet.balance")["spendable"] >= PURSE:
            return
        self._say(f"{side.name} gets {format_flop(GIFT)} FLOP from the faucet of the trial chain")
        # Whoever wants to spend them waits for their confirmation later, while other things go on.
        params = {"amount": GIFT, "key": self._key("faucet", side), "wait_s": 0}
        self._until(lambda: side.control.call("wallet.faucet", params), WAIT_S, "the faucet")

    def _publish(self, side: Side, folder: Path) -> None:
        """Offer the app, unless the owner of the node does so already."""
        before = self._own_listing(side)
        if before is not None:
            side.app, side.price, side.owners = before["app"], before["price"], True
            self._say(f"{side.name} offers {APP} already, at {format_flop(side.price)} FLOP a call")
            return
        with apps.packed(folder, side.control) as (bundle, packed, manifest):
            side.price = manifest.price
            self._say(f"{side.name} publishes {APP} at {format_flop(manifest.price)} FLOP a call")
            apps.upload(side.control, bundle, packed.size)
            params = {"bundle": packed.hash, "key": self._key("publish", side)}
            side.app = self._order(side, "app.publish", params)["app"]

    def _own_listing(self, side: Side) -> dict[str, Any] | None:
        return self._listing(side, f"{APP}@{side.node}")

    def _listing(self, side: Side, app: str) -> dict[str, Any] | None:
        """What the node knows of an app; None while it has not heard of it."""
        try:
            return side.control.call("app.show", {"app": app})
        except DuxError as error:
            if exits.status_of(error) != exits.NOT_FOUND:
                raise
            return None

    def _find(self, call: Call) -> None:
        self._say(f"{call.buyer.name} looks for {APP} of {call.provider.name}")

        def live() -> bool:
            listing = self._listing(call.buyer, call.provider.app)
            return listing is not None and bool(listing["live_providers"])

        self._until(live, WAIT_S, f"{call.provider.name}'s app in the directory of {call.buyer.name}")
        self._until(
            lambda: call.buyer.control.call("wallet.balance")["spendable"] >= DEPOSIT + 4 * DUST,
            WAIT_S,
            f"the coins of {call.buyer.name}",
        )

    def _open(self, call: Call) -> None:
        amount = max(DEPOSIT, call.provider.price)
        self._say(f"{call.buyer.name} opens a payment channel for {format_flop(amount)} FLOP")
        params = {"provider": call.provider.node, "amount": amount, "key": self._key("open", call.buyer)}
        call.channel = self._until(
            lambda: self._order(call.buyer, "channel.open", params), WAIT_S, "the channel to be opened"
        )["id"]

    def _run(self, call: Call, file: Path) -> None:
        data = file.read_bytes()
        self._say(f"{call.buyer.name} calls it with a text of {len(data)} bytes")
        order = {
            "app": call.provider.app,
            "provider": call.provider.node,
            "max_price": call.provider.price,
            "key": self._key("task", call.buyer),
            "input": {
                "hash": hashlib.sha256(data).hexdigest(),
                "size": len(data),
                "media": "text/plain",
                "data": base64.b64encode(data).decode(),
            },
        }
        call.task = self._order(call.buyer, "task.run", order)
        deadline, step = time.monotonic() + WAIT_S, ""
        while call.task["state"] not in TASK_ENDED:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the task did not end within {WAIT_S:.0f} s: {call.task['step']}")
            if call.task["step"] != step:
                step = call.task["step"]
                self._say(f"    {step}")
            ask = {"id": call.task["id"], "wait_s": TASK_WAIT_S, "progress": call.task["progress"]}
            timeout = call.buyer.control.timeout + TASK_WAIT_S
            self._guest_lives()
            call.task = call.buyer.control.call("task.status", ask, timeout=timeout)
        if call.task["state"] != "DONE":
            error = call.task["error"] or {"message": f"it was {call.task['state'].lower()}"}
            raise DemoFailed(f"the task of {call.buyer.name} has no result: {error['message']}")
        result = call.task["result"]
        call.text = base64.b64decode(result["data"] or "").decode(errors="replace")
        sandbox = self._sandbox(call.provider)
        where = f"sandbox {sandbox['state']}" + (f", {sandbox['reason']}" if sandbox["reason"] else "")
        self._say(f"it ran on {call.provider.name} ({where}); the checked result: {' '.join(call.text.split())[:100]}")

    def _sandbox(self, side: Side) -> dict[str, str]:
        lending = side.control.call("provider.limits")
        return {"state": lending["sandbox"], "reason": lending["reason"]}

    def _close(self, call: Call) -> None:
        self._say(f"{call.buyer.name} closes its channel: one transaction pays 95 %, 5 % and change")
        params = {"id": call.channel, "key": self._key("close", call.buyer)}
        self._until(
            lambda: call.buyer.control.call("channel.close", params)["state"] != "OPEN", WAIT_S, "the closing to begin"
        )

    def _account(self, call: Call) -> dict[str, Any]:
        def closed() -> list[dict[str, Any]] | None:
            found = [side.control.call("channel.show", {"id": call.channel}) for side in (call.provider, call.buyer)]
            return found if all(one["state"] == "CLOSED" for one in found) else None

        sold, bought = self._until(closed, WAIT_S, "the closing transaction in a block")
        txids = {bought["close_txid"], *(deposit["txid"] for deposit in bought["deposits"])}
        sales = self._booked(call.provider, {bought["close_txid"]})
        purchases = self._booked(call.buyer, txids)
        earned = sum(entry["change"] for entry in sales if entry["txid"] in txids)
        spent = sum(entry["change"] for entry in purchases if entry["txid"] in txids)
        chain = self._guest.account(bought, self._heights(call.buyer))
        rows = [
            Row(f"{call.provider.name} (sells)", chain["provider"], earned),
            Row("community fund", chain["fund"], sold["tax"]),
            Row(f"{call.buyer.name} (buys)", chain["buyer"], spent),
            Row("fees of 2 transactions", chain["fees"], None),
        ]
        return demo_report.call_value(
            buyer=call.buyer.name,
            provider=call.provider.name,
            task=call.task["id"],
            price=call.task["price"],
            result=call.text,
            sandbox=self._sandbox(call.provider),
            close_txid=bought["close_txid"],
            rows=rows,
            difference=difference_of(rows) + abs(sold["gross"] - chain["provider"] - chain["fund"]),
        )

    def _booked(self, side: Side, txids: set[str]) -> list[dict[str, Any]]:
        """The newest entries of a wallet's history, once it has all `txids` in blocks."""

        def entries() -> list[dict[str, Any]] | None:
            newest: list[dict[str, Any]] = side.control.call("wallet.history", {"limit": HISTORY})["entries"]
            settled = {entry["txid"] for entry in newest if entry["height"] is not None}
            return newest if txids <= settled else None

        found: list[dict[str, Any]] = self._until(entries, WAIT_S, f"the wallet of {side.name} to see the payment")
        return found

    def _heights(self, side: Side) -> dict[str, int]:
        """In which blocks the transactions of a wallet are: the coins that were spent came from one of them."""
        found: dict[str, int] = {}
        skip: int | None = 0
        while skip is not None and len(found) < HISTORY_MOST:
            page = side.control.call("wallet.history", {"limit": HISTORY, "skip": skip})
            found |= {entry["txid"]: entry["height"] for entry in page["entries"] if entry["height"] is not None}
            skip = page["next"]
        return found

    def _audit(self, side: Side) -> int:
        """Koinu of difference that remain when everything has come to rest."""
        found: dict[str, Any] = {}

        def agrees() -> bool:
            found.update(audit.collect(side.control))
            return found["difference"] == 0 and not found["missing"]

        try:
            self._until(agrees, WAIT_S / 6, "the books to agree")
        except DemoFailed:
            if found.get("missing"):
                raise
        return int(found["difference"])

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Cancel what runs, close what is open, withdraw what was published; `TIDY_S` for a side's channels at most."""
        self._tidying = True
        sides = [self._mine]
        if self._theirs is not None and self._guest.alive:
            sides.append(self._theirs)
        self._attempt(self._catch_up, "")
        if self._theirs is not None:
            for side in sides:
                self._attempt(partial(self._cancel, side), "")
            self._attempt(self._settle, "channels with the guest: `dux-ctl channel list`")
        for side in sides:
            if side.app and not side.owners:
                what = f"the listing of {APP}: `dux-ctl app withdraw {side.app}`" if side is self._mine else ""
                self._attempt(partial(side.control.call, "app.withdraw", {"app": side.app}), what)
        if self._theirs is not None:
            self._theirs.control.close()

    def _catch_up(self) -> None:
        """Learn what became of an order whose answer was not waited for: with its key it is never carried out twice."""
        if self._unanswered is not None and self._guest.alive:
            side, method, params = self._unanswered
            reply = self._until(lambda: self._order(side, method, params), TIDY_S / 3, f"an answer to {method}")
            if method == "app.publish":
                side.app = reply["app"]

    def _attempt(self, act: Callable[[], Any], what: str) -> None:
        try:
            act()
        except DuxError as error:
            if what:
                self.remains.append(f"{what} ({error.message})")

    def _cancel(self, side: Side) -> None:
        """End the tasks that this demonstration ordered and that still run."""
        other = self._other(side)
        for task in side.control.call("task.list", {"limit": HISTORY})["tasks"]:
            if task["state"] not in TASK_ENDED and other.app and task["app"] == other.app:
                side.control.call("task.cancel", {"id": task["id"]})

    def _settle(self) -> None:
        """Close the channels between both, and wait until the chain has settled them."""

        def over() -> bool:
            alive = self._guest.alive
            for side in (self._mine, self._theirs) if alive else ():
                if side is not None:
                    self._close_all([one for one in self._open_channels(side) if one["role"] == "buyer"], side)
            left = [one for one in self._open_channels(self._mine) if one["id"] not in self._lost]
            if not alive:
                left = [one for one in left if not self._is_lost(one)]
                self._close_all(left, self._mine)
            return not left

        self._until(over, TIDY_S, "the channels between both nodes to be closed")

    def _open_channels(self, side: Side) -> list[dict[str, Any]]:
        other = self._other(side)
        every = side.control.call("channel.list", {"limit": 200})["channels"]
        return [one for one in every if one["peer"] == other.node and one["state"] not in ENDED]

    def _close_all(self, channels: list[dict[str, Any]], side: Side) -> None:
        for channel in channels:
            if channel["state"] == "OPEN":
                side.control.call("channel.close", {"id": channel["id"], "key": self._key(channel["id"], side)})

    def _is_lost(self, channel: dict[str, Any]) -> bool:
        """Whether a channel can't be closed now that the guest is gone; says so once."""
        if channel["state"] == "CLOSE_SENT" or (channel["role"] == "provider" and channel["gross"]):
            return False
        self._lost.add(channel["id"])
        amount = format_flop(channel["deposited"] - channel["gross"])
        after = f"{channel['blocks_left']} blocks from now" if channel["blocks_left"] else "after its lock height"
        if channel["role"] == "buyer":
            self.remains.append(
                f"a channel with the guest, which is gone: {amount} FLOP (without value) come back {after} by "
                f"`dux-ctl channel refund {channel['id']}`"
            )
        return True

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _other(self, side: Side) -> Side:
        other = self._theirs if side is self._mine else self._mine
        if other is None:
            raise DemoFailed("there is no second node yet")
        return other

    def _order(self, side: Side, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """A call that leaves something behind; remembered until its answer is here."""
        self._unanswered = side, method, params
        try:
            reply = side.control.call(method, params)
        except DuxError as error:
            if not error.retry:
                self._unanswered = None
            raise
        self._unanswered = None
        return reply

    def _guest_lives(self) -> None:
        """Raises GuestFailed when its process has ended: nothing that needs it will come about."""
        if not self._guest.alive:
            raise GuestFailed("the guest node ended in the middle of it")

    def _key(self, what: str, side: Side) -> str:
        return f"demo-{self._mark}-{what}-{'here' if side is self._mine else 'there'}"

    def _until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Ask until there is an answer, and return it. Raises DemoFailed after `seconds`, or what can't be mended."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := condition():
                    return found
                problem = ""
            except DuxError as error:
                if not error.retry:
                    raise
                problem = f": {error.message}"
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {seconds:.0f} s in vain for {what}{problem}")
            if not self._tidying:
                self._guest_lives()
            self._say.waiting(f"waiting for {what}{problem}")
            time.sleep(PAUSE_S)
