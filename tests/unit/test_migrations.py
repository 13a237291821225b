"""An upgrade of a database: a copy first, each step whole or not at all, and every row there whatever happens."""

import asyncio
import json
import os
import pwd
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from duxcommon import __version__, goback, migrations, sdnotify
from duxcommon.db import IDEMPOTENCY_TABLE, Store
from duxcommon.errors import ConfigError, DiskFull, DiskReadOnly, DuxError, NewerFormat, StoreDamaged
from tests.support.probe import probe
from tests.support.process import ROOT

ONE = "CREATE TABLE a (n INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"
STEPS = (
    ONE,
    "ALTER TABLE a ADD COLUMN length INTEGER NOT NULL DEFAULT 0; UPDATE a SET length = length(text);",
    "CREATE TABLE b (n INTEGER PRIMARY KEY, twice TEXT NOT NULL) STRICT; INSERT INTO b SELECT n, text || text FROM a;",
    "ALTER TABLE a RENAME TO c; CREATE INDEX c_by_length ON c (length);",
)
SELECT = "SELECT n, text FROM {}"
INSERT = "INSERT INTO {} (n, text) VALUES (?, ?)"
SCRIPT = (
    "import asyncio, json, os, sys\n"
    "from pathlib import Path\n"
    "from duxcommon.db import Store\n"
    "from duxcommon.errors import DuxError\n"
    "async def main():\n"
    "    try:\n"
    "        await Store(Path(sys.argv[1]), json.loads(sys.argv[2])).close()\n"
    "    except DuxError as error:\n"
    "        print(json.dumps({'name': error.name, 'message': error.message, 'hint': error.hint}))\n"
    "asyncio.run(main())\n"
)


def open_with(path: Path, steps: int) -> None:
    """Open and close a store of the version that knows so many steps."""

    async def main() -> None:
        await Store(path, STEPS[:steps]).close()

    asyncio.run(main())


def process(path: Path, steps: int, *, failpoint: str = "", before: str = "", wrap: tuple[str, ...] = ()) -> (
    "subprocess.CompletedProcess[str]"
):  # fmt: skip
    """The same in a process of its own; what it printed is the error that it met."""
    return subprocess.run(
        [*wrap, sys.executable, "-c", before + SCRIPT, str(path), json.dumps(STEPS[:steps])],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DUXNET_FAILPOINT": failpoint},
    )  # fmt: skip


def ask(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


def schema(path: Path) -> int:
    (number,) = ask(path, "PRAGMA user_version")[0]
    assert isinstance(number, int)
    return number


def filled(path: Path, steps: int, rows: int = 50) -> dict[int, str]:
    """A database of that many steps with rows in it."""
    open_with(path, steps)
    texts = {n: f"row {n} " + "x" * (n % 7) for n in range(rows)}
    with sqlite3.connect(path) as connection:
        table = "c" if steps >= 4 else "a"
        connection.executemany(INSERT.format(table), texts.items())
    connection.close()
    return texts


def content(path: Path) -> dict[int, str]:
    """The rows, whichever schema they are in."""
    table = "c" if schema(path) >= 4 else "a"
    return dict(ask(path, SELECT.format(table)))  # type: ignore[arg-type]


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_new_database_is_made_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_with(path, 3)
    assert schema(path) == 3
    assert names(tmp_path) == {"x.db", "x.db.lock"}


def test_before_an_upgrade_a_copy_is_made_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    texts = filled(path, 1)
    open_with(path, 3)
    copy = tmp_path / "x.db.before-1-to-3"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (schema(copy), content(copy)) == (1, texts)
    assert (schema(path), content(path)) == (3, texts)
    assert {n: twice for n, twice in ask(path, "SELECT n, twice FROM b")} == {n: t + t for n, t in texts.items()}
    assert ask(path, "SELECT schema, version, copy FROM schema_history WHERE schema > 1") == [
        (2, __version__, copy.name), (3, __version__, copy.name),
    ]  # fmt: skip
    # No new copy where nothing changes.
    copy.unlink()
    open_with(path, 3)
    assert not copy.exists()


def test_what_was_migrated_and_where_the_copy_is_stands_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.db"
    filled(path, 1)
    with caplog.at_level("INFO", "store"):
        open_with(path, 2)
    (record,) = [r for r in caplog.records if r.name == "store"]
    told = vars(record)
    assert (told["from_schema"], told["to_schema"], told["copy"]) == (1, 2, str(tmp_path / "x.db.before-1-to-2"))


def test_commits_that_only_the_wal_holds_are_in_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    filled(path, 1)
    kept = tmp_path / "kept"
    kept.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("INSERT INTO a VALUES (1000, 'in the wal')")
        connection.commit()
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", kept)
    connection.close()
    open_with(kept / "x.db", 2)
    assert content(kept / "x.db.before-1-to-2")[1000] == "in the wal"
    assert content(kept / "x.db")[1000] == "in the wal"


def test_the_newest_two_copies_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    filled(path, 1)
    for steps in (2, 3, 4):
        open_with(path, steps)
    assert [copy.name for copy in migrations.copies(path)] == ["x.db.before-3-to-4", "x.db.before-2-to-3"]


@pytest.mark.parametrize("point", [*migrations.FAILPOINTS, "migrated:2", "migrated:3"])
def test_killed_at_any_point_the_next_start_goes_on_and_loses_no_row(tmp_path: Path, point: str) -> None:
    path = tmp_path / "x.db"
    if point == "new-built":
        assert process(path, 4, failpoint=f"store:{point}").returncode == -signal.SIGKILL
        assert not path.exists()
        assert process(path, 4).stdout == ""
        assert (schema(path), content(path)) == (4, {})
        assert names(tmp_path) == {"x.db", "x.db.lock"}
        return
    texts = filled(path, 1)
    assert process(path, 4, failpoint=f"store:{point}").returncode == -signal.SIGKILL
    at = schema(path)
    assert at == {"migrated": 2, "migrated:2": 3, "migrated:3": 4}.get(point, 1)
    assert content(path) == texts
    assert process(path, 4).stdout == ""
    assert (schema(path), content(path)) == (4, texts)
    assert ask(path, "SELECT count(*) FROM b") == [(len(texts),)]
    # The copy is of before the whole upgrade, not of where it was cut off.
    assert (schema(tmp_path / "x.db.before-1-to-4"), content(tmp_path / "x.db.before-1-to-4")) == (1, texts)
    assert len(migrations.copies(path)) == 1
    assert not [name for name in names(tmp_path) if name.endswith((".part", ".new"))]


def test_any_history_of_upgrades_kills_and_returns_keeps_every_row(tmp_path: Path) -> None:
    for seed in range(12):
        dice = random.Random(seed)
        path = tmp_path / f"{seed}" / "x.db"
        path.parent.mkdir()
        expected = filled(path, 1, rows=dice.randrange(1, 60))
        before: dict[int, dict[int, str]] = {}
        known, n = 1, 1000
        for _ in range(dice.randrange(3, 8)):
            wanted = dice.randrange(known, len(STEPS) + 1)
            if wanted > known and dice.random() < 0.6:
                process(
                    path, wanted, failpoint=f"store:{dice.choice(['copy-written', 'copied', 'migrated', 'migrated:2'])}"
                )
            if wanted > known:
                before[wanted] = dict(expected)
            open_with(path, wanted)
            assert (schema(path), content(path)) == (wanted, expected), (seed, wanted)
            made = [copy for copy in migrations.copies(path) if copy.name.endswith(f"-to-{wanted}")]
            if wanted > known:
                assert before[wanted] in [content(copy) for copy in made], (seed, wanted)
            known = wanted
            if made and dice.random() < 0.3:
                # Going back, as docs/upgrades.md says.
                back = int(made[0].name.rpartition("before-")[2].partition("-")[0])
                for end in ("-wal", "-shm"):
                    path.with_name(path.name + end).unlink(missing_ok=True)
                shutil.copy(made[0], path)
                known, expected = back, content(path)
            n += 1
            with sqlite3.connect(path) as connection:
                connection.execute(INSERT.format("c" if known >= 4 else "a"), (n, f"new {n}"))
            connection.close()
            expected[n] = f"new {n}"


def test_a_half_finished_upgrade_that_another_version_worked_on_gets_a_copy_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    filled(path, 1)
    process(path, 4, failpoint="store:migrated")
    open_with(path, 2)  # a version between, which writes
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO a (n, text) VALUES (99999, 'since')")
    connection.close()
    open_with(path, 4)
    assert 99999 in content(tmp_path / "x.db.before-2-to-4")


def test_a_newer_database_names_both_versions_and_the_copy_to_go_back_to(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    filled(path, 2)
    open_with(path, 3)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_history SET version = '7.1' WHERE schema = 3")
    connection.close()
    with pytest.raises(NewerFormat) as caught:
        open_with(path, 2)
    assert "written by Dux OS 7.1 (schema 3)" in caught.value.message
    assert f"this is Dux OS {__version__}, which knows schema 2" in caught.value.message
    assert str(tmp_path / "x.db.before-2-to-3") in caught.value.hint
    assert "/usr/share/doc/dux-common/upgrades.md" in caught.value.hint
    assert schema(path) == 3


def test_without_room_for_the_copy_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.db"
    texts = filled(path, 1)
    monkeypatch.setattr(migrations, "SPARE_BYTES", 1 << 60)
    with pytest.raises(DiskFull) as caught:
        open_with(path, 2)
    assert "no room to copy" in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert "Free that much" in caught.value.hint
    assert (schema(path), content(path)) == (1, texts)
    assert names(tmp_path) == {"x.db", "x.db.lock"}


MOUNT = (
    "import subprocess, sys, pathlib, shutil\n"
    "folder = pathlib.Path(sys.argv[1]).parent\n"
    "subprocess.run(['cp', '-a', f'{folder}/.', f'{folder}.keep'], check=True)\n"
    "if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=%s', 'none', folder]).returncode: sys.exit('SKIP')\n"
    "subprocess.run(['cp', '-a', f'{folder}.keep/.', folder], check=True)\n"
)
PRIVATE = ("unshare", "--mount", "--propagation", "private")


def on_a_disk(path: Path, steps: int, size: str, then: str) -> dict[str, str]:
    """The error that a start meets with the folder on a small file system, after `then` was done to it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("not run: needs root and unshare to mount a tiny disk")
    done = process(path, steps, before=MOUNT % size + then, wrap=PRIVATE)
    if "SKIP" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("not run: this machine does not let us mount a tiny disk")
    assert done.stdout, done.stderr
    error: dict[str, str] = json.loads(done.stdout)
    return error


FILL = (
    "with open(folder / 'filler', 'wb', buffering=0) as filler:\n"
    "    try:\n"
    "        while filler.write(bytes(4096)): pass\n"
    "    except OSError: pass\n"
)


def test_on_a_really_full_disk_an_upgrade_is_refused_before_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "x.db"
    path.parent.mkdir()
    filled(path, 1)
    error = on_a_disk(path, 2, "2m", FILL)
    assert error["name"] == DiskFull.__name__
    assert "x.db" in error["message"]
    assert error["hint"]


def test_the_first_start_on_a_full_disk_says_so_and_leaves_no_half_database(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "x.db"
    path.parent.mkdir()
    (path.parent / "x.db.lock").touch()
    error = on_a_disk(path, 4, "64k", FILL)
    assert error["name"] == DiskFull.__name__


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "x.db"
    path.parent.mkdir()
    filled(path, 1)
    error = on_a_disk(path, 1, "2m", "subprocess.run(['mount', '-o', 'remount,ro', folder], check=True)\n")
    assert error["name"] == DiskReadOnly.__name__
    assert "read-only" in error["message"]
    assert "remount,rw" in error["hint"]


def damaged_copy(path: Path) -> None:
    """Overwrite a page in the middle with noise."""
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 2 + 2000] = b"\x7f" * 2000
    path.write_bytes(bytes(data))


def test_a_file_that_is_no_sound_database_is_refused_in_a_sentence_and_left_alone(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    filled(whole, 2, rows=2000)
    data = whole.read_bytes()
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE stranger (n)")
    connection.close()
    cases: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "is empty (0 bytes)"),
        "text": (b"hello\n" * 100, "is not a database"),
        "a few bytes": (data[:50], "is not a database"),
        "truncated": (data[: len(data) // 2], "was cut short"),
        "somebody else's": (other.read_bytes(), "not a database of Dux OS"),
    }
    for number, (what, (given, words)) in enumerate(cases.items()):
        path = tmp_path / f"{number}" / "x.db"
        path.parent.mkdir()
        path.write_bytes(given)
        with pytest.raises(StoreDamaged) as caught:
            open_with(path, 3)
        assert words in caught.value.message, what
        assert str(path) in caught.value.message, what
        assert caught.value.hint, what
        assert path.read_bytes()[:20] == given[:20], what


def test_a_damaged_database_is_found_out_before_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    filled(path, 1, rows=3000)
    damaged_copy(path)
    with pytest.raises(StoreDamaged) as caught:
        open_with(path, 2)
    assert "damaged" in caught.value.message
    assert not migrations.copies(path)


def test_a_folder_in_the_databases_place_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.mkdir()
    with pytest.raises(ConfigError, match="is no file"):
        open_with(path, 1)


def test_a_missing_database_whose_last_commits_are_there_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    (tmp_path / "x.db-wal").write_bytes(b"x" * 100)
    with pytest.raises(StoreDamaged, match=r"is missing, but x\.db-wal"):
        open_with(path, 1)
    assert not path.exists()


def test_a_database_of_another_user_is_named_with_its_owner(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root to make a file of another user")
    folder = Path("/tmp") / f"dux-owner-{os.getpid()}"
    folder.mkdir(mode=0o777)
    try:
        folder.chmod(0o777)
        path = folder / "x.db"
        filled(path, 1)
        path.chmod(0o600)
        (folder / "x.db.lock").chmod(0o666)
        done = process(path, 1, before="import os\nimport duxcommon.db\nos.setuid(65534)\n")
        error = json.loads(done.stdout) if done.stdout else {}
        assert error.get("name") == "ConfigError", done.stderr
        assert "belongs to root" in error["message"]
        assert "runs as nobody" in error["message"]
        assert "chown nobody:" in error["hint"]
    finally:
        shutil.rmtree(folder)


def test_the_errors_say_whether_trying_again_can_help() -> None:
    later: dict[type[DuxError], bool] = {DiskFull: True, DiskReadOnly: True, StoreDamaged: False, NewerFormat: False}
    assert {error: error.retry for error in later} == later


def test_systemd_is_asked_for_more_time_as_long_as_an_upgrade_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.db"
    filled(path, 1)
    address = tmp_path / "notify"
    slow = (
        "CREATE TABLE big AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 1000000) "
        "SELECT n FROM r;"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setattr(sdnotify, "EXTEND_EVERY_S", 0.02)

        told: list[str] = []

        def read() -> None:
            while not told or told[-1] != "STATUS=":
                told.append(listener.recv(4096).decode())

        async def main() -> None:
            await Store(path, (ONE, slow)).close()

        listener.settimeout(30)
        reader = threading.Thread(target=read)
        reader.start()
        asyncio.run(main())
        reader.join(30)
    waits = [message for message in told if message.startswith("EXTEND_TIMEOUT_USEC=60000000\nSTATUS=bringing x.db")]
    assert len(waits) > 3
    assert told[-1] == "STATUS=", "the text stays after the upgrade"


def test_a_daemon_upgrades_its_database_at_its_start_and_asks_systemd_to_wait(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    with sqlite3.connect(short_tmp / "probe.db") as connection:
        connection.executescript(f"{IDEMPOTENCY_TABLE} PRAGMA user_version=1;")
    connection.close()
    with probe(short_tmp) as daemon:
        daemon.start()
        assert any(message.startswith("EXTEND_TIMEOUT_USEC=") for message in daemon.messages)
        line = json.loads(daemon.wait_log("the database was brought to a newer schema"))
        assert line["copy"] == str(short_tmp / "probe.db.before-1-to-2")
        assert daemon.call("probe.note", {"text": "hi", "key": "k"}) == {"id": 1, "count": 1}


def test_a_daemon_that_meets_a_newer_database_is_not_started_again_and_tells_systemd_why(short_tmp: Path) -> None:
    with sqlite3.connect(short_tmp / "probe.db") as connection:
        connection.executescript("CREATE TABLE future (n); PRAGMA user_version=9;")
    connection.close()
    with probe(short_tmp) as daemon:
        daemon.start(wait=False)
        assert daemon.wait() == 78
        assert "which knows schema 2" in daemon.output()
        assert "Traceback" not in daemon.output()
        assert any("STATUS=can't run: " in message and "schema 9" in message for message in daemon.told())


def test_going_back_puts_the_copy_in_place_and_loses_nothing_of_what_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flopd" / "x.db"
    path.parent.mkdir()
    texts = filled(path, 2)
    open_with(path, 3)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO a (n, text) VALUES (4711, 'since the upgrade')")
    connection.close()
    assert goback.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{path}: as in x.db.before-2-to-3" in told
    assert (tmp_path / "going-back").exists()
    assert (schema(path), content(path)) == (2, texts)
    assert path.stat().st_mode & 0o777 == 0o600
    assert content(path.parent / "x.db.upgraded-3" / "x.db")[4711] == "since the upgrade"
    # The version of before runs on it, and the newer one upgrades it again.
    open_with(path, 2)
    open_with(path, 4)
    assert content(path) == texts


def test_nobody_goes_back_under_a_running_daemon_or_without_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.db"
    filled(path, 1)
    open_with(path, 2)

    async def main() -> int:
        store = Store(path, STEPS[:2])
        try:
            return goback.main([str(tmp_path)])
        finally:
            await store.close()

    assert asyncio.run(main()) == 1
    assert "systemctl stop dux.target" in capsys.readouterr().err
    assert schema(path) == 2
    assert not (tmp_path / "going-back").exists()
    assert goback.main([str(tmp_path / "nothing")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_going_back_that_was_cut_off_is_finished_by_the_next_try(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    texts = filled(path, 1)
    open_with(path, 2)
    aside = tmp_path / "x.db.upgraded-2"
    aside.mkdir()
    path.rename(aside / "x.db")
    (tmp_path / ".x.db.back").write_bytes(b"half")
    assert goback.main([str(tmp_path)]) == 0
    assert (schema(path), content(path)) == (1, texts)


def test_no_daemon_leads_root_elsewhere_while_it_goes_back(capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(dir="/tmp") as made:  # pytest's own folder is closed to other users
        top, mine, yours = Path(made), Path(made, "root"), Path(made, "registryd")
        top.chmod(0o755)
        mine.mkdir(mode=0o700)
        secret = mine / "shadow"
        secret.write_text("root's alone")
        yours.mkdir()
        filled(yours / "x.db", 1)
        open_with(yours / "x.db", 2)
        for path in (yours, *yours.iterdir()):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        assert goback.main([str(top)]) == 0
        assert schema(yours / "x.db") == 1
        assert {path.stat().st_uid for path in yours.iterdir()} == {nobody.pw_uid}
        (top / goback.MARK).unlink()

        for link, target in ((".x.db.back", secret), ("x.db.lock", mine / "lock"), ("y.db.before-1-to-2", secret)):
            (yours / link).unlink(missing_ok=True)
            (yours / link).symlink_to(target)
        assert goback.main([str(top)]) == 1
        assert "Permission denied" in capfd.readouterr().err
        assert (secret.read_text(), secret.stat().st_uid, list(mine.iterdir())) == ("root's alone", 0, [secret])
        assert not (top / goback.MARK).exists()
        assert goback.main([str(yours)]) == 1
        assert "is not yours" in capfd.readouterr().err
