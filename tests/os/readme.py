"""What README.md and docs/ tell people to type, so that tests type exactly that."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_CODE = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next of its rank or a higher one; it has to be there once."""
    # A remark in a fenced block is no heading.
    plain = _FENCE.sub(lambda found: re.sub(r"^#", "-", found[0], flags=re.MULTILINE), text)
    (head,) = re.finditer(rf"^(#+) {re.escape(title)}\n", plain, re.MULTILINE)
    following = re.compile(rf"^#{{1,{len(head[1])}}} ", re.MULTILINE).search(plain, head.end())
    return text[head.end() : following.start() if following else None]


def lines(text: str) -> list[str]:
    """The indented lines of code, in order, without the remarks that `#` begins after two spaces."""
    return [re.sub(r" {2,}#.*", "", line).rstrip() for line in _CODE.findall(_FENCE.sub("", text))]


def block(text: str, language: str) -> str:
    """The one fenced block in a language."""
    (found,) = [content for name, content in _FENCE.findall(text) if name == language]
    return found


def page(name: str) -> str:
    """A document of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def substituted(line: str, substitutions: dict[str, str]) -> str:
    """A line with everything replaced that a test can't do as it is written."""
    for written, typed in substitutions.items():
        line = line.replace(written, typed)
    return line
