"""Makes the links of the installed pages right: `installed_docs.py FOLDER`, run by debian/rules after dh_installdocs.

In the repository the pages of docs/ lie apart and lead to sources as well. Installed, they lie side by side, and the
sources are elsewhere or not there at all.
"""

import posixpath
import re
import sys
from collections.abc import Mapping
from pathlib import Path

LIST = "debian/dux-common.docs"
FOLDER = "/usr/share/doc/dux-common"
ELSEWHERE = {
    "LICENSE": f"{FOLDER}/copyright",
    "apps": "/usr/share/duxnet/apps",
    "etc-duxnet": "/etc/duxnet",
    "systemd": "/usr/lib/systemd/system",
}
"""What the packages install in another place."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
SCHEME = re.compile(r"[a-z]+:")


def pages(top: Path) -> dict[str, str]:
    """What dh_installdocs installs: path in the repository → path in the folder of the installed pages."""
    found = {}
    for pattern in (top / LIST).read_text(encoding="utf-8").split():
        for path in sorted(top.glob(pattern)):
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            found.update({str(one.relative_to(top)): str(one.relative_to(path.parent)) for one in files})
    return found


def relinked(text: str, page: str, installed: Mapping[str, str]) -> str:
    """The text of `page` with links that lead to what is installed; a link to what is not becomes its words."""

    def change(found: re.Match[str]) -> str:
        words, target = found[1].removeprefix("docs/"), found[2]
        path, _, anchor = target.partition("#")
        if SCHEME.match(target) or not path:
            return found[0]
        there = _place(posixpath.normpath(posixpath.join(posixpath.dirname(page), path)), page, installed)
        if there is None:
            return words
        return f"[{words}]({there}{'#' if anchor else ''}{anchor})"

    parts = FENCE.split(text)
    # Every second part is a block of code.
    return "".join(part if number % 2 else LINK.sub(change, part) for number, part in enumerate(parts))


def _place(source: str, page: str, installed: Mapping[str, str]) -> str | None:
    """Where a file of the repository is once it is installed, as seen from a page; None when it is nowhere."""
    if source in installed:
        return posixpath.relpath(installed[source], posixpath.dirname(installed[page]) or ".")
    first, _, rest = source.partition("/")
    return posixpath.join(ELSEWHERE[first], rest).rstrip("/") if first in ELSEWHERE else None


def main() -> int:
    """Change the pages in the folder; the exit status."""
    top, folder = Path(__file__).resolve().parent.parent, Path(sys.argv[1])
    installed = pages(top)
    for source, name in installed.items():
        if name.endswith(".md"):
            path = folder / name
            path.write_text(relinked(path.read_text(encoding="utf-8"), source, installed), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
