"""The pages that the packages install: no relative link of theirs is dead, and programs name pages that are there."""

import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest

from build_script import installed_docs

ROOT = Path(__file__).parents[2]
INSTALLED = installed_docs.pages(ROOT)
PAGES = sorted(name for name in INSTALLED if name.endswith(".md"))
NAMED = re.compile(rf"{installed_docs.FOLDER}/([\w./-]+\.(?:md|svg))")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As after dh_installdocs and the very command of debian/rules."""
    made = tmp_path_factory.mktemp("doc")
    for source, name in INSTALLED.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_bytes((ROOT / source).read_bytes())
    subprocess.run([sys.executable, str(ROOT / "build_script/installed_docs.py"), str(made)], check=True, timeout=60)
    return made


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ +(.+)$", installed_docs.FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("source", PAGES)
def test_every_link_of_an_installed_page_leads_somewhere(source: str, folder: Path) -> None:
    page = folder / INSTALLED[source]
    dead = []
    for _, target in installed_docs.LINK.findall(installed_docs.FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if installed_docs.SCHEME.match(target):
            continue
        if path.startswith("/"):
            places = {there: name for name, there in installed_docs.ELSEWHERE.items()}
            place = next(there for there in places if path == there or path.startswith(f"{there}/"))
            alive = (ROOT / places[place] / path.removeprefix(place).lstrip("/")).exists()
        else:
            found = page.parent / path if path else page
            alive = found.is_file() and (not anchor or anchor in anchors(found))
        if not alive:
            dead.append(target)
    assert dead == []


def test_what_the_readme_shows_of_a_page_is_where_it_lies(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert "[upgrades.md](upgrades.md)" in text
    assert "[decisions/](decisions/README.md)" in text
    assert "[apps/hello-words](/usr/share/duxnet/apps/hello-words)" in text
    assert "](docs/" not in text


@pytest.mark.parametrize(
    ("page", "text", "becomes"),
    [
        ("README.md", "[docs/flopd.md](docs/flopd.md#x)", "[flopd.md](flopd.md#x)"),
        ("README.md", "[within\nminutes](docs/devnet.md)", "[within\nminutes](devnet.md)"),
        ("README.md", "[CONTRIBUTING.md](CONTRIBUTING.md), [a](https://a/)", "CONTRIBUTING.md, [a](https://a/)"),
        ("README.md", "[units](systemd/dux.target)", "[units](/usr/lib/systemd/system/dux.target)"),
        ("docs/devnet.md", "[README](../README.md#a) [here](#b)", "[README](README.md#a) [here](#b)"),
        ("docs/image.md", "([tests/os/inside.py](../tests/os/inside.py))", "(tests/os/inside.py)"),
        ("docs/decisions/storage.md", "[t](../taskd.md) [j](json-rpc.md)", "[t](../taskd.md) [j](json-rpc.md)"),
        ("docs/taskd.md", "[s](decisions/storage.md)", "[s](decisions/storage.md)"),
        ("README.md", "```\n[x](docs/flopd.md)\n```\n", "```\n[x](docs/flopd.md)\n```\n"),
    ],
)
def test_a_link_leads_to_the_same_thing_in_its_installed_place(page: str, text: str, becomes: str) -> None:
    assert installed_docs.relinked(text, page, INSTALLED) == becomes


def test_every_installed_page_that_is_named_anywhere_is_installed() -> None:
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "grep", "-Ih", installed_docs.FOLDER], cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    named = {posixpath.normpath(name) for name in NAMED.findall(done.stdout)}
    assert len(named) > 3
    assert named - set(INSTALLED.values()) == set()
