"""Configuration of dux-taskd."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from duxcommon.api.common import Hash32
from duxcommon.config import AbsolutePath, Settings


class BuyerSettings(BaseModel):
    """How this node has its own tasks done."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    parallel: Annotated[int, Field(ge=1, le=1000)] = 32
    """Tasks that are under way at once; the others wait in the queue."""
    queue: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Unfinished tasks at most."""
    deadline_s: Annotated[int, Field(ge=1, le=604_800)] = 900
    """Time for a task that names none."""
    silence_s: Annotated[int, Field(ge=1, le=3600)] = 60
    """A provider that does not answer for so long is given up."""
    poll_s: Annotated[int, Field(ge=1, le=60)] = 20
    """Longest wait of one question to a provider."""
    hold_s: Annotated[int, Field(ge=1, le=600)] = 3
    """Longest wait of one question to escrowd for a usable channel; it is asked again until the deadline."""
    listing_s: Annotated[int, Field(ge=0, le=300)] = 3
    """Listings and providers are asked for again after so long."""


class ProviderSettings(BaseModel):
    """What this machine lends; `provider.set_limits` overrides the first three."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    tasks: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Tasks that run at once; 0 lends nothing, null as many as there are cores."""
    queue: Annotated[int, Field(ge=0, le=100_000)] = 16
    """Accepted tasks that wait for their turn at most."""
    memory_mb: Annotated[int, Field(ge=0)] = 2048
    """Of all running tasks together, by their manifests."""
    serve: list[Hash32] = []
    """Apps of other publishers that this node offers too, by app id."""
    refresh_s: Annotated[int, Field(ge=1, le=300)] = 2
    """How often the node's own listings are looked at."""


class TaskdSettings(Settings):
    """`/etc/duxnet/taskd.yaml`."""

    blobs_dir: AbsolutePath = Path("/var/lib/duxnet/blobs")
    """The node's shared blob store."""
    buyer: BuyerSettings = BuyerSettings()
    provider: ProviderSettings = ProviderSettings()
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Tasks and runs that ended longer ago are forgotten; their money is in escrowd's books."""
