"""Nothing is left out silently: what may be, and when the image is tested."""

from tests.os.changes import touches_packaging
from tests.os.conftest import MACHINE_BOUND, excused


def test_where_everything_runs_only_what_the_machine_lacks_is_excused() -> None:
    assert all(excused(f"Skipped: not run: {words}", True) for words in MACHINE_BOUND)
    assert not excused("Skipped: not run: needs root", True)
    assert not excused("Skipped: not run: needs the Debian packages systemd-container", True)
    assert excused("Skipped: not run: needs root", False)


def test_the_image_is_tested_when_what_it_is_made_of_changes() -> None:
    assert touches_packaging(["docs/flopd.md", "debian/control"])
    assert touches_packaging(["requirements.lock"])
    assert not touches_packaging(["dux_flopd/wallet.py", "docs/settings.md"])
