"""How somebody gets into a group: one command, in one wording, that is right for this user now."""

import pytest

from duxcommon import groups
from duxcommon.errors import NotAllowed


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Group → its members, of this machine."""
    found: dict[str, list[str]] = {}

    class Group:
        def __init__(self, name: str) -> None:
            self.gr_mem = found[name]

    monkeypatch.setattr("grp.getgrnam", Group)
    return found


def test_all_groups_that_are_missing_come_in_one_command(members: dict[str, list[str]]) -> None:
    # A group that does not exist here is one that the user is not in.
    assert groups.remedy("duxnet", "dux-spend", user="ann") == (
        "As root: `usermod -aG duxnet,dux-spend ann`; then log in again."
    )
    members |= {"duxnet": ["ann"], "dux-spend": []}
    assert (
        groups.remedy("duxnet", "dux-spend", user="ann") == "As root: `usermod -aG dux-spend ann`; then log in again."
    )


def test_who_was_added_after_the_login_only_logs_in_again(members: dict[str, list[str]]) -> None:
    members |= {"duxnet": ["ann"], "dux-spend": ["ann"]}
    assert groups.remedy("duxnet", "dux-spend", user="ann") == (
        "ann is in the groups duxnet and dux-spend, but not in this session yet: log in again."
    )


def test_the_error_without_a_name_says_the_same() -> None:
    assert NotAllowed.hint_default.endswith("(as root: `usermod -aG GROUP NAME`); then log in again.")
