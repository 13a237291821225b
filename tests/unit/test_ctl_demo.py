"""`dux-ctl demo` refuses before anything is begun where it can't or must not run, and says what to do."""

import os
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import demo, demo_report, exits, main
from dux_ctl.account import Row, difference_of, table
from dux_ctl.control import Control
from duxcommon import groups
from duxcommon.errors import BY_NAME, DaemonDown, DuxError

STATUS = {"network": "devnet", "worthless": True}
ANSWERS: dict[str, Any] = {
    "daemon.status": STATUS,
    "wallet.status": {"locked": False},
    "provider.limits": {"paused": False, "sandbox": "ok", "reason": ""},
    "chain.status": {"syncing": False, "height": 7},
    "node.self": {"node": "ab" * 32},
}


class Table(Control):
    """Answers from a table; a value that is an error is raised."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(Path("/nowhere"), False, 5.0)
        self._answers = ANSWERS | {name.replace("__", "."): value for name, value in changes.items()}

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        answer: Any = self._answers[method]
        if isinstance(answer, DuxError):
            raise answer
        return answer  # type: ignore[no-any-return]

    def client(self, daemon: str) -> Any:
        return self


@pytest.fixture
def invitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that can be read; no guest may ever be started."""

    def started(*_: object) -> None:
        raise AssertionError("a guest was started")

    monkeypatch.setattr(demo, "GuestProcess", started)
    path = tmp_path / "guest.yaml"
    path.write_text("format: 1\n")
    return path


def refusal(control: Control, invitation: Path) -> DuxError:
    args = main.build_parser("demo").parse_args(["demo", "--invitation", str(invitation)])
    with pytest.raises(DuxError) as caught:
        args.run(args, control)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "name", "says", "hint", "status"),
    [
        ({"daemon__status": {"network": "flop", "worthless": False}}, "NotTrialNetwork", "whose coins have value",
         "dux-devnet demo", exits.FAILED),
        ({"daemon__status": DaemonDown("flopd is away", hint="Start it.")}, "DaemonDown", "flopd is away",
         "Start it.", exits.UNAVAILABLE),
        ({"wallet__status": {"locked": True}}, "WalletLocked", "is locked", "dux-ctl wallet unlock", exits.NOT_ALLOWED),
        ({"provider__limits": {"paused": True, "sandbox": "ok", "reason": ""}}, "DemoFailed", "takes no tasks",
         "dux-ctl provider resume", exits.UNAVAILABLE),
        ({"provider__limits": {"paused": False, "sandbox": "missing", "reason": "no bubblewrap"}}, "DemoFailed",
         "can't run tasks: no bubblewrap", "dux-ctl why dux-sandbox", exits.UNAVAILABLE),
        ({"chain__status": {"syncing": True, "height": 7}}, "DemoFailed", "still reading the chain (block 7)",
         "Try again", exits.UNAVAILABLE),
    ],
)  # fmt: skip
def test_a_node_that_can_not_or_must_not_trade_is_told_why(
    invitation: Path, changes: dict[str, Any], name: str, says: str, hint: str, status: int
) -> None:
    error = refusal(Table(**changes), invitation)
    assert error.name == name
    assert says in error.message
    assert hint in error.hint
    assert exits.status_of(error) == status


def test_without_an_invitation_it_says_why_there_is_none(tmp_path: Path) -> None:
    error = refusal(Table(), tmp_path / "guest.yaml")
    assert error.name == "InvitationMissing"
    assert (
        "it is on a network of others, Flopcoin Core is connected, or its first boot has not finished" in error.message
    )
    assert "systemctl status dux-firstboot" in error.hint
    assert exits.status_of(error) == exits.FAILED


def test_who_may_not_read_the_invitation_gets_the_exact_command(
    invitation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    error = refusal(Table(), invitation)
    assert error.name == "NotAllowed"
    assert error.hint == f"As root: `usermod -aG duxnet,dux-spend {groups.user_name()}`; then log in again."


def test_a_second_demonstration_is_refused_until_the_first_has_ended(invitation: Path) -> None:
    with demo._only_one(invitation):
        error = refusal(Table(), invitation)
        assert error.name == "DemoRunning"
        assert exits.status_of(error) == exits.UNAVAILABLE
    with demo._only_one(invitation):
        pass


def test_each_error_of_the_demonstration_has_a_hint_of_its_own() -> None:
    for name in ("InvitationMissing", "DemoRunning", "NotTrialNetwork", "DemoFailed", "GuestFailed"):
        assert BY_NAME[name].hint_default


def test_the_difference_counts_both_disagreement_and_a_sum_that_is_not_nothing() -> None:
    right = [Row("a", 95, 95), Row("b", 5, 5), Row("c", -101, -101), Row("fees", 1, None)]
    assert difference_of(right) == 0
    assert difference_of([Row("a", 95, 90), *right[1:]]) == 5
    assert difference_of([Row("a", 96, 96), *right[1:]]) == 1
    assert len(table(right).splitlines()) == 5


def test_what_remains_stands_in_the_table_instead_of_a_promise() -> None:
    found = {
        "network": {"name": "devnet", "chain": "devnet", "worthless": True}, "calls": [], "audit": {"this node": 0},
        "difference": 0, "remains": ["a channel"], "seconds": 1.0,
    }  # fmt: skip
    text = demo_report.text(found)
    assert "what remains of this demonstration:\na channel" in text
    assert "nothing of it is left" not in text
    assert "private trial network, coins have no value" in text
