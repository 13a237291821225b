"""Who is let in at first boot: the machine's first person, once."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dux_setup.paths import Paths
from dux_setup.users import first_human, let_in_first
from duxcommon.errors import SetupStepFailed
from tests.firstboot_kit import PASSWD, lay_out


def entry(uid: int, name: str, shell: str = "/bin/bash") -> str:
    return f"{name}:x:{uid}:{uid}::/home/{name}:{shell}\n"


def test_the_first_person_is_the_lowest_uid_that_can_log_in() -> None:
    assert first_human(PASSWD) == "ann"
    assert first_human(entry(1005, "eve") + entry(1003, "dan") + entry(0, "root")) == "dan"
    assert first_human(entry(1000, "robot", "/bin/false") + entry(999, "daemon")) is None
    assert first_human(entry(65534, "nobody") + entry(60_000, "late")) is None
    # An empty field is /bin/sh.
    assert first_human(entry(1000, "old", "")) == "old"


@given(text=st.text(st.sampled_from("ab:0123456789\n/-x"), max_size=200))
def test_no_text_breaks_the_reading(text: str) -> None:
    found = first_human(text)
    assert found is None or found in text


def members(paths: Paths, group: str) -> str:
    lines = (paths.root / "etc/group").read_text().splitlines()
    return next(line.rpartition(":")[2] for line in lines if line.startswith(f"{group}:"))


@pytest.fixture
def machine(short_tmp: Path) -> Paths:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    return lay_out(short_tmp / "m")


def test_the_first_person_may_look_and_spend_and_nobody_else_is_let_in(machine: Paths) -> None:
    said: list[str] = []
    let_in_first(machine, said.append)
    assert members(machine, "duxnet") == members(machine, "dux-spend") == "ann"
    assert "ann may now look and spend" in said[0]


def test_whom_the_owner_took_out_again_stays_out(machine: Paths) -> None:
    let_in_first(machine, lambda _: None)
    group = machine.root / "etc/group"
    group.write_text(group.read_text().replace("dux-spend:x:901:ann", "dux-spend:x:901:"))
    said: list[str] = []
    let_in_first(machine, said.append)
    assert members(machine, "dux-spend") == ""
    assert said == []


def test_a_machine_without_people_lets_in_the_first_that_comes(machine: Paths) -> None:
    passwd = machine.root / "etc/passwd"
    passwd.write_text(entry(0, "root"))
    said: list[str] = []
    let_in_first(machine, said.append)
    assert "No person" in said[0]
    passwd.write_text(entry(0, "root") + entry(1001, "ann"))
    let_in_first(machine, said.append)
    assert members(machine, "dux-spend") == "ann"


def test_what_usermod_refuses_is_told_with_what_to_do(machine: Paths) -> None:
    (machine.root / "etc/group").write_text("root:x:0:\n")
    with pytest.raises(SetupStepFailed, match="ann could not be put into duxnet and dux-spend") as caught:
        let_in_first(machine, lambda _: None)
    assert "usermod -aG duxnet,dux-spend ann" in caught.value.hint
    assert not (machine.setup / "first-user").exists()
