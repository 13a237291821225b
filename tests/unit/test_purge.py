"""Purging the packages: no key of a network whose coins may have value is deleted, wherever it lies."""

import os
import subprocess
from pathlib import Path

import pytest

from dux_setup.paths import Paths
from duxcommon.network import dump_network
from tests.unit.test_invitation import definition

SCRIPT = Path(__file__).resolve().parent.parent.parent / "debian/dux-common.postrm"
TRIAL, VALUABLE = dump_network(definition()), dump_network(definition("main"))
OLD = "20261122T120000Z"
HALF_WRITTEN = [
    "",
    TRIAL[: TRIAL.index("guardians")],
    TRIAL.rstrip("\n"),
    TRIAL.replace("chain: devnet", "chain: "),
    TRIAL.replace("chain: devnet", "chain: another"),
    TRIAL + "chain: main\n",
    TRIAL[:-20] + "\0" * 20,
]


def tree(root: Path, network: str | None, *, keystore: bool = True) -> Paths:
    """A node's files below `root`, where a machine's own lie or what was moved aside."""
    paths = Paths(root)
    for folder in (paths.state("escrowd"), paths.state("flopd"), paths.state("taskd"), paths.etc):
        folder.mkdir(parents=True)
    (paths.state("escrowd") / "escrowd.sqlite").write_text("signed states")
    (paths.state("taskd") / "taskd.sqlite").write_text("tasks")
    if keystore:
        paths.keystore.write_text(f"keys of {root}")
        paths.credential.parent.mkdir(parents=True, exist_ok=True)
        paths.credential.write_text("passphrase")
    if network is not None:
        paths.network.write_text(network)
    return paths


def purge(root: Path, *before: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "DPKG_ROOT": str(root), "LC_ALL": "C"}
    command = [*before, "dash", str(SCRIPT), "purge"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def purged(root: Path) -> tuple[set[str], str]:
    """Where keys and channels are kept, below the backup's folder, and what was said; all else has to be gone."""
    done = purge(root)
    assert done.returncode == 0, done.stderr
    for gone in ("var/lib/duxnet", "etc/duxnet", "etc/credstore.encrypted/dux-flopd.wallet", "var/log/duxnet"):
        assert not os.path.lexists(root / gone)
    backups = list((root / "var/backups/duxnet").glob("*")) if (root / "var/backups").exists() else []
    assert len(backups) <= 1
    kept = {str(path.relative_to(one)) for one in backups for path in one.rglob("*") if not path.is_dir()}
    assert (kept != set()) == ("was not deleted" in done.stderr)
    for one in backups:
        assert one.stat().st_mode & 0o777 == one.parent.stat().st_mode & 0o777 == 0o700
        assert str(one) in done.stderr
    return kept, done.stderr


OWN = {"flopd/keystore.json", "escrowd/escrowd.sqlite", "dux-flopd.wallet", "network.yaml"}


def below(folder: str) -> set[str]:
    """The keys of a tree that was kept whole."""
    return {
        f"{folder}/{name}" for name in ("var/lib/duxnet/flopd/keystore.json", "var/lib/duxnet/escrowd/escrowd.sqlite")
    }


def test_a_trial_network_leaves_nothing(tmp_path: Path) -> None:
    paths = tree(tmp_path, TRIAL)
    tree(paths.var / "old" / OLD, TRIAL)
    tree(paths.var / "old" / OLD / "abandoned", TRIAL)
    assert purged(tmp_path) == (set(), "")


def test_a_node_that_was_never_set_up_leaves_nothing(tmp_path: Path) -> None:
    for daemon in ("flopd", "escrowd"):
        Paths(tmp_path).state(daemon).mkdir(parents=True)
    assert purged(tmp_path) == (set(), "")


def test_a_network_of_value_keeps_keys_passphrase_channels_and_definition(tmp_path: Path) -> None:
    paths = tree(tmp_path, VALUABLE)
    kept, said = purged(tmp_path)
    assert kept == OWN
    assert str(paths.state("flopd")) in said


@pytest.mark.parametrize("text", [None, *HALF_WRITTEN])
def test_a_definition_that_is_missing_or_half_written_proves_nothing(tmp_path: Path, text: str | None) -> None:
    tree(tmp_path, text)
    kept, _ = purged(tmp_path)
    assert kept == OWN - ({"network.yaml"} if text is None else set())


@pytest.mark.parametrize("kind", ["dangling", "folder", "pipe", "loop"])
def test_a_definition_that_is_no_file_proves_nothing(tmp_path: Path, kind: str) -> None:
    network = tree(tmp_path, None).network
    if kind == "folder":
        network.mkdir()
    elif kind == "pipe":
        os.mkfifo(network)
    else:
        network.symlink_to("nowhere" if kind == "dangling" else network.name)
    kept, _ = purged(tmp_path)
    assert kept >= OWN - {"network.yaml"}


def test_a_definition_behind_a_link_counts_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TRIAL)
    tree(tmp_path, None).network.symlink_to(tmp_path / "mine.yaml")
    assert purged(tmp_path) == (set(), "")


@pytest.mark.parametrize("own", [TRIAL, VALUABLE])
def test_what_an_earlier_move_left_is_kept_by_its_own_network(tmp_path: Path, own: str) -> None:
    old = tree(tmp_path, own).var / "old"
    tree(old / "first", VALUABLE)
    tree(old / "second", TRIAL)
    tree(old / "third with a blank", None)
    tree(old / ".hidden", HALF_WRITTEN[1])
    kept, said = purged(tmp_path)
    keys = {name for name in kept if name.startswith("old/") and name.endswith(("keystore.json", "escrowd.sqlite"))}
    assert keys == below("old/first") | below("old/third with a blank") | below("old/.hidden")
    assert {name for name in kept if not name.startswith("old/")} == (OWN if own is VALUABLE else set())
    assert str(old / "first") in said
    assert "second" not in said


@pytest.mark.parametrize("network", [VALUABLE, None])
def test_what_an_undone_move_set_aside_is_kept(tmp_path: Path, network: str | None) -> None:
    """After it the old state is back, and the keys of the network that was to be joined are in `abandoned`."""
    old = tree(tmp_path, TRIAL).var / "old" / OLD
    tree(old / "abandoned", network)
    kept, said = purged(tmp_path)
    assert {name for name in kept if "keystore" in name or "sqlite" in name} >= below(f"old/{OLD}/abandoned")
    assert str(old / "abandoned") in said


def test_an_undone_move_between_trial_networks_leaves_nothing(tmp_path: Path) -> None:
    tree(tree(tmp_path, TRIAL).var / "old" / OLD / "abandoned", TRIAL)
    assert purged(tmp_path) == (set(), "")


def test_of_several_definitions_in_one_folder_each_has_to_be_a_trial_networks(tmp_path: Path) -> None:
    """An undoing that was killed and done again sets aside what is there twice, under two names."""
    aside = tree(tree(tmp_path, TRIAL).var / "old" / OLD / "abandoned", TRIAL)
    aside.network.with_name("network.yaml.2").write_text(VALUABLE)
    kept, _ = purged(tmp_path)
    assert kept >= below(f"old/{OLD}/abandoned")


def test_between_two_networks_nothing_is_thrown_away(tmp_path: Path) -> None:
    """A kill in the middle of a move: the definition that is there need not be that of the keys beside it."""
    paths = tree(tmp_path, TRIAL)
    paths.setup.mkdir()
    (paths.setup / "switch.json").write_text("{}")
    old = tree(paths.var / "old" / OLD, TRIAL, keystore=False)
    kept, _ = purged(tmp_path)
    assert kept >= OWN | {f"old/{OLD}/{old.state('escrowd').relative_to(old.root)}/escrowd.sqlite"}


def test_a_copy_that_somebody_made_beside_the_daemons_folders_is_kept(tmp_path: Path) -> None:
    paths = tree(tmp_path, TRIAL)
    for name in ("flopd.before", ".flopd.part", "mine"):
        (paths.var / name).mkdir()
        (paths.var / name / "keystore.json").write_text("keys")
    assert purged(tmp_path)[0] == {f"{name}/keystore.json" for name in ("flopd.before", ".flopd.part", "mine")}


@pytest.mark.parametrize("linked", ["flopd", "old", "keystore.json"])
def test_keys_behind_a_link_stay_where_they_are_and_the_passphrase_with_them(tmp_path: Path, linked: str) -> None:
    paths = tree(tmp_path, VALUABLE)
    tree(paths.var / "old" / OLD, VALUABLE)
    link = {"flopd": paths.state("flopd"), "old": paths.var / "old", "keystore.json": paths.keystore}[linked]
    elsewhere = tmp_path / "srv"
    link.rename(elsewhere)
    link.symlink_to("../../../srv" if linked != "keystore.json" else elsewhere)
    kept, said = purged(tmp_path)
    assert "dux-flopd.wallet" in kept
    texts = {path.read_text() for path in tmp_path.rglob("keystore.json") if path.is_file()}
    texts |= {elsewhere.read_text()} if linked == "keystore.json" else set()
    assert texts == {f"keys of {tmp_path}", f"keys of {paths.var / 'old' / OLD}"}
    if linked == "flopd":
        assert f"stays in {elsewhere}" in said


def test_two_purges_do_not_mix_what_they_keep(tmp_path: Path) -> None:
    for _ in range(2):
        tree(tmp_path, VALUABLE)
        assert purge(tmp_path).returncode == 0
    backups = list((tmp_path / "var/backups/duxnet").iterdir())
    assert [(one / "flopd/keystore.json").exists() for one in backups] == [True, True]


def test_when_the_keys_can_not_be_kept_nothing_is_deleted_and_the_next_purge_keeps_the_rest(tmp_path: Path) -> None:
    paths = tree(tmp_path, VALUABLE)
    backups = tmp_path / "var/backups"
    backups.write_text("no folder")
    done = purge(tmp_path)
    assert done.returncode != 0
    assert paths.keystore.exists()
    assert paths.network.exists()
    assert paths.credential.exists()
    # As if it had been killed after the keystore was moved.
    backups.unlink()
    (paths.state("flopd")).rename(tmp_path / "moved")
    kept, _ = purged(tmp_path)
    assert kept == OWN - {"flopd/keystore.json"}


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: needs root, to mount")
@pytest.mark.parametrize("room", ["1m", "4k"])
def test_keys_on_a_file_system_of_their_own_are_copied_or_all_stays(tmp_path: Path, room: str) -> None:
    paths = tree(tmp_path, VALUABLE)
    mounts = (
        f"mount -t tmpfs none {paths.state('flopd')}; head -c 200000 /dev/zero >{paths.keystore}; "
        f"mkdir -p {tmp_path}/var/backups; mount -t tmpfs -o size={room} none {tmp_path}/var/backups; "
        f'"$@"; echo "$?"; find {tmp_path} -name keystore.json -size +150k -o -name network.yaml'
    )
    done = purge(tmp_path, "unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "sh")
    status, *left = done.stdout.splitlines()
    names = {line.removeprefix(f"{tmp_path}/") for line in left}
    if room == "1m":
        assert status == "0", done.stderr
        assert [name.split("/", 4)[4] for name in sorted(names)] == ["flopd/keystore.json", "network.yaml"]
    else:
        assert status == "1"
        assert "nothing more is deleted" in done.stderr
        assert names >= {str(path.relative_to(tmp_path)) for path in (paths.keystore, paths.network)}
