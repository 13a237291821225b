"""A real dux-sandbox for tests: the daemon's own process, in each of the ways a machine may run it.

`capped`: as root with cgroups; `plain`: as root without them, in a folder that task uids can't enter; `user`: as an
ordinary user. Without root there is only `user`.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from support.network import write_network

from duxcommon.api.common import Ok
from duxcommon.api.taskd import SandboxLimits, SandboxLog, SandboxResult, SandboxStatus
from duxcommon.blobs import BlobStore
from duxcommon.errors import NotFound
from duxcommon.rpc import Client

ROOT = os.geteuid() == 0
MODES = ("capped", "plain", "user") if ROOT else ("user",)
SOME_USER = 61_000
"""Stands for an ordinary user where the tests run as root."""
REPOSITORY = Path(__file__).resolve().parent.parent

AS_USER = ("setpriv", f"--reuid={SOME_USER}", f"--regid={SOME_USER}", "--clear-groups", "--")

SMALL = SandboxLimits(memory_mb=128, cpu_s=5, wall_s=10, disk_mb=4, processes=16, output_bytes=1 << 20)


@lru_cache
def ordinary_python() -> str | None:
    """A Python that SOME_USER can run with this project's packages; None where all of them lie below closed folders."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            trial = [*AS_USER, python, "-c", "import dux_taskd.sandbox.__main__"]
            if subprocess.run(trial, env=environment(), cwd="/", capture_output=True, check=False).returncode == 0:
                return python
    return None


def environment() -> dict[str, str]:
    """Of worker processes: this project and its packages, whichever interpreter runs them."""
    packages = sysconfig.get_paths()["purelib"]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}


def bundle_of(files: dict[str, str | bytes]) -> bytes:
    """A bundle's bytes, without the checks of packing."""
    out = io.BytesIO()
    folders = {str(parent) for name in files if ".." not in name for parent in Path(name).parents} - {"."}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(folders):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in sorted(files.items()):
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Lab:
    """One worker process and the node's blobs; use it as a context manager."""

    def __init__(self, mode: str, **settings: Any) -> None:
        self.mode = mode
        self.folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
        # Other workers of the same machine may run tasks of their own at the same time.
        self.main = f"main-{secrets.token_hex(4)}.py"
        self.settings = settings
        self.blobs = BlobStore(self.folder / "blobs")
        self.config = self.folder / "sandbox.yaml"
        self.process: subprocess.Popen[bytes] | None = None
        write_network(self.folder / "network.yaml")

    def __enter__(self) -> "Lab":
        for name in ("run", "state"):
            (self.folder / name).mkdir()
        if self.mode != "plain":
            self.folder.chmod(0o755)
        value = {
            "run_dir": str(self.folder / "run"),
            "state_dir": str(self.folder / "state"),
            "blobs_dir": str(self.folder / "blobs"),
            "log_dir": None,
            "network": str(self.folder / "network.yaml"),
            "cgroup": "auto" if self.mode == "capped" else "none",
            **self.settings,
        }
        self.config.write_text(yaml.safe_dump(value))
        if self.mode == "user" and ROOT:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, SOME_USER, SOME_USER)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the worker and wait until it answers."""
        argv = [sys.executable]
        if self.mode == "user" and ROOT:
            argv = [*AS_USER, ordinary_python() or sys.executable]
        self.errors = (self.folder / "errors").open("ab")
        before = self.errors.tell()
        self.process = subprocess.Popen(
            [*argv, "-m", "dux_taskd.sandbox", "--config", str(self.config)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
            env=environment(),
        )
        deadline = time.monotonic() + 30
        while b'"ready"' not in (self.folder / "errors").read_bytes()[before:]:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "errors").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            finally:
                self.process.kill()
                self.process.wait()
                self.process = None
                self.errors.close()

    def crash(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None
        self.errors.close()

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the worker logged so far."""
        return [json.loads(line) for line in (self.folder / "errors").read_text().splitlines()]

    @property
    def client(self) -> Client:
        """A new client to the worker."""
        return Client(self.folder / "run" / "sandbox.sock")

    def put(self, files: dict[str, str | bytes]) -> str:
        """Store a bundle; its hash."""
        digest = self.blobs.put(bundle_of(files))
        path = self.blobs.path(digest)
        if self.mode == "user" and ROOT:
            for item in (path, path.parent):
                os.chown(item, SOME_USER, SOME_USER)
        return digest

    # --- calls ------------------------------------------------------------------------------------------------

    async def run_async(self, code: str, *argv: str, client: Client | None = None, **more: Any) -> SandboxResult:
        """Run Python `code` in the sandbox; keywords: any of the limits, `inputs`, `id`, `files` of the bundle."""
        limits = SMALL.model_copy(
            update={key: more.pop(key) for key in list(more) if key in SandboxLimits.model_fields}
        )
        inputs = [
            {"name": name, "data": base64.b64encode(data).decode()} for name, data in more.pop("inputs", {}).items()
        ]
        params = {
            "id": more.pop("id", None) or secrets.token_hex(16),
            "bundle": self.put({self.main: code, **more.pop("files", {})}),
            "argv": more.pop("command", None) or ["python3", f"/app/{self.main}", *argv],
            "inputs": inputs,
            "limits": limits.model_dump(),
        }
        assert not more, more
        own = client or self.client
        try:
            return await own.call("sandbox.run", SandboxResult, params, timeout=60)
        finally:
            if client is None:
                await own.close()

    def run(self, code: str, *argv: str, **more: Any) -> SandboxResult:
        """Like `run_async`, from a test that is not asynchronous."""
        return asyncio.run(self.run_async(code, *argv, **more))

    def status(self) -> SandboxStatus:
        """`sandbox.status`."""

        async def ask() -> SandboxStatus:
            client = self.client
            try:
                return await client.call("sandbox.status", SandboxStatus)
            finally:
                await client.close()

        return asyncio.run(ask())

    async def kill_async(self, id: str) -> None:
        """`sandbox.kill`."""
        client = self.client
        await client.call("sandbox.kill", Ok, {"id": id})
        await client.close()

    async def logs_async(self, id: str, offset: int = 0, wait_s: float = 0.0) -> SandboxLog:
        """`sandbox.logs`; a task that was ordered a moment ago is waited for."""
        client = self.client
        try:
            for _ in range(500):
                with contextlib.suppress(NotFound):
                    params = {"id": id, "offset": offset, "wait_s": wait_s}
                    return await client.call("sandbox.logs", SandboxLog, params)
                await asyncio.sleep(0.01)
            raise AssertionError(f"task {id} was never started")
        finally:
            await client.close()

    # --- looking at the machine -------------------------------------------------------------------------------

    def folders(self) -> list[Path]:
        """Folders of tasks that are still there."""
        return list((self.folder / "state" / "tasks").glob("*/in"))

    def processes(self) -> list[str]:
        """Processes of tasks that are still there."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"/app/{self.main}" in (entry / "cmdline").read_text():
                    found.append(f"{entry.name} {(entry / 'cmdline').read_text()[:200]!r}")
        return found
