"""What a verb gets: clients to the daemons, and one way to print for people or for programs."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from duxcommon.blocking import BlockingClient
from duxcommon.errors import DuxError

from . import catalogue, render, screens, versions
from .printable import PrintableClient, printable
from .versions import VersionedClient

DAEMONS = ("flopd", "escrowd", "taskd", "registryd", "airdropd", "sandbox")

LABEL_S = 5.0
"""Longest wait for the name of the network, which is not what was asked for."""
PATIENCE_S = 1.0
"""After so long, a person is told what is waited for."""


class Control:
    """Clients are made when first used; `as_json` prints replies as JSON."""

    def __init__(self, run_dir: Path, as_json: bool, timeout: float) -> None:
        self.run_dir = run_dir
        self.as_json = as_json
        self.timeout = timeout
        self._clients: dict[str, BlockingClient] = {}

    def client(self, daemon: str) -> BlockingClient:
        """The connection to a daemon of this node."""
        if daemon not in self._clients:
            kind = VersionedClient if self.as_json else PrintableClient
            self._clients[daemon] = kind(
                self.run_dir / f"{daemon}.sock", while_waiting=lambda: self._raise_if_down(daemon)
            )
        return self._clients[daemon]

    def _raise_if_down(self, daemon: str) -> None:
        from . import reach

        if (error := reach.known_down([daemon], self.run_dir).get(daemon)) is not None:
            raise error

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Call a method on the daemon that declares it."""
        daemon = catalogue.load()["methods"][method]["daemon"]
        with self._telling(f"waiting for dux-{daemon} to answer", params or {}):
            return self.client(daemon).call(method, params, timeout=self.timeout if timeout is None else timeout)

    def different_versions(self) -> list[str]:
        """A sentence for each version, other than this one, of the daemons that were talked to."""
        found: dict[str, Any] = {}
        for name, client in self._clients.items():
            with contextlib.suppress(DuxError):
                found[name] = client.call("daemon.status", timeout=min(self.timeout, versions.ASK_S))
        return versions.lines(found)

    @contextlib.contextmanager
    def _telling(self, text: str, params: dict[str, Any]) -> Iterator[None]:
        """Say what is waited for when an answer takes long; calls that wait on purpose have words of their own."""
        if self.as_json or "wait_s" in params or not sys.stderr.isatty():
            yield
            return
        import threading

        timer = threading.Timer(PATIENCE_S, self.progress, [text])
        timer.daemon = True
        begun = time.monotonic()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if time.monotonic() - begun > PATIENCE_S:
                timer.join()
                self.progress("")

    def emit(self, value: dict[str, Any], human: Callable[[], str]) -> None:
        """Print `value` as JSON where that was asked for, otherwise the text for people.

        A text with amounts says whether the coins have a value.
        """
        if self.as_json:
            print(_as_json(value))
            return
        text = human()
        print(screens.labelled(text, value, self) if "FLOP" in text else text)

    def label(self) -> dict[str, Any] | None:
        """Name, chain (where airdropd tells it) and value of this node's network; None when no daemon can say."""
        try:
            return self.call("network.show", timeout=min(self.timeout, LABEL_S))
        except DuxError:
            pass
        for daemon in DAEMONS:
            try:
                status = self.client(daemon).call("daemon.status", timeout=min(self.timeout, LABEL_S))
            except DuxError:
                continue
            return {"name": status["network"], "worthless": status["worthless"]}
        return None

    def emit_reply(self, method: str, value: dict[str, Any]) -> None:
        """Print the reply of a method: drawn by hand where `screens` knows it, else by its schema."""

        def text() -> str:
            if (screen := screens.find(method)) is not None:
                return screens.draw(method, screen, value, self)
            return render.reply(value, catalogue.load()["methods"][method]["reply"])

        self.emit(value, text)

    def fail(self, value: dict[str, Any], text: str, error: DuxError) -> None:
        """Print `value` as JSON where that was asked for, otherwise what went wrong and the hint, as errors."""
        if self.as_json:
            print(_as_json(value))
            return
        print(printable(f"{text}: {error.message} ({error.name} {error.code})"), file=sys.stderr)
        if error.hint:
            print(printable(f"  {error.hint}"), file=sys.stderr)

    def note(self, text: str) -> None:
        """Progress, for people: on standard error, so that the output stays clean."""
        if not self.as_json:
            print(printable(text), file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """A line that replaces the one before, on a terminal; nothing elsewhere."""
        if not self.as_json and sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End all connections."""
        for client in self._clients.values():
            client.close()


def _as_json(value: dict[str, Any]) -> str:
    # A name of a file may hold bytes that are no text.
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace").decode()


def default_run_dir() -> Path:
    """Where the sockets are: $DUXNET_RUN_DIR, else /run/duxnet."""
    return Path(os.environ.get("DUXNET_RUN_DIR", "/run/duxnet"))
