"""Starts the live image as it is shipped, through its own boot loader, in an emulated machine (QEMU, without KVM).

A check service comes into the machine as systemd credentials, so nothing of the image is changed: it runs tests/os's
inside.py and inside_live.py when people could log in, writes to the second serial port, and switches the machine off.
The first serial port is the console.
"""

import base64
import contextlib
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from build_script import buildroot
from build_script.buildroot import Bind, Root

HERE = Path(__file__).resolve().parent
CPUS = 2
MEMORY_MB = 2048
FIRMWARE = {"uefi": ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), "secure": ("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd")}
"""How UEFI starts: without Secure Boot, and with the keys that machines are sold with."""
MENU = "with persistence"
"""What the boot menu shows on the serial console once it can be chosen from."""
TAIL = 4000
SERVICE = """\
[Unit]
Description=The checks of a test
After=systemd-user-sessions.service
ConditionPathExists=/dev/ttyS1

[Service]
Type=exec
{credentials}
ExecStart=/bin/sh -c '{command}'
ExecStopPost=/usr/bin/systemctl poweroff --no-block
StandardOutput=file:/dev/ttyS1
StandardError=journal
"""
WANTED = "[Unit]\nWants=dux-check.service\n"


@dataclass
class Outcome:
    """What an emulated machine said."""

    console: str = ""
    lines: list[tuple[float, str]] = field(default_factory=list)
    """What the check service wrote: seconds after the machine was switched on, and the line."""
    login_s: float | None = None
    """When the login prompt was on the serial console."""
    seconds: float = 0.0
    """Until the machine had switched itself off, or was stopped."""
    problem: str = ""
    """Why the machine did not switch itself off."""

    @property
    def checks(self) -> dict[str, dict[str, object]]:
        """Check → what was found of it; empty when the checks did not end."""
        text = [line for _, line in self.lines]
        if not text.count("CHECK-BEGIN") == text.count("CHECK-END") > 0:
            return {}
        found = [json.loads(line) for line in text if line.startswith("{")]
        return {entry["check"]: entry for entry in found}

    def at(self, words: str) -> float | None:
        """When the check service first wrote a line with these words."""
        return next((when for when, line in self.lines if words in line), None)

    def tail(self) -> str:
        """For a failed test: the end of what both ports said."""
        said = "\n".join(f"{when:7.1f} {line}" for when, line in self.lines)
        return f"{self.problem}\n--- console\n{self.console[-TAIL:]}\n--- checks\n{said[-TAIL:]}"


def credential(name: str, content: str) -> list[str]:
    """QEMU's option that hands systemd a credential; for small ones."""
    text = base64.b64encode(content.encode()).decode()
    return ["-smbios", f"type=11,value=io.systemd.credential.binary:{name}={text}"]


def check_service(scripts: Sequence[tuple[Path, Sequence[str]]], scratch: Path) -> list[str]:
    """QEMU's options for a service that runs Python scripts, with their arguments, and then switches off."""
    options: list[str] = []
    commands, loads = [], []
    for path, arguments in scripts:
        shutil.copyfile(path, scratch / path.name)
        options += ["-fw_cfg", f"name=opt/io.systemd.credentials/{path.name},file=/scratch/{path.name}"]
        loads.append(f"LoadCredential={path.name}")
        words = " ".join(arguments)
        commands.append(f"/usr/lib/duxnet/bin/python -I $CREDENTIALS_DIRECTORY/{path.name} {words}".strip())
    unit = SERVICE.format(
        credentials="\n".join(loads), command="; ".join(commands) or "echo CHECK-BEGIN; echo CHECK-END"
    )
    options += credential("systemd.extra-unit.dux-check.service", unit)
    return options + credential("systemd.unit-dropin.multi-user.target", WANTED)


@contextlib.contextmanager
def _emulator() -> Iterator[Root]:
    with buildroot.unpacked(buildroot.cached(buildroot.QEMU), "unpacking QEMU") as root:
        yield root


def start(
    iso: Path,
    scripts: Sequence[tuple[Path, Sequence[str]]] = (),
    *,
    firmware: str = "bios",
    key: str = "",
    writable: bool = False,
    options: Sequence[str] = (),
    limit_s: float = 420,
) -> Outcome:
    """Start the image as a disk, wait until it has switched itself off or restarts, and tell what it said.

    Without `scripts` nothing is brought in, and the machine is switched off once it asks for a login.
    `firmware` is bios, uefi or secure; `key` chooses an entry of the boot menu, on the keyboard; the machine may write
    on a `writable` disk; `options` go to QEMU.  A machine that is not off after `limit_s` is stopped, and `problem`
    says so.
    """
    outcome = Outcome()
    scratch = Path(tempfile.mkdtemp(prefix="duxos-qemu-"))
    ended = threading.Event()
    try:
        for name in ("console", "checks"):
            (scratch / name).touch()
        with _emulator() as root:
            command = ["timeout", "-k", "5", str(limit_s), "qemu-system-x86_64", *_machine(root, firmware)]
            command += ["-smp", str(CPUS), "-m", str(MEMORY_MB), "-display", "none", "-vga", "std", "-no-reboot"]
            command += ["-serial", "file:/scratch/console", "-serial", "file:/scratch/checks"]
            command += ["-drive", f"file=/image.iso,format=raw,if=virtio,readonly={'off' if writable else 'on'}"]
            command += ["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net"]
            command += ["-device", "virtio-rng-pci", "-qmp", "unix:/scratch/control,server=on,wait=off", *options]
            command += check_service(scripts, scratch) if scripts else []
            begun = time.monotonic()
            watch = threading.Thread(target=_watch, args=(scratch, begun, outcome, ended, key, not scripts))
            watch.start()
            binds = [Bind(iso.resolve(), "/image.iso", writable), Bind(scratch, "/scratch", writable=True)]
            try:
                done = root.run(*command, binds=binds, check=False)
            finally:
                outcome.seconds = time.monotonic() - begun
                ended.set()
                watch.join()
        if done.returncode == 124:
            outcome.problem = f"the machine was not off after {limit_s:.0f} s"
        elif done.returncode:
            outcome.problem = f"QEMU ended with status {done.returncode}: {done.stdout[-1000:]}"
    finally:
        shutil.rmtree(scratch)
    return outcome


def _machine(root: Root, firmware: str) -> list[str]:
    # Never KVM: where its device is there and does not work, a guest dies at its start; emulation shows the same.
    machine = ["-accel", "tcg,thread=multi", "-cpu", "max"]
    if firmware == "bios":
        return [*machine, "-machine", "q35"]
    code, variables = FIRMWARE[firmware]
    folder = "/usr/share/OVMF"
    shutil.copyfile(root.path / folder[1:] / variables, root.path / "variables.fd")
    secure = ["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
    return [
        *machine,
        *(secure if firmware == "secure" else ["-machine", "q35"]),
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={folder}/{code}",
        "-drive", "if=pflash,format=raw,unit=1,file=/variables.fd",
    ]  # fmt: skip


def _watch(scratch: Path, begun: float, outcome: Outcome, ended: threading.Event, key: str, until_login: bool) -> None:
    """Note when each line came, until the machine is off; press a key at the boot menu, switch off at the login."""
    last = False
    while not last:
        last = ended.wait(0.2)
        now = time.monotonic() - begun
        outcome.console = (scratch / "console").read_text("utf-8", errors="replace")
        if key and MENU in outcome.console:
            _order(scratch / "control", "send-key", {"keys": [{"type": "qcode", "data": key}]})
            key = ""
        if outcome.login_s is None and " login: " in outcome.console:
            outcome.login_s = now
            if until_login:
                _order(scratch / "control", "quit")
        whole = (scratch / "checks").read_text("utf-8", errors="replace").rpartition("\n")[0]
        lines = [line.strip() for line in whole.splitlines()]
        outcome.lines += [(now, line) for line in lines[len(outcome.lines) :]]


def _order(control: Path, command: str, arguments: Mapping[str, object] | None = None) -> None:
    """Have QEMU do something, and wait until it has, or is gone."""
    orders = [{"execute": "qmp_capabilities"}, {"execute": command, "arguments": dict(arguments or {}), "id": command}]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(control))
        connection.sendall("\n".join(json.dumps(order) for order in orders).encode() + b"\n")
        # Gone before it has read everything: that is what `quit` asks for.
        with contextlib.suppress(ConnectionResetError), connection.makefile("rb") as replies:
            for line in replies:
                if json.loads(line).get("id") == command:
                    return
