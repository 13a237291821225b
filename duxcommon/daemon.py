"""The lifecycle that every daemon subclasses: configuration, socket, RPC, reload, drain, systemd, logs."""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import RootModel

from . import __version__, failpoint, logs, sdnotify
from .api.common import Model
from .clock import CLOCK
from .config import Settings, load
from .db import Store
from .errors import AlreadyRunning, ConfigError, DuxError
from .network import NetworkDefinition, load_network
from .refusal import bad_configuration, refused
from .rpc import Client, Server, collect, method, wire
from .rpc.caller import unknown_groups
from .rpc.openrpc import document

BACKLOG = 1024
KEEP_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Python 3.13 would remove the socket's file by itself, even when it is systemd's."""


class DaemonStatus(Model):
    """What `daemon.status` answers."""

    name: str
    version: str
    pid: int
    uptime_s: int
    network: str
    worthless: bool
    calls: int
    failures: int
    """Calls that ended in an internal error."""
    commits: int
    """Durable commits of its database since the start."""
    rules: int | None
    """Version of the voted rules in use; null where none are needed."""
    notes: list[str]
    """What is not as it should be, for people; empty when all is well."""


class Discovery(RootModel[dict[str, Any]]):
    """An OpenRPC document."""


class CommonMethods:
    """What every daemon answers."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon

    @method("rpc.discover", access="read", peers=True)
    async def discover(self) -> Discovery:
        """Describe all methods of this daemon as an OpenRPC document."""
        return Discovery(document(self._daemon.name, [b.spec for b in self._daemon.bound.values()]))

    @method("daemon.status", access="read")
    async def status(self) -> DaemonStatus:
        """Tell whether this daemon is well, its version and how long it has been running."""
        daemon = self._daemon
        return DaemonStatus(
            name=daemon.name,
            version=__version__,
            pid=os.getpid(),
            uptime_s=int(time.monotonic() - daemon.started),
            network=daemon.network.name,
            worthless=daemon.network.worthless,
            calls=daemon.server.calls,
            failures=daemon.server.failures,
            commits=daemon.store.commits if hasattr(daemon, "store") else 0,
            rules=daemon.rules_version(),
            notes=[*daemon.notes(), *daemon.common_notes()],
        )


class Daemon:
    """Subclass it, set `name` and `settings_model`, and override `start`, `stop`, `methods` as needed."""

    name: ClassVar[str]
    settings_model: ClassVar[type[Settings]]
    settings: Any
    """An instance of `settings_model`."""
    store: Store
    """The daemon's database, set by `start` of those that have one."""

    def __init__(self, settings: Settings, network: NetworkDefinition, config_path: Path) -> None:
        self.settings = settings
        self.network = network
        self.config_path = config_path
        self.log = logging.getLogger(self.name)
        self.started = time.monotonic()
        self._clients: dict[str, Client] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending = asyncio.Event()
        self._wants_reload = asyncio.Event()
        self._listener_lock: int | None = None
        self.exit_code = 0
        self._passed = False

    # --- for subclasses ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open stores and start background work; the socket answers only after this returns."""

    async def stop(self) -> None:
        """Close what `start` opened; calls in flight have ended by then."""

    async def reload(self, settings: Any) -> None:
        """Take new settings; raise ConfigError to keep the old ones."""

    def methods(self) -> Iterable[object]:
        """The `*Methods` objects to serve."""
        return ()

    def notes(self) -> list[str]:
        """What is not as it should be, in a sentence each."""
        return []

    def common_notes(self) -> list[str]:
        """What can be wrong in every daemon: the clock, the disk, the log file, groups that do not exist."""
        stores = [part for part in vars(self).values() if isinstance(part, Store)]
        return [
            *filter(None, [CLOCK.fault(), *(store.trouble for store in stores), logs.trouble()]),
            # Only an installed machine, whose systemd makes the sockets, has the groups that are there by default.
            *unknown_groups(self.settings.access, defaults=self._passed),
        ]

    def rules_version(self) -> int | None:
        """Version of the voted rules in use; None for a daemon that needs none."""
        return None

    def rpc(self, daemon: str) -> Client:
        """The client to another daemon of this node; made once."""
        if daemon not in self._clients:
            self._clients[daemon] = Client(self.settings.run_dir / f"{daemon}.sock")
        return self._clients[daemon]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run background work until the daemon stops; if it fails, the daemon logs it and ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def failpoint(self, point: str) -> None:
        """A place where crash tests kill this daemon."""
        failpoint.hit(f"{self.name}:{point}")

    # --- lifecycle --------------------------------------------------------------------------------------------

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A daemon without one of its loops only looks alive; systemd starts it anew.
            self.log.error("background work failed", exc_info=error, extra={"task": task.get_name()})
            self.exit_code = 1
            self._ending.set()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the process's exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._wants_reload.set)
        listener = self._listen()
        try:
            await self.start()
            self.bound = collect([CommonMethods(self), *self.methods()])
            self.server = Server(self.bound, self.settings.access, self.settings.calls_per_second)
            self.spawn(self._reload_on_demand(), "reload")
            served = await asyncio.start_unix_server(
                self.server.serve_connection, sock=listener, limit=wire.MAX_MESSAGE, backlog=BACKLOG, **KEEP_FILE
            )
            await asyncio.to_thread(sdnotify.notify, "READY=1")
            if (interval := sdnotify.watchdog_interval()) is not None:
                self.spawn(self._watchdog(interval), "watchdog")
            if (fault := CLOCK.fault()) is not None:
                self.log.warning(fault)
            for note in unknown_groups(self.settings.access, defaults=self._passed):
                self.log.warning(note)
            self.log.info("ready", extra={"version": __version__, "pid": os.getpid(), "network": self.network.name})
            await self._ending.wait()
            await asyncio.to_thread(sdnotify.notify, "STOPPING=1")
            self._unlink(listener)
            served.close()
            await self.server.drain(self.settings.drain_s)
        finally:
            await self._end_tasks()
            await self.stop()
            for client in self._clients.values():
                await client.close()
            self._unlink(listener)
            listener.close()
        self.log.info("stopped")
        return self.exit_code

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.remove_done_callback(self._task_ended)
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                self.log.warning("background work ended badly while stopping", exc_info=result)

    async def _watchdog(self, interval: float) -> None:
        while True:
            await asyncio.to_thread(sdnotify.notify, "WATCHDOG=1")
            await asyncio.sleep(interval)

    async def _reload_on_demand(self) -> None:
        while True:
            await self._wants_reload.wait()
            self._wants_reload.clear()
            await self._reload()

    async def _reload(self) -> None:
        try:
            settings = await asyncio.to_thread(load, self.settings_model, self.config_path)
            fixed = [
                n for n in ("run_dir", "state_dir", "network") if getattr(settings, n) != getattr(self.settings, n)
            ]
            if fixed:
                raise ConfigError(f"{', '.join(fixed)} can't change while the daemon runs", hint="Restart it instead.")
            await self.reload(settings)
        except DuxError as error:
            self.log.warning("the new configuration is not used: " + error.message, extra={"hint": error.hint})
            return
        except Exception:
            self.log.exception("taking the new configuration failed; the old one stays")
            return
        self.settings = settings
        self.server.configure(settings.access, settings.calls_per_second)
        logging.getLogger().setLevel(settings.log_level.upper())
        self.log.info("configuration reloaded")

    # --- socket -----------------------------------------------------------------------------------------------

    @property
    def socket_path(self) -> Path:
        """Where this daemon answers."""
        path: Path = self.settings.run_dir / f"{self.name}.sock"
        return path

    def _listen(self) -> socket.socket:
        passed = sdnotify.passed_sockets()
        if passed:
            self._passed = True
            return passed[0]
        self._passed = False
        path = self.socket_path
        try:
            self._listener_lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"can't make sockets in {path.parent}: {error}", hint="Start it by systemd, or set `run_dir`."
            ) from error
        try:
            fcntl.flock(self._listener_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(f"another process serves {path}") from error
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Permissions by umask, not chmod afterwards: in between anyone could connect.
        old = os.umask(0o117)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise ConfigError(f"can't make the socket {path}: {error}") from error
        finally:
            os.umask(old)
        return listener

    def _unlink(self, listener: socket.socket) -> None:
        if self._passed or self._listener_lock is None:
            return
        with contextlib.suppress(FileNotFoundError):
            self.socket_path.unlink()
        os.close(self._listener_lock)
        self._listener_lock = None


def run(daemon: type[Daemon], argv: Sequence[str]) -> int:
    """The main function of every daemon; returns the exit status (78 for a bad configuration)."""
    parser = argparse.ArgumentParser(
        prog=f"dux-{daemon.name}",
        description=(daemon.__doc__ or "").strip().split("\n")[0],
        epilog=f"example: dux-{daemon.name} --config /etc/duxnet/{daemon.name}.yaml --check",
    )
    parser.add_argument("--config", type=Path, default=Path(f"/etc/duxnet/{daemon.name}.yaml"), metavar="FILE")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--version", action="version", version=__version__)
    args = parser.parse_args(argv)
    try:
        settings = load(daemon.settings_model, args.config)
        network = load_network(settings.network)
        if args.check:
            print(f"{args.config}: good")
            for note in unknown_groups(settings.access, defaults=False):
                print(f"note: {note}")
            return 0
        logs.setup(daemon.name, settings.log_level, settings.log_dir)
    except (DuxError, OSError) as error:
        return bad_configuration(daemon.name, error)

    async def main() -> int:
        return await daemon(settings, network, args.config).run()

    # Imports are done: what they left behind need not be looked at by the garbage collector again.
    gc.freeze()
    try:
        return asyncio.run(main())
    except (DuxError, OSError) as error:
        return refused(daemon.name, error, settings.state_dir)
