"""What holds on the booted live image beyond inside.py; run in the same way, prints in the same form.

python3 inside_live.py           # nothing is kept
python3 inside_live.py --kept    # with persistence; inside.py has to lie beside it
"""

import argparse
import hashlib
import importlib.util
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ISSUE = Path("/run/issue.d/50-duxos-live.issue")

UNCHECKED = b"\x01\x00\x00\x00"
"""The second word of a .pyc file whose source is never looked at."""


def run(*command: str) -> str:
    """A command's output; AssertionError when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-500:]}"
    return done.stdout


def branded() -> str:
    """The system calls itself Dux OS, and still a Debian's child."""
    text = Path("/etc/os-release").read_text()
    assert "\nID=duxos\n" in text, text
    assert "\nID_LIKE=debian\n" in text, text
    assert Path("/etc/hostname").read_text() == "duxos\n"
    assert run("uname", "-n").strip() == "duxos"
    assert run("dpkg", "--verify", "base-files").strip() == ""
    return text.splitlines()[0]


def told_before_login() -> None:
    """The console says how to log in and that nothing is kept."""
    said = ISSUE.read_text()
    assert 'log in as "dux", password "live"' in said, said
    assert "NOTHING IS KEPT" in said, said


def told_by_status() -> None:
    """`dux-ctl status` says that this system forgets its wallet."""
    done = subprocess.run(["dux-ctl", "status"], capture_output=True, text=True, timeout=120, check=False)
    assert "live system" in done.stdout.lower(), done.stdout + done.stderr


def password_works() -> None:
    """The user of the live system logs in with the password that is told."""
    shadow = next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith("dux:"))
    library = __import__("ctypes").CDLL("libcrypt.so.1")
    library.crypt.restype = __import__("ctypes").c_char_p
    stored = shadow.split(":")[1].encode()
    assert library.crypt(b"live", stored) == stored
    assert "(ALL) NOPASSWD: ALL" in run("sudo", "-l", "-U", "dux")


def nothing_listens() -> str:
    """No service of the machine answers the network but dux-registryd, whose door it is; no remote login."""
    lines = [line.split() for line in run("ss", "-Hltnp").splitlines()]
    outside = {words[3]: words[-1] for words in lines if not words[3].startswith(("127.", "[::1]"))}
    assert all("python" in who for who in outside.values()), outside
    return json.dumps(outside)


def keys_are_its_own() -> None:
    """The machine's id and key were made at this start, not when the image was built."""
    assert len(Path("/etc/machine-id").read_text().strip()) == 32
    made = Path("/proc/stat").read_text().split("btime ")[1].split()[0]
    for name in ("/var/lib/systemd/credential.secret", "/etc/duxnet/network.yaml"):
        assert Path(name).stat().st_ctime >= int(made) - 1, name


def compiled() -> str:
    """Python finds everything compiled, and does not look at the sources."""
    seen = 0
    for name in ("json", "yaml", "duxcommon", "dux_flopd", "pydantic"):
        found = importlib.util.find_spec(name)
        assert found is not None, name
        assert found.cached is not None, name
        assert Path(found.cached).read_bytes()[4:8] == UNCHECKED, found.cached
        seen += 1
    return f"{seen} modules"


def no_network_no_wait() -> str:
    """The start did not wait for a network; what took long is told."""
    blame = run("systemd-analyze", "blame", "--no-pager")
    assert "wait-online" not in blame
    return "; ".join(line.strip() for line in blame.splitlines()[:25])


def started() -> str:
    """The time that the start took, as systemd counts it."""
    return run("systemd-analyze", "time").replace("\n", " ")


def clock() -> str:
    """Whatever the machine's own clock says, the system's is not before the image was made."""
    now, made = time.time(), Path("/usr/lib/clock-epoch").stat().st_mtime
    assert now >= made, f"{now} is before {made}"
    hardware = Path("/sys/class/rtc/rtc0/date").read_text().strip()
    return f"the hardware says {hardware}, the system {time.strftime('%Y-%m-%d', time.gmtime(now))}"


def told_that_it_is_kept() -> None:
    """Neither the console nor `dux-ctl status` says that anything gets lost."""
    said = ISSUE.read_text()
    assert "kept on the persistence partition" in said, said
    assert "NOTHING IS KEPT" not in said, said
    status = run("dux-ctl", "status")
    assert "live system" not in status.lower(), status


def identity() -> str:
    """Who this machine and its node are, what it has, and what its person wrote: must be the same after a restart."""
    inside = beside("inside")
    wallet = inside.result("flopd", "wallet.status")
    settled = inside.wait_until(lambda: inside.result("flopd", "wallet.balance")["pending"] == 0, 60)
    assert settled, inside.result("flopd", "wallet.balance")
    written = Path("/home/dux/written.txt")
    if not written.exists():
        written.write_text(secrets.token_hex(16))
    return json.dumps({
        "machine": Path("/etc/machine-id").read_text().strip(),
        "key": hashlib.sha256(Path("/var/lib/systemd/credential.secret").read_bytes()).hexdigest(),
        "node": inside.result("registryd", "node.self")["node"],
        "network": inside.result("airdropd", "network.show")["id"],
        "payout": wallet["payout_pubkey"],
        "coins": inside.result("flopd", "wallet.balance")["confirmed"],
        "written": written.read_text(),
    })  # fmt: skip


def beside(name: str) -> Any:
    """A module that lies beside this one; an isolated interpreter does not look there by itself."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None, name
    assert spec.loader is not None, name
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Check = Callable[[], str | None]
CHECKS: tuple[Check, ...] = (
    started, branded, told_before_login, told_by_status, password_works, nothing_listens, keys_are_its_own, compiled,
    no_network_no_wait, clock,
)  # fmt: skip
KEPT: tuple[Check, ...] = (started, clock, told_that_it_is_kept, identity)


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", action="store_true", help="the system was started with persistence")
    print("CHECK-BEGIN", flush=True)
    for function in KEPT if parser.parse_args().kept else CHECKS:
        begun = time.monotonic()
        try:
            ok, detail = True, function() or ""
        except Exception as error:
            ok, detail = False, f"{type(error).__name__}: {error}"[:3000]
        entry = {"check": f"live-{function.__name__.replace('_', '-')}", "ok": ok, "detail": detail}
        print(json.dumps({**entry, "seconds": round(time.monotonic() - begun, 2)}), flush=True)
    print("CHECK-END", flush=True)


if __name__ == "__main__":
    sys.exit(main())
