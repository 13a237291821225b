"""Replies of dux-taskd and the sandbox worker: `task.* provider.* sandbox.*`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .common import Base64, ChannelId, Hash32, Koinu, Model, NodeId, PaymentId, SignedRecord, TaskId, UnixTime

TaskState = Literal["QUEUED", "HELD", "ORDERED", "RESULT", "DONE", "FAILED", "CANCELLED"]
"""QUEUED → HELD (money reserved) → ORDERED (sent) → RESULT (arrived, being checked) → DONE (paid)."""

INLINE_MAX = 65_536
"""Bytes of a payload that travel inside the message; larger ones go by hash."""


class Payload(Model):
    """A file by its SHA-256; `data` holds it where it is at most 64 KiB, else it is a blob."""

    hash: Hash32
    size: int
    media: str = "application/octet-stream"
    data: Base64 | None = None


class OrderBody(Model):
    """Body of a signed record of kind `order`: what the buyer asks for and will pay."""

    task: TaskId
    provider: NodeId
    app: Hash32
    bundle: Hash32
    """Of the listing that the buyer saw, so that code and price can't change under it."""
    input: Hash32 | None
    input_size: int
    params: Annotated[str, Field(max_length=40_000)]
    """JSON text of the parameters. As text, because records hold no fractions, and parameters may."""
    price: Koinu
    channel: ChannelId
    deadline: UnixTime


class ReceiptBody(Model):
    """Body of a signed record of kind `receipt`: what the provider says it did."""

    task: TaskId
    order: Hash32
    """SHA-256 of the order's canonical bytes."""
    ok: bool
    output: Hash32 | None
    output_size: int
    media: str
    error: str
    """Name of the error when `ok` is false."""
    detail: str
    wall_ms: int
    cpu_ms: int


class OrderReply(Model):
    """The provider's answer to `task.order` and `task.poll`."""

    task: TaskId
    state: Literal["queued", "running", "done", "failed"]
    progress: Annotated[int, Field(ge=0, le=100)]
    log: str
    """What the app printed since `log_offset`, at most 16 KiB."""
    log_offset: int
    receipt: SignedRecord | None
    output: Base64 | None
    """The result where it is at most 64 KiB; otherwise fetched by its hash."""


class OrderAnswer(Model):
    """An `OrderReply` as taskd answers it on its own socket: the gateway signs `receipt` on the way out."""

    task: TaskId
    state: Literal["queued", "running", "done", "failed"]
    progress: Annotated[int, Field(ge=0, le=100)]
    log: str
    log_offset: int
    """Ask from here next time."""
    receipt: ReceiptBody | None
    output: Base64 | None


class Attempt(Model):
    provider: NodeId
    price: Koinu
    payment: PaymentId | None
    outcome: str
    """running, paid, refunded, or the name of the error."""
    detail: str


class Task(Model):
    id: TaskId
    app: Hash32
    name: str
    state: TaskState
    step: str
    """What is happening now, for people."""
    progress: Annotated[int, Field(ge=0, le=100)]
    price: Koinu | None
    provider: NodeId | None
    payment: PaymentId | None
    result: Payload | None
    error: dict[str, Any] | None
    """An error object (code, message, data) when the state is FAILED."""
    attempts: list[Attempt]
    created: UnixTime
    finished: UnixTime | None


class TaskPage(Model):
    tasks: list[Task]
    next: str | None


class TaskLog(Model):
    task: TaskId
    text: str
    next_offset: int


class ProviderLimits(Model):
    """What the owner of this machine lends."""

    tasks: Annotated[int, Field(ge=0, le=1024)]
    """Tasks that may run at once."""
    queue: Annotated[int, Field(ge=0, le=100_000)]
    memory_mb: Annotated[int, Field(ge=0)]
    paused: bool
    running: int
    queued: int
    sandbox: Literal["ok", "degraded", "missing"]
    reason: str


class SandboxStatus(Model):
    """`ok`: namespaces and cgroups; `degraded`: no cgroup, own apps only; `missing`: no task is run."""

    state: Literal["ok", "degraded", "missing"]
    reason: str
    bwrap: str
    cgroup: Literal["v2", "v1", "none"]
    running: int


class SandboxInput(Model):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    blob: Hash32 | None = None
    data: Base64 | None = None


class SandboxLimits(Model):
    memory_mb: Annotated[int, Field(ge=16, le=1_048_576)]
    """Of all the task's processes and its scratch files together (those live in memory)."""
    cpu_s: Annotated[int, Field(ge=1, le=86_400)]
    wall_s: Annotated[int, Field(ge=1, le=86_400)]
    disk_mb: Annotated[int, Field(ge=1, le=1_048_576)]
    processes: Annotated[int, Field(ge=1, le=4096)]
    output_bytes: Annotated[int, Field(ge=0, le=2**40)]
    output_files: Annotated[int, Field(ge=0, le=10_000)] = 64


class SandboxFile(Model):
    name: str
    hash: Hash32
    size: int
    data: Base64 | None = None
    """Where it is at most 64 KiB; otherwise it is in the blob store."""


class SandboxResult(Model):
    outcome: Literal["ok", "failed", "timeout", "memory", "killed", "output", "large"]
    """`failed`: a non-zero exit; `output`: it left something else than plain files; `large`: too much of them."""
    exit_code: int | None
    detail: str
    wall_ms: int
    cpu_ms: int
    files: list[SandboxFile]
    log: str
    """The last 16 KiB of stdout and stderr."""


class SandboxLog(Model):
    text: str
    next_offset: int
    progress: Annotated[int, Field(ge=0, le=100)]
