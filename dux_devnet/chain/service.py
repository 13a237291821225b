"""dux-devchain as a service: its configuration, users and door to other machines, reload, watchdog."""

import asyncio
import logging
import signal
import sqlite3
import ssl
from pathlib import Path

from duxcommon import logs, sdnotify
from duxcommon.errors import ConfigError, DuxError
from duxcommon.refusal import bad_configuration, refused

from . import faucet
from .pace import Pace
from .running import only_one, port_free, running
from .server import Server
from .settings import DevchainSettings, load_settings, load_users, tls_context
from .users import Users

log = logging.getLogger("devchain")

_STOP = "Stop what listens there (`ss -ltnp`, as root, names it): it is tried again by itself."
PORT_HINT = (
    f"{_STOP} Or set another `port` in /etc/duxnet/devchain.d/20-port.yaml and the same in `core: url` in "
    "/etc/duxnet/flopd.d/20-port.yaml."
)
LISTEN_HINT = f"{_STOP} It is the port of `listen`, for other machines: `dux-ctl network host --off` gives it up."
FIXED = ("datadir", "port", "log_dir")
"""Settings that can't change while the chain runs."""


class Service:
    """One run of the chain by its configuration."""

    def __init__(self, path: Path, settings: DevchainSettings, users: Users, context: ssl.SSLContext | None) -> None:
        self._path = path
        self._settings = settings
        self._users = users
        self._context = context
        self._reload = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises DuxError, OSError and sqlite3.Error for what can't be opened."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        settings = self._settings
        async with running(settings.datadir, "127.0.0.1", settings.port, "flopcoin", PORT_HINT) as server:
            server.users = self._users
            self._pace = Pace(
                server.node,
                server.mempool_grew,
                busy_s=settings.busy_block_s,
                idle_s=settings.idle_block_s,
                script=faucet.idle_script,
            )
            if self._context is not None:
                _open(server, settings, self._context)
            works = [self._pace.run(), self._reload_on_demand(server)]
            if (interval := sdnotify.watchdog_interval()) is not None:
                works.append(_watchdog(interval))
            await asyncio.to_thread(sdnotify.notify, "READY=1")
            tasks = [asyncio.create_task(work) for work in [*works, self._stop.wait()]]
            try:
                # Without one of its loops it would only look alive: systemd starts it anew.
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
            finally:
                await asyncio.to_thread(sdnotify.notify, "STOPPING=1")
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _reload_on_demand(self, server: Server) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                await self._take(server)
            except (DuxError, OSError) as error:
                log.warning("the configuration stays as it was: %s", error)
            else:
                log.info("configuration reloaded: %d users, listen %s", len(server.users), self._settings.listen)

    async def _take(self, server: Server) -> None:
        old, new = self._settings, await asyncio.to_thread(load_settings, self._path)
        fixed = [name for name in FIXED if getattr(new, name) != getattr(old, name)]
        if fixed:
            raise ConfigError(f"{', '.join(fixed)} can't change while the chain runs", hint="Restart it instead.")
        users, context = load_users(new), tls_context(new)
        if new.listen != old.listen:
            await server.close_tls()
            self._settings = old.model_copy(update={"listen": None})
        if context is not None and self._settings.listen != new.listen:
            _open(server, new, context)
        elif context is not None:
            server.renew_tls(context)
        users.after(server.users)
        server.users = users
        self._pace.busy_s, self._pace.idle_s = new.busy_block_s, new.idle_block_s
        logging.getLogger().setLevel(new.log_level.upper())
        self._settings = new


def _open(server: Server, settings: DevchainSettings, context: ssl.SSLContext) -> None:
    assert settings.listen is not None
    host, _, port = settings.listen.rpartition(":")
    try:
        with port_free(host, int(port), LISTEN_HINT):
            opened = server.open_tls(host.strip("[]"), int(port), context)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {settings.listen}: {error.strerror or error}",
            hint="Set `listen` to an address of this machine, such as 0.0.0.0:32554, or `dux-ctl network host --off`.",
        ) from error
    log.info("other machines are served on %s, port %d", host, opened)


async def _watchdog(interval: float) -> None:
    while True:
        await asyncio.to_thread(sdnotify.notify, "WATCHDOG=1")
        await asyncio.sleep(interval)


def main(path: Path, *, check: bool) -> int:
    """Run, or only check the configuration; the exit status (78 for a bad configuration)."""
    try:
        settings = load_settings(path)
        users, context = load_users(settings), tls_context(settings)
        if check:
            print(f"{path}: good")
            return 0
        logs.setup("devchain", settings.log_level, settings.log_dir)
    except (DuxError, OSError) as error:
        return bad_configuration("devchain", error)
    try:
        with only_one(settings.datadir):
            asyncio.run(_run(path, settings, users, context))
    except (DuxError, OSError, sqlite3.Error) as error:
        return refused("devchain", error, settings.datadir)
    return 0


async def _run(path: Path, settings: DevchainSettings, users: Users, context: ssl.SSLContext | None) -> None:
    await Service(path, settings, users, context).run()
