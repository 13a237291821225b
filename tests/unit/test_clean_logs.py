"""The check of daemons' logs that the other tests rely on."""

from pathlib import Path

import pytest

from tests.support.logs import assert_clean_logs

FAULT = '{"level": "error", "message": "internal error", "method": "a.b"}\n'


def test_quiet_logs_pass(tmp_path: Path) -> None:
    assert_clean_logs(tmp_path)
    (tmp_path / "flopd.log").write_text('{"level": "warning", "message": "error in the input"}\nplain text\n')
    assert_clean_logs(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        FAULT,
        "Traceback (most recent call last):\n",
        '{"level": "info", "traceback": "Traceback (most recent call last)"}',
        "Task exception was never retrieved\n",
        "x.py:1: ResourceWarning: unclosed\n",
        '{"level": "critical"}',
    ],
)
@pytest.mark.parametrize("name", ["flopd.log", "alice/log/flopd.err"])
def test_a_fault_in_any_log_below_the_folder_fails(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"level": "info"}\n' + text)
    with pytest.raises(AssertionError, match=path.name):
        assert_clean_logs(tmp_path)


def test_a_fault_that_was_provoked_may_be_allowed_and_must_then_be_there(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="expected fault"):
        assert_clean_logs(tmp_path, allow=[r"a\.b"])
    (tmp_path / "flopd.log").write_text(FAULT)
    assert_clean_logs(tmp_path, allow=[r"a\.b"])
    (tmp_path / "flopd.log").write_text(FAULT + FAULT.replace("a.b", "c.d"))
    with pytest.raises(AssertionError, match=r"c\.d"):
        assert_clean_logs(tmp_path, allow=[r"a\.b"])
