"""Starts dux-sandbox."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from duxcommon.blobs import BlobStore
from duxcommon.daemon import Daemon, run

from .methods import SandboxMethods
from .probe import probe
from .runner import Runner
from .settings import MIB, SandboxSettings


class SandboxDaemon(Daemon):
    """The worker that alone starts sandboxes, one for each task; it knows nothing of money or peers."""

    name = "sandbox"
    settings_model = SandboxSettings
    settings: SandboxSettings

    async def start(self) -> None:
        """Probe the machine."""
        self.runner = await self._runner(self.settings)

    async def stop(self) -> None:
        """End all tasks."""
        if hasattr(self, "runner"):
            await self.runner.close()

    async def reload(self, settings: Any) -> None:
        """Probe again, as after installing bubblewrap; running tasks are ended."""
        await self.runner.close()
        self.runner = await self._runner(settings)

    def methods(self) -> Iterable[object]:
        """`sandbox.*`."""
        return (SandboxMethods(self),)

    def notes(self) -> list[str]:
        """Why work is refused."""
        found = self.runner.found
        return [] if found.state == "ok" else [f"sandbox {found.state}: {found.reason}"]

    async def _runner(self, settings: SandboxSettings) -> Runner:
        found = await probe(settings)
        self.log.info("sandbox probed", extra={"state": found.state, "reason": found.reason})
        return Runner(
            found,
            BlobStore(settings.blobs_dir),
            places=settings.max_parallel,
            cache_bytes=settings.bundle_cache_mb * MIB,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped."""
    return run(SandboxDaemon, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
