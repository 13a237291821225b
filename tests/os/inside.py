"""What holds on every booted machine that has dux-node, checked from inside by root with nothing but Python itself.

    python3 inside.py                    # all checks
    python3 inside.py --only units answers
    python3 inside.py --demo             # and `dux-ctl demo` at the end

It waits until the node is up, then prints CHECK-BEGIN, one JSON object a check and CHECK-END; `ok` is null for what
this machine can't prove ("not run", with the reason). Exit status 1 when a check failed.
"""

import argparse
import base64
import grp
import http.client
import inspect
import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DAEMONS = ("flopd", "registryd", "escrowd", "sandbox", "taskd", "airdropd")
SERVICES = ("dux-devchain", *(f"dux-{name}" for name in DAEMONS))
UP_S = 300.0
"""Longest wait for the node to be up; an emulated machine takes its time."""
ANSWER_S = 10.0
DEMO_S = 600.0
MAX_LOGS = 6 * 10_000_000 + 1_000_000
"""Bytes that one daemon's log files may have: the file, five old ones, and a last line."""
NOBODY = 60_123
"""A user id that nobody has: what it may do is what its groups may do."""
LABEL = "private trial network, coins have no value"
PROGRAMS = ("dux-ctl", "dux-devnet", "dux-devchain", *(f"dux-{name}" for name in DAEMONS if name != "sandbox"))

Check = Callable[[], str | None]
CHECKS: dict[str, Check] = {}


class NotRun(Exception):
    """This machine can't prove it; the text says why."""


def check(function: Check) -> Check:
    """Registers a check under its function's name; it returns a detail or None, and raises when it fails."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


def run(*command: str, limit_s: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command's outcome; its status is not judged."""
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False, **options
    )


def properties(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as `systemctl show` tells them."""
    lines = run("systemctl", "show", unit, f"-p{','.join(names)}").stdout.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def ask(daemon: str, method: str, params: dict[str, Any] | None = None, limit_s: float = ANSWER_S) -> dict[str, Any]:
    """One JSON-RPC call over a daemon's socket: the whole reply, with `result` or `error`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(limit_s)
        connection.connect(f"/run/duxnet/{daemon}.sock")
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        connection.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            piece = connection.recv(65536)
            if not piece:
                raise AssertionError(f"dux-{daemon} hung up over {method}")
            data += piece
        reply: dict[str, Any] = json.loads(data)
        return reply


def result(daemon: str, method: str, params: dict[str, Any] | None = None, limit_s: float = ANSWER_S) -> dict[str, Any]:
    """What root gets for a call; AssertionError with the refusal where there is one."""
    reply = ask(daemon, method, params, limit_s)
    assert "result" in reply, f"{method}: {reply.get('error')}"
    value: dict[str, Any] = reply["result"]
    return value


CALL = """
try:
    reply = ask(*json.loads(sys.argv[1]))
except PermissionError:
    print("PermissionError")
else:
    print("ok" if "result" in reply else reply["error"]["data"]["name"])
"""


def ask_as(groups: list[str], daemon: str, method: str, params: dict[str, Any] | None = None) -> str:
    """How a call of a user in `groups` (and no other) ends: `ok`, an error's name, or PermissionError at the socket."""
    gids = [grp.getgrnam(name).gr_gid for name in groups]
    source = f"import json, socket, sys\nfrom typing import Any\nANSWER_S = 30\n{inspect.getsource(ask)}{CALL}"
    arguments = json.dumps([daemon, method, params])
    done = run(sys.executable, "-I", "-c", source, arguments, user=NOBODY, group=NOBODY, extra_groups=gids)
    assert done.returncode == 0, done.stderr[-400:]
    return done.stdout.strip()


def wait_until(condition: Callable[[], object], limit_s: float, every_s: float = 0.2) -> bool:
    """Look until it holds; whether it did within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def up() -> bool:
    """Whether no start job is left and dux.target is reached."""
    return properties("dux.target", "ActiveState").get("ActiveState") == "active" and not [
        line for line in run("systemctl", "list-jobs", "--no-legend").stdout.splitlines() if "dux-" in line
    ]


def trial() -> bool:
    """Whether this machine serves a trial network of its own."""
    return Path("/etc/duxnet/devchain.users").exists()


# --- units ----------------------------------------------------------------------------------------------------------


@check
def units() -> None:
    """Each service is active and running and was never restarted; `running` alone is said of crash loops as well."""
    wrong = []
    for name in SERVICES if trial() else SERVICES[1:]:
        found = properties(f"{name}.service", "ActiveState", "SubState", "NRestarts", "StatusText")
        if (found["ActiveState"], found["SubState"], found["NRestarts"]) != ("active", "running", "0"):
            wrong.append(f"{name}: {found}")
    for name in DAEMONS:
        found = properties(f"dux-{name}.socket", "ActiveState", "SubState")
        if found != {"ActiveState": "active", "SubState": "running"}:
            wrong.append(f"dux-{name}.socket: {found}")
    first = properties("dux-firstboot.service", "ActiveState", "Result")
    if first != {"ActiveState": "active", "Result": "success"}:
        wrong.append(f"dux-firstboot: {first}")
    assert not wrong, "; ".join(wrong)


@check
def answers() -> str:
    """Each daemon answers one call in time and finds itself well; the trial chain as well."""
    versions = set()
    for name in DAEMONS:
        status = result(name, "daemon.status")
        assert status["name"] == name, status
        versions.add(status["version"])
        assert wait_until(lambda name=name: not notes(name), 60), f"{name}: {notes(name)}"  # type: ignore[misc]
    assert len(versions) == 1, versions
    if trial():
        assert devchain("getblockchaininfo")["chain"]
    return f"version {versions.pop()}"


def controllers() -> bool:
    """Whether the kernel can bound the memory and the processes of a unit."""
    return {"memory", "pids"} <= set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split())


def notes(daemon: str) -> list[str]:
    """What a daemon finds amiss; that a machine without controllers bounds no task is not its fault."""
    found = result(daemon, "daemon.status")["notes"]
    return [note for note in found if controllers() or "no memory and no pids controller" not in note]


def devchain(method: str, *parameters: object) -> Any:
    """A call to the trial chain as dux-flopd makes it."""
    password = Path("/var/lib/duxnet/flopd/chain.password").read_text().strip()
    connection = http.client.HTTPConnection("127.0.0.1", 32553, timeout=ANSWER_S)
    login = base64.b64encode(f"node:{password}".encode()).decode()
    body = json.dumps({"id": 1, "method": method, "params": list(parameters)})
    connection.request("POST", f"/wallet/{'0' * 32}", body, {"Authorization": f"Basic {login}"})
    reply = json.loads(connection.getresponse().read())
    assert reply.get("error") is None, reply["error"]
    return reply["result"]


@check
def no_failed_units() -> None:
    """No unit of the whole machine failed, and systemd calls it running."""
    failed = run("systemctl", "--failed", "--no-legend", "--plain").stdout.strip()
    assert not failed, failed
    state = run("systemctl", "is-system-running").stdout.strip()
    assert state == "running", f"{state}: {run('systemctl', 'list-jobs', '--no-legend').stdout}"


@check
def no_ordering_cycles() -> None:
    """systemd breaks a cycle by leaving a unit out; it says so in the journal alone."""
    journal = run("journalctl", "-b", "--no-pager", "-o", "cat", "_PID=1").stdout
    cycles = [line for line in journal.splitlines() if "cycle" in line]
    assert not cycles, cycles


@check
def boot_log() -> None:
    """No unit of ours logged an error since the boot."""
    command = ["journalctl", "-b", "--no-pager", "-o", "cat", "-p", "err"]
    for name in (*SERVICES, "dux-firstboot"):
        command += ["-u", f"{name}.service"]
    lines = run(*command).stdout.strip()
    assert not lines, lines[:1000]


# --- sockets and who may do what -------------------------------------------------------------------------------------


def describe(path: str) -> str:
    """Mode, owner and group of a file."""
    found = os.stat(path)
    return f"{stat.S_IMODE(found.st_mode):04o} {pwd.getpwuid(found.st_uid)[0]} {grp.getgrgid(found.st_gid)[0]}"


@check
def sockets() -> None:
    """Every socket is there with the owner and the mode that systemd gives it."""
    wrong = {name: describe(f"/run/duxnet/{name}.sock") for name in DAEMONS}
    wrong = {name: found for name, found in wrong.items() if found != "0660 root duxnet"}
    assert not wrong, wrong
    assert all(stat.S_ISSOCK(os.stat(f"/run/duxnet/{name}.sock").st_mode) for name in DAEMONS)
    assert describe("/run/duxnet") == "0755 root root", describe("/run/duxnet")


@check
def stranger_refused() -> None:
    """Who is in none of the groups does not even reach a daemon."""
    found = {name: ask_as([], name, "daemon.status") for name in DAEMONS}
    assert set(found.values()) == {"PermissionError"}, found


@check
def reader_may_look() -> None:
    """A member of duxnet sees the balance, and may neither spend nor administer."""
    assert ask_as(["duxnet"], "flopd", "wallet.balance") == "ok"
    assert {ask_as(["duxnet"], name, "daemon.status") for name in DAEMONS} == {"ok"}
    for method, params in (("wallet.receive", {"label": "x"}), ("wallet.send", payment("D" * 34)), ("wallet.lock", {})):
        said = ask_as(["duxnet"], "flopd", method, params)
        assert said == "NotAllowed", f"{method}: {said}"


def payment(address: str) -> dict[str, Any]:
    """What `wallet.send` is told, to pay 0.02 FLOP."""
    return {"to": address, "amount": 2_000_000, "key": f"inside-{time.time_ns()}"}


@check
def spender_may_spend() -> None:
    """A member of dux-spend really pays; it may not administer."""
    if not trial():
        raise NotRun("the coins of this network may have a value")
    spend = ["duxnet", "dux-spend"]
    said = ask_as(spend, "flopd", "wallet.faucet", {"amount": 100_000_000, "key": f"inside-{time.time_ns()}"})
    assert said == "ok", said
    address = result("flopd", "wallet.receive", {"label": "inside.py"})["address"]
    enough = wait_until(lambda: result("flopd", "wallet.balance")["spendable"] > 10_000_000, 60)
    assert enough, f"the faucet's coins did not arrive: {result('flopd', 'wallet.balance')}"
    before = result("flopd", "wallet.balance")["spendable"]
    said = ask_as(spend, "flopd", "wallet.send", payment(address))
    assert said == "ok", said
    paid = wait_until(lambda: 0 < result("flopd", "wallet.balance")["spendable"] < before, 60)
    assert paid, "the fee of a payment did not lessen the balance"
    assert ask_as(spend, "flopd", "wallet.lock") == "NotAllowed"
    assert ask_as(spend, "taskd", "provider.pause", {"paused": True}) == "NotAllowed"


@check
def admin_may_administer() -> None:
    """A member of dux-admin pauses lending and goes on."""
    admin = ["duxnet", "dux-admin"]
    assert ask_as(admin, "taskd", "provider.pause", {"paused": True}) == "ok"
    assert result("taskd", "provider.limits")["paused"] is True
    assert ask_as(admin, "taskd", "provider.pause", {"paused": False}) == "ok"
    assert ask_as(admin, "flopd", "key.new", {"name": "x"}) == "NotAllowed", "a daemons' method for a person"


@check
def first_user() -> str:
    """The first person of the machine is in both groups, by first boot alone."""
    shells = set(Path("/etc/shells").read_text().split())
    people = sorted((u.pw_uid, u.pw_name) for u in pwd.getpwall() if 1000 <= u.pw_uid < 60000 and u.pw_shell in shells)
    if not people:
        raise NotRun("this machine has no user that a person logs in as")
    name = people[0][1]
    for group in ("duxnet", "dux-spend"):
        assert name in grp.getgrnam(group).gr_mem, f"{name} is not in {group}"
    assert name not in grp.getgrnam("dux-admin").gr_mem
    for _, other in people[1:]:
        assert other not in grp.getgrnam("dux-spend").gr_mem, f"{other}, too, is in dux-spend"
    return name


# --- files ------------------------------------------------------------------------------------------------------------


def expected_files() -> Iterator[tuple[str, str]]:
    """Path → mode, owner and group."""
    yield "/etc/duxnet", "0755 root root"
    yield "/var/lib/duxnet", "0755 root root"
    yield "/var/log/duxnet", "0755 root root"
    yield "/var/lib/duxnet/setup", "0700 root root"
    yield "/etc/duxnet/network.yaml", "0644 root root"
    yield "/etc/credstore.encrypted/dux-flopd.wallet", "0600 root root"
    yield "/var/lib/duxnet/blobs", "2770 dux-registryd dux-blobs"
    for name in DAEMONS:
        yield f"/etc/duxnet/{name}.yaml", "0644 root root"
        # Sandboxes reach what is laid out for them below the worker's folder.
        yield f"/var/lib/duxnet/{name}", f"{'0711' if name == 'sandbox' else '0700'} dux-{name} dux-{name}"
        yield f"/var/log/duxnet/{name}", f"0750 dux-{name} dux-{name}"
    yield "/var/lib/duxnet/flopd/keystore.json", "0600 dux-flopd dux-flopd"
    if trial():
        yield "/var/lib/duxnet/flopd/chain.password", "0600 dux-flopd dux-flopd"
        yield "/etc/duxnet/devchain.yaml", "0644 root root"
        yield "/etc/duxnet/devchain.users", "0640 root dux-devchain"
        yield "/var/lib/duxnet/guest.yaml", "0640 root dux-spend"
        yield "/var/lib/duxnet/devchain", "0700 dux-devchain dux-devchain"


@check
def files() -> None:
    """Folders and what is secret in them have the owners and modes that keep others out."""
    wrong = []
    for path, expected in expected_files():
        found = describe(path) if os.path.exists(path) else "missing"
        if found != expected:
            wrong.append(f"{path}: {found}, not {expected}")
    assert not wrong, "; ".join(wrong)


@check
def wallet_unlocked() -> None:
    """The wallet was opened by the machine's credential, without a hand."""
    status = result("flopd", "wallet.status")
    assert status["locked"] is False, status


def passphrase() -> str:
    """The wallet's passphrase, from its credential; only root of this very machine can do that."""
    done = run("systemd-creds", "decrypt", "--name=wallet", "/etc/credstore.encrypted/dux-flopd.wallet", "-")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) >= 20, "a passphrase that can be guessed"
    return done.stdout.strip()


@check
def passphrase_nowhere() -> str:
    """No process, journal, log or file of the machine holds the passphrase."""
    secret = passphrase().encode()
    found = []
    looked = 0
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                held = (process / name).read_bytes()
            except OSError:
                continue
            looked += 1
            if secret in held:
                found.append(f"{process}/{name}")
    if secret in run("journalctl", "--no-pager", "-o", "export").stdout.encode():
        found.append("the journal")
    for top in ("/var/log", "/var/lib/duxnet", "/etc", "/tmp", "/var/tmp", "/run/duxnet", "/run/systemd/transient"):
        for folder, _, names in os.walk(top):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    looked += 1
                    if secret in path.read_bytes():
                        found.append(str(path))
    assert not found, found
    return f"{looked} places"


# --- logs -------------------------------------------------------------------------------------------------------------


@check
def logs() -> None:
    """Every daemon writes a log file of its own, of a bounded size, and every line of it is JSON."""
    for name in DAEMONS:
        folder = Path("/var/log/duxnet", name)
        lines = (folder / f"{name}.log").read_text().splitlines()
        assert any(json.loads(line)["message"] == "ready" for line in lines), name
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert size <= MAX_LOGS, f"{folder}: {size} bytes"


@check
def journal_bounded() -> str:
    """The drop-in that bounds the journal is in force."""
    shown = run("systemd-analyze", "cat-config", "systemd/journald.conf").stdout
    ours = re.findall(r"^(SystemMaxUse|RuntimeMaxUse)=(\S+)", shown, re.MULTILINE)
    assert ours, "no bound for the journal is configured"
    said = run("journalctl", "-b", "--no-pager", "-o", "cat", "-u", "systemd-journald").stdout
    bounds = re.findall(r"max ([0-9.]+[KMG]?)", said)
    assert bounds, "the journal tells no bound"
    return f"{dict(ours)}, in force: {bounds[-1]}"


# --- what a person sees -----------------------------------------------------------------------------------------------


@check
def worthless_coins_are_said() -> None:
    """`dux-ctl status` says that the coins have no value, and ends well."""
    done = run("dux-ctl", "status", limit_s=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (LABEL in done.stdout) == trial(), done.stdout


@check
def programs() -> None:
    """Every program starts, with the libraries that came along."""
    wrong = []
    for name in PROGRAMS:
        path = shutil.which(name)
        done = run(path, "--help", limit_s=90) if path else None
        if done is None or done.returncode != 0 or "usage:" not in done.stdout:
            wrong.append(f"{name}: {done.stdout + done.stderr if done else 'not there'}")
    assert not wrong, "; ".join(wrong)


@check
def sandbox_works() -> str:
    """The worker has proved that it can keep strangers' programs apart."""
    status = result("sandbox", "sandbox.status", limit_s=30)
    # Without control groups it runs the owner's own apps alone, and says so.
    able = ("ok",) if controllers() else ("ok", "degraded")
    assert status["state"] in able, status
    return f"{status['state']} {status['reason']}".strip()


# --- what holds a daemon ----------------------------------------------------------------------------------------------


@check
def daemons_are_held() -> None:
    """No daemon has a capability, can gain one, or runs without a filter of system calls."""
    wrong = []
    for name in SERVICES if trial() else SERVICES[1:]:
        pid = properties(f"{name}.service", "MainPID")["MainPID"]
        fields = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        user = pwd.getpwuid(int(fields["Uid"].split()[0])).pw_name
        found = (user, int(fields["CapEff"], 16), fields["NoNewPrivs"], fields["Seccomp"])
        if found != (name, 0, "1", "2"):
            wrong.append(f"{name}: user, capabilities, NoNewPrivs, Seccomp are {found}")
    assert not wrong, "; ".join(wrong)


@check
def memory_and_processes_limited() -> str:
    """The kernel holds each daemon to the memory and the processes of its unit."""
    if not controllers():
        raise NotRun("needs the memory and pids controllers of control groups")
    held = []
    for name in DAEMONS:
        found = properties(f"dux-{name}.service", "ControlGroup", "MemoryMax", "TasksMax")
        folder = Path("/sys/fs/cgroup" + found["ControlGroup"])
        for key, file in (("MemoryMax", "memory.max"), ("TasksMax", "pids.max")):
            if found[key] != "infinity":
                # A delegated unit's limits stand at its own group, whatever it made below.
                assert (folder / file).read_text().strip() == found[key], f"{name}: {key}"
                held.append(f"{name} {key}={found[key]}")
    assert held, "no daemon has a limit"
    return ", ".join(held)


REACH_OUT = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"x", ("127.0.0.1", 9))
try:
    s.sendto(b"x", ("127.0.0.2", 9))
except PermissionError:
    print("refused")
"""


@check
def addresses_refused() -> None:
    """The kernel keeps a daemon from all addresses but those of its unit."""
    found = properties("dux-flopd.service", "IPAddressDeny", "IPAddressAllow")
    assert set(found["IPAddressDeny"].split()) == {"::/0", "0.0.0.0/0"}, found
    done = run(
        "systemd-run", "--pipe", "--wait", "--quiet", "-pIPAddressDeny=any", "-pIPAddressAllow=127.0.0.1",
        sys.executable, "-I", "-c", REACH_OUT,
    )  # fmt: skip
    if done.returncode == 0 and done.stdout.strip() != "refused":
        raise NotRun("needs the BPF filters of control groups")
    assert done.returncode == 0, done.stderr


# --- running them -----------------------------------------------------------------------------------------------------


def demo() -> str:
    """`dux-ctl demo`, by the first user where there is one."""
    try:
        user: str | None = first_user()
    except NotRun:
        user = None
    command = ["dux-ctl", "demo"]
    done = run(*(["runuser", "-u", user, "--", *command] if user else command), limit_s=DEMO_S)
    assert done.returncode == 0, (done.stdout + done.stderr)[-1500:]
    return done.stdout.strip()[-1500:]


def main() -> int:
    """Run the checks; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(CHECKS), metavar="CHECK")
    parser.add_argument("--without", nargs="+", choices=sorted(CHECKS), metavar="CHECK", default=[])
    parser.add_argument("--demo", action="store_true", help="make the demo's paid calls as well")
    parser.add_argument("--list", action="store_true", help="name the checks")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CHECKS))
        return 0
    wait_until(up, UP_S)
    chosen = {name: CHECKS[name] for name in options.only or CHECKS if name not in options.without}
    if options.demo:
        chosen["demo"] = demo
    failed = False
    print("CHECK-BEGIN", flush=True)
    for name, function in chosen.items():
        begun = time.monotonic()
        ok: bool | None = True
        try:
            detail = function() or ""
        except NotRun as reason:
            ok, detail = None, f"not run: {reason}"
        except Exception as error:
            ok, detail, failed = False, f"{type(error).__name__}: {error}"[:3000], True
        seconds = round(time.monotonic() - begun, 2)
        print(json.dumps({"check": name, "ok": ok, "detail": detail, "seconds": seconds}), flush=True)
    print("CHECK-END", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
