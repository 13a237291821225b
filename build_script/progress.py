"""What the build programs say while they work, and how they end when they are interrupted."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

PLAIN_EVERY_S = 20
"""Between two lines of progress where the output is not a terminal."""


class Failed(Exception):
    """Something that was needed did not work; the text says what, why and what to do now."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say that `what` is being done, how long it has been, and at the end how long it took."""
    start = time.monotonic()
    done = threading.Event()
    live = sys.stdout.isatty()

    def tick() -> None:
        while not done.wait(1 if live else PLAIN_EVERY_S):
            seconds = int(time.monotonic() - start)
            print(f"\r{what} … {seconds} s" if live else f"{what} … {seconds} s", end="" if live else "\n", flush=True)

    print(f"{what} …", end="" if live else "\n", flush=True)
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    word = "stopped after"
    try:
        yield
        word = "done in"
    finally:
        done.set()
        ticker.join()
        print(f"{chr(13) if live else ''}{what}: {word} {time.monotonic() - start:.0f} s", flush=True)


def run_logged(command: Sequence[str | Path], log: Path, what: str, **options: object) -> None:
    """Run it with its output appended to `log`.  Raises Failed with the log's last lines and its path."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, step(what):
        process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **options,  # type: ignore[call-overload]
        )
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
    if status:
        raise Failed(f"{what}: failed with status {status}\n{last_lines(log)}\nThe whole output is in {log}")


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log file, indented."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join("    " + line for line in lines[-count:])


def ended(main: Callable[[], int]) -> NoReturn:
    """Run a program's main: failures become one message and status 1, Ctrl-C and SIGTERM leave it tidy."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; nothing half-made was left", file=sys.stderr)
        sys.exit(130)
    except Failed as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(1)
