"""The `node.* peer.* blob.* directory.*` methods."""

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from duxcommon.api.common import Base64, Hash32, NodeId, Ok, Seconds, SignedRecord
from duxcommon.api.registryd import (
    BlobChunk,
    DirectoryStats,
    Identity,
    NodeInfo,
    NodePage,
    PeerInfo,
    PeerPage,
    PeerReply,
    Transfer,
    UploadStatus,
)
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    BadRecord,
    BlobDamaged,
    BlobTooLarge,
    BlobUnknown,
    ClockWrong,
    DiskFull,
    DuxError,
    InvalidParams,
    MessageTooLarge,
    MethodNotForPeers,
    NotFound,
    NotOffered,
    PeerProtocol,
    PeerUnreachable,
    QuotaExceeded,
    RemoteError,
    SigningRefused,
    TimedOut,
    UnknownNode,
    UploadMismatch,
    WrongNetwork,
)
from duxcommon.network import NetworkDefinition
from duxcommon.rpc import Caller, method

from .gateway import Gateway
from .heartbeat import Heartbeat
from .nodes import Filter, Nodes
from .settings import Role
from .signing import Signer
from .transfers import Downloads, Offers
from .transport import Transport
from .uploads import Uploads

NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z-]{1,31}$")]
MethodName = Annotated[str, Field(pattern=r"^[a-z]+\.[a-z][a-z_]*$", max_length=64)]
UploadName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Size = Annotated[int, Field(ge=0, le=2**40)]
MAX_READ = 3 * 1024 * 1024
"""Bytes of one blob.read; its base64 fits into a message."""
DAY_S = 86_400
_NODE = "ab" * 32
_UNREACHABLE = (UnknownNode, PeerUnreachable, WrongNetwork, PeerProtocol, QuotaExceeded)


class NodeMethods:
    """This node, the others, and signatures."""

    def __init__(self, network: NetworkDefinition, nodes: Nodes, heartbeat: Heartbeat, signer: Signer) -> None:
        self._network = network
        self._nodes = nodes
        self._heartbeat = heartbeat
        self._signer = signer

    @method("node.self", access="read")
    async def self_(self) -> Identity:
        """Tell this node's id, its network and where other nodes reach it."""
        return Identity(
            node=self._signer.node_id,
            network=self._signer.network_id,
            network_name=self._signer.network_name,
            addresses=self._heartbeat.addresses(),
            worthless=self._network.worthless,
        )

    @method("node.list", access="read", example={"live": True, "role": "provider"})
    async def list_(
        self,
        limit: Annotated[int, Field(ge=1, le=500)] = 100,
        after: NodeId | None = None,
        *,
        live: bool | None = True,
        accepting: bool | None = None,
        app: Hash32 | None = None,
        role: Role | None = None,
        name: NodeName | None = None,
        arch: Annotated[str, Field(max_length=32)] | None = None,
        gpu: bool | None = None,
        min_cpu: Size | None = None,
        min_memory_mb: Size | None = None,
        min_storage_mb: Size | None = None,
        max_load_pct: Size | None = None,
    ) -> NodePage:
        """List the nodes of the network that meet all conditions, by id.

        Only live ones unless `live` is false (gone ones) or null (all). `after` is the `next` of the page before.
        """
        wanted = Filter(
            live=live, accepting=accepting, app=app, role=role, name=name, arch=arch, gpu=gpu, min_cpu=min_cpu,
            min_memory_mb=min_memory_mb, min_storage_mb=min_storage_mb, max_load_pct=max_load_pct,
        )  # fmt: skip
        return await asyncio.to_thread(self._nodes.page, wanted, limit, after)

    @method("node.show", access="read", errors=(UnknownNode,), example={"node": _NODE})
    async def show(self, node: NodeId) -> NodeInfo:
        """Show what a node says of itself, when it was heard of last, and the round trip to it in ms."""
        return self._nodes.show(node)

    @method("node.register", access="admin", errors=(ClockWrong,), example={"name": "attic", "roles": ["provider"]})
    async def register(
        self,
        name: NodeName | None = None,
        roles: Annotated[list[Role], Field(max_length=4)] | None = None,
        *,
        accepting: bool | None = None,
    ) -> NodeInfo:
        """Set this node's name, its roles and whether it takes work; what is left out stays as it is."""
        return await self._heartbeat.change(name=name, roles=roles, accepting=accepting)

    @method(
        "node.update", access="daemon", errors=(ClockWrong,), example={"apps": [], "load_pct": 50, "accepting": True}
    )
    async def update(
        self,
        apps: Annotated[list[Hash32], Field(max_length=256)] | None = None,
        load_pct: Annotated[int, Field(ge=0, le=100_000)] | None = None,
        *,
        accepting: bool | None = None,
    ) -> NodeInfo:
        """Set the apps that this node serves, its load in percent, and whether it takes work.

        A change of apps or readiness is announced at once, the load with the next heartbeat.
        """
        urgent = apps is not None or accepting is not None
        return await self._heartbeat.change(now=urgent, apps=apps, load_pct=load_pct, accepting=accepting)

    @method(
        "node.sign", access="daemon", errors=(SigningRefused, BadRecord, ClockWrong),
        example={"kind": "receipt", "body": {"task": "00" * 16}},
    )  # fmt: skip
    async def sign(
        self,
        kind: Kind,
        body: dict[str, Any],
        seq: Annotated[int, Field(ge=0, le=2**53)] | None = None,
        *,
        caller: Caller,
    ) -> SignedRecord:
        """Sign a record with the node's key; each kind only for the daemon that it belongs to.

        Without `seq` its sequence number is the time in ms.
        """
        self._signer.check(kind, caller)
        return self._signer.sign(kind, self._signer.next_seq() if seq is None else seq, body)


class PeerMethods:
    """Calls to other nodes, and payloads between them."""

    def __init__(self, transport: Transport, gateway: Gateway, offers: Offers, downloads: Downloads) -> None:
        self._transport = transport
        self._gateway = gateway
        self._offers = offers
        self._downloads = downloads

    @method(
        "peer.call", access="daemon", timeout_s=30.0,
        # DuxError: the peer's method may answer any error of its own.
        errors=(
            *_UNREACHABLE, MethodNotForPeers, TimedOut, SigningRefused, InvalidParams, BadRecord, ClockWrong,
            RemoteError, MessageTooLarge, DuxError,
        ),
        example={"node": _NODE, "method": "task.poll", "params": {"task": "00" * 16, "wait_s": 5.0}},
    )  # fmt: skip
    async def call(
        self,
        node: NodeId,
        method: MethodName,
        params: dict[str, Any] = {},  # noqa: B006  (copied by the declaration)
        timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0,
        sign: Kind | None = None,
        *,
        caller: Caller,
    ) -> PeerReply:
        """Call a method of another node that is declared for peers.

        With `sign`, `params[sign]` is a body that is signed as a record of that kind on its way. What the peer
        refuses comes back as its own error, with its node id as detail `peer`.
        """
        result = await self._gateway.call(
            self._transport, node, method, params, caller=caller, timeout_s=timeout_s, sign=sign
        )
        return PeerReply(result=result)

    @method("peer.list", access="read")
    async def list_(self) -> PeerPage:
        """List the nodes that this one has talked to since it was started, busiest first."""
        known = self._transport.peers.known().items()
        peers = [
            PeerInfo(
                node=node,
                connected=self._transport.connected(node),
                latency_ms=peer.latency_ms,
                calls=peer.calls,
                refused=peer.refused,
                bytes_in=peer.bytes_in,
                bytes_out=peer.bytes_out,
            )
            for node, peer in known
        ]
        return PeerPage(peers=sorted(peers, key=lambda p: p.bytes_in + p.bytes_out, reverse=True)[:1000])

    @method(
        "peer.offer", access="daemon", errors=(BlobUnknown, QuotaExceeded),
        example={"hash": _NODE, "node": "cd" * 32, "ttl_s": 3600},
    )  # fmt: skip
    async def offer(
        self, hash: Hash32, node: NodeId | None = None, ttl_s: Annotated[int, Field(ge=1, le=30 * DAY_S)] = DAY_S
    ) -> Ok:
        """Let a node fetch a payload for a time (every node, where none is named)."""
        await self._offers.add(hash, node, ttl_s)
        return Ok()

    @method(
        "peer.fetch", access="daemon",
        errors=(*_UNREACHABLE, NotOffered, BlobUnknown, BlobTooLarge, BlobDamaged, DiskFull),
        example={"node": _NODE, "hash": "cd" * 32, "size": 1000, "wait_s": 20.0},
    )  # fmt: skip
    async def fetch(self, node: NodeId, hash: Hash32, size: Size, wait_s: Seconds = 0.0) -> Transfer:
        """Start or join the download of a payload into the node's blob store, and wait up to `wait_s` for its end.

        It goes on in the background; the next call tells how far it is. After an error the next call resumes it.
        """
        return await self._downloads.fetch(node, hash, size, wait_s)


class BlobMethods:
    """The node's payloads, for programs without access to its blob store."""

    def __init__(self, blobs: BlobStore, uploads: Uploads) -> None:
        self._blobs = blobs
        self._uploads = uploads

    @method(
        "blob.write", access="spend", errors=(UploadMismatch, BlobTooLarge, DiskFull, QuotaExceeded, InvalidParams),
        example={"upload": "photo-1", "offset": 0, "data": "aGVsbG8=", "final": True},
    )  # fmt: skip
    async def write(
        self, upload: UploadName, offset: Size, data: Base64, *, final: bool = False, caller: Caller
    ) -> UploadStatus:
        """Write the next piece of a payload of at most 64 MiB; the last one (`final`) makes it a blob.

        `upload` is a name of your choice. Offset 0 begins anew; a piece that was written before is skipped.
        """
        try:
            piece = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise InvalidParams(f"blob.write: data: {error}") from None
        return await self._uploads.write(caller.uid, upload, offset, piece, final=final)

    @method("blob.read", access="read", errors=(NotFound,), example={"hash": _NODE, "offset": 0, "length": 65536})
    async def read(
        self, hash: Hash32, offset: Size = 0, length: Annotated[int, Field(ge=1, le=MAX_READ)] = MAX_READ
    ) -> BlobChunk:
        """Read a piece of a payload, of at most 3 MiB."""
        size = self._blobs.size(hash)
        data = await asyncio.to_thread(self._blobs.read, hash, offset, length)
        return BlobChunk(hash=hash, size=size, offset=offset, data=base64.b64encode(data).decode())


class DirectoryMethods:
    """The records that the network shares."""

    def __init__(self, stats: Callable[[], DirectoryStats]) -> None:
        self._stats = stats

    @method("directory.stats", access="read")
    async def stats(self) -> DirectoryStats:
        """Tell how many records this node puts, how many it refused and why, and how many nodes it is joined to."""
        return self._stats()
