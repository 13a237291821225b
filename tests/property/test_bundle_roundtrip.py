"""What holds for every bundle: packing and unpacking are inverse, and damaged bytes never get out."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from duxcommon import bundle
from duxcommon.errors import DuxError

MANIFEST = 'name: x\nversion: "1"\nsummary: x\nprice: 1\nruntime: command\ncommand: [x]\n'

names = st.text(st.characters(categories=["L", "N"], include_characters="._- "), min_size=1, max_size=20).filter(
    lambda name: not bundle.left_out(name) and len(name.encode()) < 80
)
trees = st.dictionaries(st.lists(names, min_size=1, max_size=3).map(tuple), st.binary(max_size=1500), max_size=8)


def write(folder: Path, tree: dict[tuple[str, ...], bytes]) -> dict[str, bytes]:
    """The tree as files below `folder`, but for those whose path another file blocks."""
    written = {"dux.yaml": MANIFEST.encode()}
    (folder / "dux.yaml").write_bytes(written["dux.yaml"])
    for parts, data in tree.items():
        path = folder.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
        except OSError:
            continue
        written["/".join(parts)] = data
    return written


@settings(max_examples=60, deadline=None)
@given(trees)
def test_unpacking_a_packed_folder_gives_its_files_and_packing_again_its_bytes(
    tree: dict[tuple[str, ...], bytes],
) -> None:
    root = Path(tempfile.mkdtemp(prefix="dux"))
    try:
        (root / "app").mkdir()
        files = write(root / "app", tree)
        first = bundle.pack(root / "app", root / "a.tar")
        bundle.unpack(root / "a.tar", root / "out")
        found = {
            os.path.relpath(os.path.join(base, name), root / "out"): Path(base, name).read_bytes()
            for base, _, inside in os.walk(root / "out")
            for name in inside
        }
        assert found == files
        assert bundle.pack(root / "out", root / "b.tar") == first
        assert (root / "a.tar").read_bytes() == (root / "b.tar").read_bytes()
    finally:
        shutil.rmtree(root)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_bundle_is_refused_or_stays_inside_its_folder(data: st.DataObject) -> None:
    root = Path(tempfile.mkdtemp(prefix="dux"))
    try:
        (root / "app" / "lib").mkdir(parents=True)
        write(root / "app", {("lib", "x.py"): b"x" * 600, ("main.py",): b"y"})
        bundle.pack(root / "app", root / "a.tar")
        raw = bytearray((root / "a.tar").read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        (root / "b.tar").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
        before = sorted(root.iterdir())
        try:
            bundle.unpack(root / "b.tar", root / "out")
        except DuxError:
            assert sorted(root.iterdir()) == before
        else:
            assert sorted(root.iterdir()) == sorted([*before, root / "out"])
    finally:
        shutil.rmtree(root)
