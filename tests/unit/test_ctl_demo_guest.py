"""The process of the demonstration's guest: what it leaves and says when it ends by itself."""

import sys
from pathlib import Path

import pytest

from dux_ctl.demo_guest import GuestProcess
from duxcommon.errors import GuestFailed


def test_a_guest_that_ends_by_itself_leaves_its_last_words_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nseq 2000 >&2\necho 'the very last words' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    guest = GuestProcess(tmp_path / "invitation.yaml", lambda text: None)
    try:
        with pytest.raises(GuestFailed, match="ended by itself: the very last words"):
            guest.wait_ready()
        # In a folder that everybody may write to, a name beside the guest's own could be anybody's link.
        assert list(guest.folder.parent.glob(f"{guest.folder.name}?*")) == []
    finally:
        guest.end()
    assert not guest.folder.exists()
