"""dux-devchain as a service: its configuration, users and door to other machines, reload, watchdog."""

import asyncio
import contextlib
import logging
import signal
import sqlite3
import ssl
import sys
from pathlib import Path

from duxcommon import logs, sdnotify
from duxcommon.daemon import EXIT_CONFIG
from duxcommon.errors import ConfigError, DuxError

from . import faucet
from .pace import Pace
from .running import only_one, running
from .server import Server
from .settings import DevchainSettings, load_settings, load_users, tls_context
from .users import Users

log = logging.getLogger("devchain")

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
        """Serve until SIGTERM or SIGINT. Raises OSError and ConfigError for what can't be opened."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        settings = self._settings
        async with running(settings.datadir, "127.0.0.1", settings.port, "flopcoin") as server:
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
        opened = server.open_tls(host.strip("[]"), int(port), context)
    except OSError as error:
        raise ConfigError(f"can't listen on {settings.listen}: {error.strerror or error}") from error
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
        hint = getattr(error, "hint", "")
        print(f"dux-devchain: {error}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
        return EXIT_CONFIG
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_one(settings.datadir))
            asyncio.run(_run(path, settings, users, context))
        except ConfigError as error:
            log.critical("%s", error)
            return EXIT_CONFIG
        except (OSError, sqlite3.Error) as error:
            log.critical("%s", error)  # a port that is taken, a folder that can't be written, a broken file
            return 1
    return 0


async def _run(path: Path, settings: DevchainSettings, users: Users, context: ssl.SSLContext | None) -> None:
    await Service(path, settings, users, context).run()
