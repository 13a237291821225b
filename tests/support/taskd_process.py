"""dux-taskd as a process whose apps are one coroutine: what comes in goes out. For tests that kill it.

python -m tests.support.taskd_process --config FILE
"""

import sys
from collections.abc import Mapping

from dux_taskd.__main__ import TaskDaemon
from dux_taskd.runtimes.base import Runtime
from duxcommon.daemon import run
from tests.taskd_kit import StubRuntime


class EchoTaskDaemon(TaskDaemon):
    """taskd without a sandbox."""

    def make_runtimes(self) -> Mapping[str, Runtime]:
        """Both kinds echo; `runs.txt` in the state folder has a line for each execution."""
        runtime = StubRuntime()
        runtime.note = self.settings.state_dir / "runs.txt"
        return {"command": runtime, "http": runtime}


if __name__ == "__main__":
    sys.exit(run(EchoTaskDaemon, sys.argv[1:]))
