"""A store without a daemon: real listings and publisher on a stand-in directory."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dux_store.listings import KIND, MIGRATIONS, Listings, app_id
from dux_store.methods import AppMethods
from dux_store.publishing import Publisher
from duxcommon import bundle
from duxcommon.api.common import SignedRecord
from duxcommon.api.manifest import Manifest
from duxcommon.api.registryd import Hardware, ListingBody, NodeInfo, NodeRecord
from duxcommon.blobs import BlobStore
from duxcommon.db import Store
from duxcommon.identity import Identity
from duxcommon.network import Member, NetworkDefinition
from duxcommon.records import sign_record

NETWORK = "11" * 32
OTHER_NETWORK = "22" * 32


def network() -> NetworkDefinition:
    """A definition with the least that one needs."""
    member = Member(node="33" * 32, pubkey="02" + "44" * 32)
    return NetworkDefinition(
        name="testnet", chain="devnet", genesis="00" * 32, birth_height=0, bootstrap=[],
        guardians=[member], guardians_m=1, arbiters=[member],
    )  # fmt: skip


class Signer:
    """A node's key."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.node_id = identity.node_id
        self.network_id = NETWORK

    def sign(self, kind: str, seq: int, body: dict[str, Any]) -> SignedRecord:
        return sign_record(self.identity, kind, self.network_id, seq, body)


class Directory:
    """Remembers what was put; `deliver` is a record that arrives."""

    def __init__(self) -> None:
        self.announced: list[SignedRecord] = []
        self.kept: list[SignedRecord] = []
        self.reachable = True
        self._callbacks: dict[str, Callable[[SignedRecord], Awaitable[bool]]] = {}

    async def announce(self, record: SignedRecord) -> bool:
        self.announced.append(record)
        return self.reachable

    def keep(self, record: SignedRecord) -> None:
        self.kept.append(record)

    def on(self, kind: str, callback: Callable[[SignedRecord], Awaitable[bool]]) -> None:
        self._callbacks[kind] = callback

    async def deliver(self, record: SignedRecord) -> bool:
        return await self._callbacks[KIND](record)


class Nodes:
    """The nodes of a test."""

    def __init__(self) -> None:
        self.infos: list[NodeInfo] = []

    def add(self, node: str, apps: list[str], *, live: bool = True, accepting: bool = True, **more: Any) -> None:
        record = NodeRecord(
            name=more.get("name", "node"), addresses=[], apps=apps, accepting=accepting, version="1",
            load_pct=more.get("load_pct", 0), hardware=Hardware(cpu_cores=1, memory_mb=1, storage_mb=1, arch="x86_64"),
        )  # fmt: skip
        self.infos.append(
            NodeInfo(node=node, seq=1, seen=0, live=live, latency_ms=more.get("latency_ms"), record=record)
        )

    def serving(self, app: str) -> Sequence[NodeInfo]:
        return [info for info in self.infos if app in info.record.apps]

    def live_apps(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for info in self.infos:
            for app in info.record.apps if info.live and info.record.accepting else []:
                counts[app] = counts.get(app, 0) + 1
        return counts


class Shop:
    """One node's store with all its parts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.signer = Signer(Identity.load_or_create(folder / "node.key"))
        self.database = Store(folder / "store.db", MIGRATIONS)
        self.listings = Listings(self.database, self.signer)
        self.directory, self.nodes = Directory(), Nodes()
        self.blobs = BlobStore(folder / "blobs")
        self.publisher = Publisher(self.listings, self.directory, self.signer, self.blobs)
        self.methods = AppMethods(self.listings, self.publisher, self.nodes, network())

    def upload(self, app: Path) -> str:
        """Pack an app's folder into the blob store; its hash."""
        packed = bundle.pack(app, self.folder / "upload.tar")
        assert self.blobs.put_file(self.folder / "upload.tar") == packed.hash
        return packed.hash


@asynccontextmanager
async def shop(folder: Path) -> AsyncIterator[Shop]:
    """A started store in `folder`."""
    made = Shop(folder)
    await made.publisher.start()
    try:
        yield made
    finally:
        await made.database.close()


def seller(folder: Path, name: str = "seller") -> Identity:
    """Another node's key."""
    return Identity.load_or_create(folder / f"{name}.key")


def manifest(name: str = "hello", **more: Any) -> Manifest:
    fields = {"version": "1.0", "summary": "Says hello.", "price": 50_000_000, "runtime": "command", "command": ["x"]}
    return Manifest.model_validate({"name": name, **fields, **more})


def listing(
    identity: Identity, seq: int = 1, network: str = NETWORK, body: dict[str, Any] | None = None, **more: Any
) -> SignedRecord:
    """A signed listing; `more` goes to the manifest, `body` over the record's body."""
    shown = manifest(**more)
    content = ListingBody(
        app=app_id(identity.node_id, shown.name), manifest=shown, bundle="ab" * 32, bundle_size=1000
    ).model_dump()
    return sign_record(identity, KIND, network, seq, {**content, **(body or {})})


APP_FILES = {
    "dux.yaml": 'name: {name}\nversion: "1.0"\nsummary: Says hello.\ntags: [text]\nprice: "0.5"\nruntime: command\n'
    "command: [python3, /app/main.py]\ninput: {{required: false}}\ndeterministic: true\n"
    "sample: {{output: sample/out}}\n",
    "main.py": "open('/out/output', 'w').write('hello')\n",
    "sample/out": "hello",
}


def write_app(folder: Path, name: str = "hello", **replace: str) -> Path:
    """A small app that passes the scan; `replace` maps paths (with __ for / and _dot_ for .) to other contents."""
    files = APP_FILES | {path.replace("__", "/").replace("_dot_", "."): text for path, text in replace.items()}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text.format(name=name) if path == "dux.yaml" else text)
    return folder
