"""A trial run of an app's sample: a sandbox worker of its own, in a temporary folder, without node or money."""

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from duxcommon.api.manifest import Manifest
from duxcommon.blobs import BlobStore
from duxcommon.blocking import BlockingClient
from duxcommon.errors import DaemonDown, SandboxFault
from duxcommon.identity import Identity
from duxcommon.network import Member, NetworkDefinition, dump_network

START_S = 30.0
STOP_S = 15.0
PARAMS = "params.json"


@dataclass(frozen=True)
class Outcome:
    """How the sample ended; `output` is None where the app left none."""

    sandbox: str
    """`ok` or `degraded`, and why."""
    result: dict[str, Any]
    """A SandboxResult."""
    output: bytes | None


def run_sample(bundle: Path, folder: Path, manifest: Manifest, show: Callable[[str], None]) -> Outcome:
    """Run the sample of the packed app `bundle`; `folder` has its files, `show` gets what it prints.

    Raises SandboxMissing where no sandbox can be had, and what `sandbox.run` raises.
    """
    sample = manifest.sample
    with _worker() as (blobs, client):
        status = client.call("sandbox.status")
        params = dict(sample.params) if sample else {}
        inputs = [{"name": PARAMS, "data": base64.b64encode(json.dumps(params).encode()).decode()}]
        if sample and sample.input:
            inputs.append({"name": "input", "blob": blobs.put_file(folder / sample.input)})
        result = client.call(
            "sandbox.run",
            {
                "id": secrets.token_hex(16),
                "bundle": blobs.put_file(bundle),
                "argv": manifest.command,
                "inputs": inputs,
                "limits": {**manifest.resources.model_dump(), "output_bytes": manifest.output.max_bytes},
            },
            timeout=manifest.resources.wall_s + 60.0,
        )
        show(result["log"])
        output = None
        for file in result["files"]:
            if file["name"] == "output":
                output = base64.b64decode(file["data"]) if file["data"] is not None else blobs.get(file["hash"])
    state = status["state"] + (f" ({status['reason']})" if status["reason"] else "")
    return Outcome(state, result, output)


@contextmanager
def _worker() -> Iterator[tuple[BlobStore, BlockingClient]]:
    """A running dux-sandbox and its blobs; ended with the block."""
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        base = Path(name)
        base.chmod(0o755)  # a worker that is root gives its tasks uids that must get in
        log = base / "log"
        # Also where dux-ctl runs from a working copy that is not installed.
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "dux_taskd.sandbox", "--config", str(_configure(base))],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        client = BlockingClient(base / "run" / "sandbox.sock")
        try:
            _wait(process, client, log)
            yield BlobStore(base / "blobs"), client
        finally:
            client.close()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _configure(base: Path) -> Path:
    guardian = Identity.load_or_create(base / "trial.key")
    member = Member(node=guardian.node_id, pubkey="02" + "11" * 32)
    network = NetworkDefinition(
        name="trial", chain="devnet", genesis="00" * 32, birth_height=0, bootstrap=[],
        guardians=[member], guardians_m=1, arbiters=[member],
    )  # fmt: skip
    (base / "network.yaml").write_text(dump_network(network.signed_by(guardian)))
    for folder in ("run", "state", "blobs"):
        (base / folder).mkdir()
    settings = {
        "run_dir": str(base / "run"), "state_dir": str(base / "state"), "blobs_dir": str(base / "blobs"),
        "log_dir": None, "network": str(base / "network.yaml"),
    }  # fmt: skip
    path = base / "sandbox.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _wait(process: subprocess.Popen[bytes], client: BlockingClient, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            client.call("sandbox.status", timeout=5)
        except DaemonDown:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise SandboxFault(f"the sandbox worker did not start: {' '.join(last)[:300]}") from None
        return
