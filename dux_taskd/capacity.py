"""What the owner of this machine lends, and whether one more task fits. Pure."""

from dataclasses import dataclass

from duxcommon.errors import ProviderBusy, ProviderPaused, TaskTooLarge


@dataclass(frozen=True, slots=True)
class Lent:
    """The owner's limits: tasks at once, accepted tasks that wait, memory of all running ones in MB."""

    tasks: int
    queue: int
    memory_mb: int
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """What is taken of it now."""

    running: int = 0
    queued: int = 0
    memory_mb: int = 0


def fits(lent: Lent, use: Use, need_mb: int) -> bool:
    """Whether a task may start now."""
    return use.running < lent.tasks and use.memory_mb + need_mb <= lent.memory_mb


def admit(lent: Lent, use: Use, need_mb: int) -> None:
    """Refuse a task that could not be done, or only after too many others.

    Raises ProviderPaused, TaskTooLarge or ProviderBusy.
    """
    if lent.paused or lent.tasks == 0:
        raise ProviderPaused("this machine lends nothing now")
    if need_mb > lent.memory_mb:
        raise TaskTooLarge(f"the app needs {need_mb} MB, this machine lends {lent.memory_mb} MB")
    if not fits(lent, use, need_mb) and use.queued >= lent.queue:
        raise ProviderBusy(
            f"{use.running} tasks run and {use.queued} wait here",
            details={"running": use.running, "queued": use.queued},
        )


def load_pct(lent: Lent, use: Use) -> int:
    """Tasks running and waiting, as a percentage of what may run at once."""
    return min((use.running + use.queued) * 100 // max(lent.tasks, 1), 100_000)


def accepting(lent: Lent, use: Use) -> bool:
    """Whether a small task would be taken."""
    return not lent.paused and lent.tasks > 0 and (use.running < lent.tasks or use.queued < lent.queue)
