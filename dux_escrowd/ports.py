"""What escrowd asks of flopd and, through registryd, of other nodes: typed calls and nothing else."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import ChannelAck, ChannelContract, CloseReply, ProviderTerms, SignedState
from duxcommon.api.flopd import ChainStatus, KeyInfo, PrevOut, Signatures, TxIntent, TxOutput, WalletStatus, Watched
from duxcommon.api.registryd import PeerReply
from duxcommon.errors import PeerMisbehaved, ProviderUnknown, UnknownNode
from duxcommon.rpc import Client
from duxcommon.rulebook import Book

M = TypeVar("M", bound=BaseModel)

PEER_TIMEOUT_S = 30.0
STATUS_TIMEOUT_S = 10.0


class Flopd:
    """The node's wallet and chain. Every method raises what flopd answers, and DaemonDown."""

    def __init__(self, client: Client) -> None:
        self._call = client.call

    async def status(self) -> ChainStatus:
        """Where the chain is now."""
        return await self._call("chain.status", ChainStatus, timeout=STATUS_TIMEOUT_S)

    async def locked(self) -> str | None:
        """Why the keystore can't sign now, and what to do; None while it can, or where there is none."""
        status = await self._call("wallet.status", WalletStatus, timeout=STATUS_TIMEOUT_S)
        return (status.why or "nobody said why") if status.locked and status.exists else None

    async def wait(self, best: str, timeout_s: float) -> ChainStatus:
        """Returns as soon as the tip is not `best` any more, at the latest after `timeout_s` seconds."""
        params = {"best": best, "timeout_s": timeout_s}
        return await self._call("chain.wait", ChainStatus, params, timeout=timeout_s + 30)

    async def watch(self, script: bytes, ref: str, birth_height: int) -> Watched:
        """Follow all outputs that pay `script`, from a height on."""
        params = {"script": script.hex(), "ref": ref, "birth_height": birth_height}
        return await self._call("chain.watch", Watched, params)

    async def watched(self, ref: str) -> Watched:
        """All outputs that pay a watched script, and their spends."""
        return await self._call("chain.watched", Watched, {"ref": ref})

    async def payout(self) -> KeyInfo:
        """The node's one stable payout key."""
        return await self._call("key.payout", KeyInfo)

    async def new_key(self, ref: str) -> KeyInfo:
        """The key of this name, made when it is asked for the first time."""
        return await self._call("key.new", KeyInfo, {"ref": ref})

    async def fund(self, script: bytes, amount: int, note: bytes, key: str, ref: str) -> TxIntent:
        """Build, sign and commit a deposit; it is not sent."""
        params = {
            "outputs": [TxOutput(script=script.hex(), amount=amount).model_dump()],
            "data": note.hex(),
            "key": key,
            "purpose": "fund",
            "ref": ref,
        }
        return await self._call("tx.fund", TxIntent, params)

    async def broadcast(self, intent: str) -> TxIntent:
        """Send a transaction that `fund` built."""
        return await self._call("tx.broadcast", TxIntent, {"id": intent})

    async def cancel(self, intent: str) -> TxIntent:
        """Give up a transaction that was never sent."""
        return await self._call("tx.cancel", TxIntent, {"id": intent})

    async def intent(self, intent: str) -> TxIntent:
        """What became of a transaction of ours."""
        return await self._call("tx.status", TxIntent, {"id": intent})

    async def submit(self, raw: str, key: str, purpose: str, ref: str) -> TxIntent:
        """Commit and send a fully signed transaction; flopd sends it again until it is confirmed."""
        return await self._call("tx.submit", TxIntent, {"hex": raw, "key": key, "purpose": purpose, "ref": ref})

    async def sign(self, raw: str, prevouts: Sequence[PrevOut], pubkey: str) -> list[str]:
        """Our signature of each input of a channel's transaction."""
        params = {"hex": raw, "prevouts": [prevout.model_dump() for prevout in prevouts], "pubkey": pubkey}
        return (await self._call("tx.sign", Signatures, params)).signatures


class Rulekeeping(Protocol):
    """The rules in force; `duxcommon.rulekeeper.RuleKeeper` keeps them."""

    @property
    def book(self) -> Book:
        """The rules as known now."""

    @property
    def trouble(self) -> str:
        """Why they are not known further; empty when all is well."""

    async def refresh(self) -> Book:
        """Ask dux-airdropd; never raises."""


class Peers:
    """The escrowd of other nodes. What it answers is checked for its form here and for its truth by the caller."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def _call(self, node: str, method: str, params: dict[str, Any], reply: type[M]) -> M:
        request = {"node": node, "method": method, "params": params, "timeout_s": PEER_TIMEOUT_S}
        try:
            answer = await self._client.call("peer.call", PeerReply, request, timeout=PEER_TIMEOUT_S + 10)
        except UnknownNode as error:
            raise ProviderUnknown(f"node {node[:16]}… is not known here") from error
        try:
            return reply.model_validate(answer.result)
        except ValidationError as error:
            raise PeerMisbehaved(f"node {node[:16]}… answered {method} with something else than it declares") from error

    async def propose(self, node: str, buyer_pubkey: str, arbiter_pubkey: str) -> ProviderTerms:
        """Ask a provider for its terms."""
        params = {"buyer_pubkey": buyer_pubkey, "arbiter_pubkey": arbiter_pubkey}
        return await self._call(node, "channel.propose", params, ProviderTerms)

    async def funded(self, node: str, contract: ChannelContract, deposits: Sequence[Deposit]) -> ChannelAck:
        """Tell a provider the contract and the deposit that is about to be sent."""
        params = {"contract": contract.model_dump(), "deposits": [deposit.model_dump() for deposit in deposits]}
        return await self._call(node, "channel.funded", params, ChannelAck)

    async def state(self, node: str, state: SignedState) -> ChannelAck:
        """Give a provider the newest signed state."""
        return await self._call(node, "channel.state", {"state": state.model_dump()}, ChannelAck)

    async def settle(self, node: str, channel: str, state: SignedState | None) -> CloseReply:
        """Ask a provider to close together."""
        params = {"channel": channel, "state": None if state is None else state.model_dump()}
        return await self._call(node, "channel.settle", params, CloseReply)
