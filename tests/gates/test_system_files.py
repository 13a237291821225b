"""What a Debian machine gets beside the code: units, users, folders, configuration.

`EXPOSURE`, `analyze` and `without_our_programs` are used by the tests of booted machines (tests/os) as well.
"""

import graphlib
import importlib
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from dux_ctl import units
from dux_setup.moving import COPY_S, UNIT_DROP_INS
from duxcommon.config import Access, Settings, load

from .test_declarations import generate

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = ROOT / "systemd"
DAEMONS = ("flopd", "escrowd", "taskd", "sandbox", "registryd", "airdropd")
MODULES = {name: f"dux_{name}" for name in DAEMONS} | {"sandbox": "dux_taskd.sandbox"}
EXPOSURE = {
    "dux-flopd": 11,
    "dux-escrowd": 6,
    "dux-taskd": 11,
    "dux-registryd": 13,
    "dux-airdropd": 6,
    "dux-devchain": 9,
    "dux-firstboot": 15,
    "dux-sandbox": 25,
}
"""What `systemd-analyze security` of systemd 257 may say at most, in tenths: 10.0 is a service without any limits.
Strict daemons stay at or below 1.5; the worker that makes namespaces, and it alone, may have 2.5."""
SYSTEMD = 257
"""The version of Debian 13, for which the units are written."""

STRICT = {
    "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
    "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes", "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes", "ProtectControlGroups": "yes", "ProtectProc": "invisible", "ProcSubset": "pid",
    "LockPersonality": "yes", "SystemCallArchitectures": "native",
}  # fmt: skip

Unit = dict[str, dict[str, list[str]]]


def unit(name: str) -> Unit:
    """Section → key → its values, in order."""
    found: Unit = {}
    section = ""
    for number, line in enumerate((UNITS / name).read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
            continue
        key, separator, value = line.partition("=")
        assert separator, f"{name}, line {number}: neither a section nor a setting"
        assert re.fullmatch(r"[A-Z]\w+", key), f"{name}, line {number}"
        found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


def one(of: Unit, section: str, key: str) -> str:
    values = of[section][key]
    assert len(values) == 1, key
    return values[0]


# --- units ----------------------------------------------------------------------------------------------------------


def test_there_is_a_service_and_a_socket_for_each_daemon_and_nothing_else() -> None:
    names = {path.name for path in UNITS.iterdir()}
    expected = {f"dux-{name}.{kind}" for name in DAEMONS for kind in ("service", "socket")}
    others = {"dux.target", "dux-firstboot.service", "dux-devchain.service"}
    assert names == expected | others | {"sysusers.conf", "tmpfiles.conf", "journald.conf"}


@pytest.mark.parametrize("name", DAEMONS)
def test_a_service_starts_its_daemon_with_its_own_user_and_configuration(name: str) -> None:
    service = unit(f"dux-{name}.service")
    command = one(service, "Service", "ExecStart").split()
    assert command[1:] == ["-I", "-m", MODULES[name], "--config", f"/etc/duxnet/{name}.yaml"]
    assert callable(importlib.import_module(f"{MODULES[name]}.__main__").main)
    assert (ROOT / "etc-duxnet" / f"{name}.yaml").is_file()
    assert one(service, "Service", "SyslogIdentifier") == "%p"
    assert one(service, "Service", "Type") == "notify"
    assert one(service, "Service", "User") == one(service, "Service", "Group") == f"dux-{name}"
    assert one(service, "Service", "StateDirectory") == f"duxnet/{name}"
    assert one(service, "Service", "LogsDirectory") == f"duxnet/{name}"
    assert int(one(service, "Service", "WatchdogSec")) >= 10
    # A bad configuration (EX_CONFIG) is not tried again and again.
    # Nor is flopd over a credential that systemd can't open (EXIT_CREDENTIALS).
    assert one(service, "Service", "RestartPreventExitStatus") == ("78 243" if name == "flopd" else "78")
    # systemd must not lose patience before the calls in flight have ended.
    assert int(one(service, "Service", "TimeoutStopSec")) > Settings.model_fields["drain_s"].default + 10
    assert "HUP" in one(service, "Service", "ExecReload")
    assert one(service, "Unit", "Requires") == f"dux-firstboot.service dux-{name}.socket"
    assert {f"dux-{name}.socket", "dux-firstboot.service"} <= set(one(service, "Unit", "After").split())
    # It sees who calls; in a user namespace with other numbers every caller would be nobody.
    assert service["Service"].get("PrivateUsers") == (["identity"] if name == "sandbox" else None)


@pytest.mark.parametrize("name", DAEMONS)
def test_a_socket_lies_where_clients_look_and_lets_the_group_in(name: str) -> None:
    socket = unit(f"dux-{name}.socket")
    assert one(socket, "Socket", "ListenStream") == f"{Settings.model_fields['run_dir'].default}/{name}.sock"
    assert one(socket, "Socket", "SocketUser") == "root"
    assert one(socket, "Socket", "SocketGroup") == "duxnet"
    assert one(socket, "Socket", "SocketMode") == "0660"
    assert one(socket, "Socket", "RemoveOnStop") == "yes"
    # Before first boot is done nobody waits at a socket whose daemon can't start.
    assert one(socket, "Unit", "Requires") == one(socket, "Unit", "After") == "sysinit.target dux-firstboot.service"
    assert one(socket, "Unit", "DefaultDependencies") == "no"


SERVICES = (*(f"dux-{name}.service" for name in DAEMONS), "dux-firstboot.service", "dux-devchain.service")
ORDER = (
    ("devchain", "flopd"), ("flopd", "escrowd"), ("registryd", "escrowd"), ("escrowd", "taskd"), ("sandbox", "taskd"),
    ("flopd", "airdropd"), ("registryd", "airdropd"),
)  # fmt: skip
"""The second is started after the first, which it asks, and stopped before it; the others start side by side."""


@pytest.mark.parametrize("name", [*SERVICES, *(f"dux-{name}.socket" for name in DAEMONS)])
def test_stopping_and_starting_the_target_takes_everything_along(name: str) -> None:
    assert one(unit(name), "Unit", "PartOf") == "dux.target"
    assert one(unit(name), "Install", "WantedBy") == "dux.target"
    assert one(unit("dux.target"), "Install", "WantedBy") == "multi-user.target"


def after(name: str) -> set[str]:
    return set(one(unit(name), "Unit", "After").split())


def test_daemons_start_after_those_that_they_ask_and_nothing_waits_for_itself() -> None:
    for earlier, later in ORDER:
        assert f"dux-{earlier}.service" in after(f"dux-{later}.service")
    units = {*SERVICES, *(f"dux-{name}.socket" for name in DAEMONS)}
    # Raises CycleError, with the cycle, where there is one.
    order = list(graphlib.TopologicalSorter({name: after(name) & units for name in units}).static_order())
    assert order[0] == "dux-firstboot.service"


@pytest.mark.parametrize("name", [name for name in SERVICES if "firstboot" not in name])
def test_a_daemon_that_can_not_run_is_tried_again_ever_more_slowly(name: str) -> None:
    service = unit(name)
    first, steps, longest = (
        int(one(service, "Service", key)) for key in ("RestartSec", "RestartSteps", "RestartMaxDelaySec")
    )
    waits = [first * (longest / first) ** (step / steps) for step in range(steps + 1)]
    starts = list(itertools.accumulate([0.0, *waits, *[float(longest)] * 20]))
    within = int(one(service, "Unit", "StartLimitIntervalSec"))
    most = max(sum(1 for other in starts if start <= other < start + within) for start in starts)
    # By itself it never meets the limit, which would leave it down for good; a crowd of calls to its socket does.
    assert most <= int(one(service, "Unit", "StartLimitBurst"))
    assert one(service, "Service", "Restart") == "on-failure"
    # What dux-ctl says: so long at most a node is still away when what kept it down is over.
    assert longest == units.RETRY_S <= 30


def test_the_trial_chain_serves_only_a_node_that_is_on_it() -> None:
    chain = unit("dux-devchain.service")
    assert one(chain, "Unit", "ConditionPathExists") == "/etc/duxnet/devchain.users"
    assert "dux-firstboot.service" in after("dux-devchain.service")
    command = one(chain, "Service", "ExecStart").split()
    assert command[1:] == ["-I", "-m", "dux_devnet.chain", "--config", "/etc/duxnet/devchain.yaml"]
    assert one(chain, "Service", "IPAddressAllow") == "localhost"


def test_first_boot_has_root_s_name_and_hardly_any_of_its_rights() -> None:
    service = unit("dux-firstboot.service")
    assert one(service, "Service", "ExecStart").split()[1:] == ["-I", "-m", "dux_setup.firstboot"]
    assert one(service, "Service", "CapabilityBoundingSet") == "CAP_CHOWN CAP_SETGID CAP_SETUID"
    assert one(service, "Service", "PrivateNetwork") == "yes"
    assert int(one(service, "Service", "TimeoutStartSec")) > COPY_S, "a long copy back is not killed at each boot"
    assert (one(service, "Service", "Type"), one(service, "Service", "RemainAfterExit")) == ("oneshot", "yes")


def test_the_journal_can_not_fill_the_disk() -> None:
    journal = unit("journald.conf")["Journal"]
    assert {"SystemMaxUse", "SystemKeepFree", "RuntimeMaxUse"} <= journal.keys()


@pytest.mark.parametrize("name", [name for name in DAEMONS if name != "sandbox"])
def test_a_daemon_is_held_to_what_it_needs(name: str) -> None:
    service = unit(f"dux-{name}.service")["Service"]
    assert {key: service.get(key) for key in STRICT} == {key: [value] for key, value in STRICT.items()}
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    families = service["RestrictAddressFamilies"][0].split()
    if name in ("escrowd", "airdropd"):
        assert families == ["AF_UNIX"]
        assert service["PrivateNetwork"] == ["yes"]
    elif name != "registryd":
        assert service["IPAddressDeny"] == ["any"]
        assert service["IPAddressAllow"] == ["localhost"]


def test_only_the_sandbox_worker_makes_namespaces_and_it_reaches_no_network() -> None:
    service = unit("dux-sandbox.service")["Service"]
    assert not {"RestrictNamespaces", "ProtectKernelTunables", "ProtectProc", "ProcSubset"} & service.keys()
    assert service["Delegate"] == ["memory pids cpu"]
    assert service["OOMPolicy"] == ["continue"]
    assert service["PrivateNetwork"] == ["yes"]
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""]


def test_who_shares_payloads_may_write_the_folder_and_leaves_it_to_the_group() -> None:
    for name in DAEMONS:
        service = unit(f"dux-{name}.service")["Service"]
        shares = name in ("taskd", "sandbox", "registryd")
        assert service["UMask"] == ["0007" if shares else "0077"]
        assert service.get("ReadWritePaths") == (["/var/lib/duxnet/blobs"] if shares else None)


def test_the_wallet_can_be_unlocked_by_a_credential_of_the_name_that_flopd_looks_for() -> None:
    from dux_flopd.daemon import CREDENTIAL

    service = unit("dux-flopd.service")
    assert one(service, "Service", "LoadCredentialEncrypted").partition(":")[0] == CREDENTIAL


def analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze`, with the units of `folder` before the machine's own."""
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=folder,
        env={"SYSTEMD_PAGER": "", "PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )  # fmt: skip


def without_our_programs(folder: Path) -> None:
    """The units, with a program that exists everywhere in place of ours."""
    for path in UNITS.glob("dux*"):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE)
        (folder / path.name).write_text(text)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not run: needs systemd-analyze")
    version = int(re.findall(r"^systemd (\d+)", analyze("--version", folder=tmp_path).stdout)[0])
    if version < SYSTEMD:
        pytest.skip(f"not run: needs systemd {SYSTEMD} (this is {version}); tests/os judges the units in Debian 13")
    without_our_programs(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("dux*")))
def test_systemd_understands_every_line_of_the_units(installed: Path, name: str) -> None:
    done = analyze("verify", "--man=no", f"./{name}", folder=installed)
    complaints = [line for line in done.stderr.splitlines() if "dux" in line]
    assert complaints == []


@pytest.mark.parametrize("name", EXPOSURE)
def test_systemds_own_measure_of_exposure_stays_low(installed: Path, name: str) -> None:
    done = analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[name]}", f"./{name}.service",
        folder=installed,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:]


def test_the_measures_of_exposure_are_within_what_was_promised() -> None:
    assert {f"{name}.service" for name in EXPOSURE} == set(SERVICES)
    assert all(limit <= (25 if name == "dux-sandbox" else 15) for name, limit in EXPOSURE.items())


# --- users and folders ----------------------------------------------------------------------------------------------


def fragments(name: str) -> list[list[str]]:
    lines = (UNITS / name).read_text().splitlines()
    return [re.sub(r'"[^"]*"', "-", line).split() for line in lines if line and not line.startswith("#")]


def test_the_users_and_groups_of_the_configuration_are_made() -> None:
    made = fragments("sysusers.conf")
    users = {line[1] for line in made if line[0] == "u"}
    groups = {line[1] for line in made if line[0] == "g"}
    access = Access()
    # The trial chain and the worker that runs strangers' programs are nobody's callers.
    assert set(access.daemons) == {f"dux-{name}" for name in DAEMONS} - {"dux-sandbox"}
    assert users == {*access.daemons, "dux-sandbox", "dux-devchain"}
    assert set(access.gateway) <= users
    assert {*access.read, *access.spend, *access.admin} <= groups
    # Callers can connect to the others' sockets, and nobody else of ours can.
    assert {line[1] for line in made if line[0] == "m" and line[2] == "duxnet"} == set(access.daemons)


def test_the_folders_belong_to_users_and_groups_that_are_made() -> None:
    names = {line[1] for line in fragments("sysusers.conf") if line[0] in "ug"} | {"root"}
    for kind, path, mode, user, group, _ in fragments("tmpfiles.conf"):
        assert kind == "d"
        assert re.fullmatch(r"/(etc|run|var/lib|var/log)/duxnet(/[a-z/]+)?|/etc/credstore.encrypted", path)
        assert re.fullmatch(r"[02]7[057][05]", mode)
        assert {user, group} <= names


@pytest.mark.parametrize("name", [*DAEMONS, "devchain"])
def test_what_first_boot_writes_into_is_there_as_the_service_would_make_it(name: str) -> None:
    made = {line[1]: line[2:5] for line in fragments("tmpfiles.conf")}
    service = unit(f"dux-{name}.service")["Service"]
    for key, top in (("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log")):
        assert made[f"{top}/{service[key][0]}"] == [*service[f"{key}Mode"], f"dux-{name}", f"dux-{name}"]


def test_systemd_makes_the_users_and_folders(tmp_path: Path) -> None:
    sysusers, tmpfiles = shutil.which("systemd-sysusers"), shutil.which("systemd-tmpfiles")
    if sysusers is None or tmpfiles is None:
        pytest.skip("not run: needs systemd-sysusers and systemd-tmpfiles")
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    (tmp_path / "etc").mkdir()
    for program, file in ((sysusers, "sysusers.conf"), (tmpfiles, "tmpfiles.conf")):
        options = ["--create"] if program == tmpfiles else []
        done = subprocess.run(
            [program, *options, f"--root={tmp_path}", str(UNITS / file)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    passwd = (tmp_path / "etc" / "passwd").read_text()
    assert all(f"dux-{name}:" in passwd for name in DAEMONS)
    assert "dux-blobs" in (tmp_path / "etc" / "group").read_text()
    blobs = tmp_path / "var" / "lib" / "duxnet" / "blobs" / "tmp"
    assert blobs.stat().st_mode & 0o7777 == 0o2770


# --- configuration --------------------------------------------------------------------------------------------------


def settings_of(name: str) -> type[Settings]:
    model: type[Settings] = generate().SETTINGS[name]
    return model


def text_of(name: str) -> str:
    return (ROOT / "etc-duxnet" / f"{name}.yaml").read_text()


def test_there_is_a_configuration_for_each_daemon_and_no_network_definition() -> None:
    assert {path.name for path in (ROOT / "etc-duxnet").iterdir()} == {
        f"{name}.yaml" for name in (*DAEMONS, "devchain")
    }
    assert set(generate().SETTINGS) == set(DAEMONS)
    assert all("network definition" in text_of(name) for name in DAEMONS)


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_takes_its_configuration_as_it_is_shipped(name: str) -> None:
    settings = load(settings_of(name), ROOT / "etc-duxnet" / f"{name}.yaml")
    assert settings.state_dir == Path(f"/var/lib/duxnet/{name}")
    assert settings.log_dir == Path(f"/var/log/duxnet/{name}")


@pytest.mark.parametrize("name", DAEMONS)
def test_what_is_commented_out_is_what_holds_anyway(name: str, tmp_path: Path) -> None:
    everything = re.sub(r"^( *)#((?:  )*[a-z_]+:)", r"\1\2", text_of(name), flags=re.MULTILINE)
    path = tmp_path / f"{name}.yaml"
    path.write_text(everything)
    spoken = load(settings_of(name), path).model_dump()
    silent = load(settings_of(name), ROOT / "etc-duxnet" / f"{name}.yaml").model_dump()
    assert spoken == silent
    written: dict[str, Any] = yaml.safe_load(everything)
    assert missing(settings_of(name), written) == []


def missing(model: type[BaseModel], written: dict[str, Any]) -> list[str]:
    """Keys of a model that the file does not show."""
    found = []
    for name, field in model.model_fields.items():
        if name not in written:
            found.append(name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += [f"{name}.{inner}" for inner in missing(field.annotation, written[name])]
    return found


@pytest.mark.parametrize("name", DAEMONS)
def test_every_key_is_explained(name: str) -> None:
    lines = text_of(name).splitlines()
    bare = [
        line
        for before, line in itertools.pairwise(lines)
        if re.match(r"^ *#?(?:  )*[a-z_]+:", line) and not re.match(r"^ *# \S", before)
    ]
    assert bare == []


def test_purge_removes_every_drop_in_that_a_program_of_ours_writes_beside_the_units() -> None:
    text = (ROOT / "debian" / "dux-common.postrm").read_text()
    for drop_in in UNIT_DROP_INS:
        assert f'"$folder/{Path(drop_in).name}"' in text, drop_in
