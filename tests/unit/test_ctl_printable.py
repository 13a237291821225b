"""What another node wrote does not steer the terminal of whoever reads it."""

import sys
from pathlib import Path

import pytest

from dux_ctl import render
from dux_ctl.control import Control
from dux_ctl.printable import printable
from tests.support.probe import probe

HOSTILE = "\x1b]0;owned\x07\x1b[2Jcheap\u202eexe.piz\x9b31m"


def test_control_characters_and_direction_marks_are_taken_out_and_everything_else_stays() -> None:
    assert printable(HOSTILE) == "\ufffd]0;owned\ufffd\ufffd[2Jcheap\ufffdexe.piz\ufffd31m"
    kept = {"text": "naïve 画像\n\tline", "list": ["[red]", 1, None, True]}
    assert printable(kept) == kept


def test_replies_and_errors_are_clean_for_people_and_whole_for_programs(short_tmp: Path) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        people, programs = (Control(short_tmp, as_json, 10.0) for as_json in (False, True))
        asked = {"text": HOSTILE}
        assert people.client("probe").call("probe.echo", asked) == {"text": printable(HOSTILE)}
        assert programs.client("probe").call("probe.echo", asked) == {"text": HOSTILE}
        people.close()
        programs.close()


def test_markup_in_a_table_is_shown_and_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    drawn = render.columns(["summary"], [["[red]cheap[/red] [/oops]"]])
    assert "[red]cheap[/red] [/oops]" in drawn
