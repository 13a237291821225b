"""How tests read what the documents tell people to type."""

import pytest

from tests.os import readme

PAGE = """\
# Title

    not this

## One section

Words, with `code` in them:

    first --line           # a remark
    second 'a  b' # stays

```ini
[Unit]
# Looks like a heading, and is none.
    nor this
```

### Below it

    third

## Another section

    not this
"""


def test_a_section_ends_at_the_next_heading_of_its_rank_and_not_at_a_remark() -> None:
    assert readme.lines(readme.section(PAGE, "One section")) == ["first --line", "second 'a  b' # stays", "third"]
    assert readme.lines(readme.section(PAGE, "Below it")) == ["third"]
    assert readme.lines(readme.section(PAGE, "Another section")) == ["not this"]


@pytest.mark.parametrize("text", [PAGE, PAGE * 2], ids=["absent", "twice"])
def test_a_section_that_is_not_there_once_is_no_section(text: str) -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        readme.section(text, "No such section" if text == PAGE else "One section")


def test_a_fenced_block_is_found_by_its_language() -> None:
    assert readme.block(PAGE, "ini").startswith("[Unit]\n# Looks")


def test_only_what_is_listed_is_typed_differently() -> None:
    assert readme.substituted("run flopcoind now", {"flopcoind": "litecoind"}) == "run litecoind now"
    assert readme.substituted("run it now", {"flopcoind": "litecoind"}) == "run it now"


def test_readme_has_its_three_short_sections() -> None:
    page = readme.page("README.md")
    for title in ("Install it on a Debian machine", "Start it from a stick", "Connect a real Flopcoin Core"):
        assert 2 <= len(readme.lines(readme.section(page, title))) <= 6, title
