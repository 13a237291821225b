"""Configuration files: what is meant is what is taken, and every fault names its file and line."""

from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from duxcommon.config import AbsolutePath, Settings, load
from duxcommon.errors import ConfigError


class Inner(BaseModel):
    """A section."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str = "http://localhost/"
    timeout_s: Annotated[int, Field(ge=1)] = 30


class Example(BaseModel):
    """A configuration as daemons have them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    port: int = 1
    word: str = ""
    ratio: float = 0.5
    on: bool = False
    nothing: str | None = "something"
    names: list[str] = []
    home: AbsolutePath = Path("/")
    inner: Inner = Inner()


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Example, path)
    assert caught.value.code == 1008
    assert caught.value.hint
    return caught.value.message


def test_an_unknown_key_is_refused_with_file_and_line_and_what_was_probably_meant(tmp_path: Path) -> None:
    path = write(tmp_path, "port: 5\n\nprot: 6\n")
    assert refused(path) == f"{path}, line 3: unknown key 'prot'; did you mean 'port'?"
    path = write(tmp_path, "port: 5\nsomething_else: 6\n")
    assert refused(path) == f"{path}, line 2: unknown key 'something_else'"


def test_an_unknown_key_in_a_section_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "inner:\n  url: http://x/\n  timeout: 5\n")
    assert refused(path) == f"{path}, line 3: unknown key 'inner.timeout'; did you mean 'timeout_s'?"


def test_a_duplicate_key_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "port: 5\nword: x\nport: 6\n")
    assert refused(path) == f"{path}, line 3: key 'port' stands twice (first in line 1)"
    path = write(tmp_path, "inner:\n  url: a\n  url: b\n")
    assert refused(path) == f"{path}, line 3: key 'url' stands twice (first in line 2)"
    # The same key written in two ways is the same key.
    path = write(tmp_path, 'port: 5\n"port": 6\n')
    assert "line 2: key 'port' stands twice" in refused(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("word: 5\n", "line 1: word: Input should be a valid string"),
        ("word: x\nport: 010\n", "line 2: port: Input should be a valid integer"),
        ("port: 1:30\n", "line 1: port: Input should be a valid integer"),
        ("port: 1_000\n", "line 1: port: Input should be a valid integer"),
        ("port: 0x10\n", "line 1: port: Input should be a valid integer"),
        ("port: 5.0\n", "line 1: port: Input should be a valid integer"),
        ("port: '5'\n", "line 1: port: Input should be a valid integer"),
        ("port: true\n", "line 1: port: Input should be a valid integer"),
        ("on: yes\n", "line 1: on: Input should be a valid boolean"),
        ("on: Off\n", "line 1: on: Input should be a valid boolean"),
        ("on: 1\n", "line 1: on: Input should be a valid boolean"),
        ("ratio: .inf\n", "line 1: ratio: Input should be a valid number"),
        ("ratio: .nan\n", "line 1: ratio: Input should be a valid number"),
        ("ratio: 1e3\n", "line 1: ratio: Input should be a valid number"),
        ("word:\n", "line 1: word: Input should be a valid string"),
        ("names: one\n", "line 1: names: Input should be a valid list"),
        ("names:\n  - one\n  - 2\n", "line 3: names.1: Input should be a valid string"),
        ("home: etc/duxnet\n", "line 1: home: Value error, must be an absolute path"),
        ("inner: 5\n", "line 1: inner: Input should be"),
        ("inner:\n  timeout_s: 0\n", "line 2: inner.timeout_s: Input should be greater than or equal to 1"),
    ],
)
def test_yamls_surprises_and_wrong_types_are_refused_with_the_line(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, text)
    assert f"{path}, {line}" in refused(path)


def test_what_looks_like_a_number_or_a_boolean_of_old_yaml_is_text(tmp_path: Path) -> None:
    values = ["yes", "no", "on", "off", "010", "1:30", "0o17", "1e3", "2001-01-01", "=", "<<", "Null", "TRUE"]
    path = write(tmp_path, "names:\n" + "".join(f"  - {value}\n" for value in values))
    assert load(Example, path).names == values


def test_good_values_are_taken_as_they_are_written(tmp_path: Path) -> None:
    text = "port: -5\nratio: 0.25\non: true\nnothing: null\nhome: /srv\ninner: {url: 'http://x/'}\nnames: [a, 'b']\n"
    assert load(Example, write(tmp_path, text)) == Example(
        port=-5, ratio=0.25, on=True, nothing=None, home=Path("/srv"), inner=Inner(url="http://x/"), names=["a", "b"]
    )
    assert load(Example, write(tmp_path, "ratio: 2\nnothing: ~\n")) == Example(ratio=2.0, nothing=None)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}\n"])
def test_an_empty_file_leaves_every_default(tmp_path: Path, text: str) -> None:
    assert load(Example, write(tmp_path, text)) == Example()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\nport: *x\n", "line 2: aliases (*name) are not allowed"),
        ("a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n", "line 2: aliases (*name) are not allowed"),
        ("inner: &i\n  url: x\n<<: *i\n", "line 3: aliases (*name) are not allowed"),
        ("word: !!python/object/apply:os.system ['true']\n", "line 1: could not determine a constructor"),
        ("word: !include /etc/passwd\n", "line 1: could not determine a constructor"),
        ("port: 5\n---\nport: 6\n", "line 2"),
        ("- port\n", "line 1: expected keys and values"),
        ("port\n", "line 1: expected keys and values"),
        ("? [a, b]\n: 5\n", "line 1"),
        ("5: x\n", "line 1: key 5 is not text"),
        ("port: [1\nword: x\n", "line 2"),
        ("port: 5\n\tword: x\n", "line 2"),
        ("word: \x00\n", "special characters are not allowed"),
        ("word: \x1b[31m\n", "special characters are not allowed"),
        ("port: " + "9" * 5000 + "\n", "4300 digits"),
        ("inner: " + "[" * 5000 + "\n", "x.yaml"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(tmp_path: Path, text: str, words: str) -> None:
    message = refused(write(tmp_path, text))
    assert words in message
    assert "x.yaml" in message


def test_a_file_that_is_missing_or_no_text_or_huge_is_refused(tmp_path: Path) -> None:
    assert "can't read" in refused(tmp_path / "nothing.yaml")
    assert "can't read" in refused(tmp_path)
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"word: \xff\xfe\n")
    assert f"can't read {path}" in refused(path)
    assert "larger than" in refused(write(tmp_path, "#" * 1_000_001))


def test_drop_ins_replace_keys_in_the_order_of_their_names_section_by_section(tmp_path: Path) -> None:
    path = write(tmp_path, "port: 1\nword: base\ninner:\n  url: base\n  timeout_s: 5\nnames: [a, b]\n")
    write(tmp_path / "x.d", "port: 20\nword: twenty\nnames: [c]\n", "20-later.yaml")
    write(tmp_path / "x.d", "port: 10\ninner:\n  url: ten\n", "10-first.yaml")
    write(tmp_path / "x.d", "port: 99\n", "30-not-yaml.txt")
    assert load(Example, path) == Example(port=20, word="twenty", inner=Inner(url="ten", timeout_s=5), names=["c"])


def test_a_fault_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    path = write(tmp_path, "port: 1\n")
    drop_in = write(tmp_path / "x.d", "# why\nport: five\n", "10-port.yaml")
    assert f"{drop_in}, line 2: port:" in refused(path)
    drop_in.write_text("prot: 5\n")
    assert f"{drop_in}, line 1: unknown key 'prot'" in refused(path)
    drop_in.write_text("port: 5\nport: 6\n")
    assert f"{drop_in}, line 2: key 'port' stands twice" in refused(path)


def test_a_key_that_is_missing_is_named_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "log_level: info\n")
    with pytest.raises(ConfigError) as caught:
        load(Settings, path)
    assert caught.value.message == f"{path}: state_dir: Field required"


def test_settings_can_not_be_changed_after_loading(tmp_path: Path) -> None:
    settings = load(Example, write(tmp_path, "port: 5\n"))
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 6  # type: ignore[misc]


class Section(BaseModel):
    """A section that was changed since an older version."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    renamed: ClassVar[dict[str, str]] = {"wait": "was renamed to `timeout_s` in 0.2, and is in seconds now"}

    timeout_s: int = 3


class Newer(Settings):
    """What a later version could look like."""

    renamed = {"speed": "was renamed to `calls_per_second` in 0.2", "colour": "was removed in 0.2: delete the line"}

    section: Section | None = None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speed: 5\n", "line 2: 'speed' was renamed to `calls_per_second` in 0.2"),
        ("log_level: info\ncolour: red\n", "line 3: 'colour' was removed in 0.2: delete the line"),
        ("section:\n  wait: 5\n", "line 3: 'section.wait' was renamed to `timeout_s` in 0.2"),
        ("access:\n  spend: [duxnet-spend]\n", "group 'duxnet-spend' was renamed to 'dux-spend' in 0.1; write that"),
        (
            "access:\n  admin:\n  - root\n  - duxnet-admin\n",
            "line 5: access.admin.1: Value error, group 'duxnet-admin'",
        ),
    ],
)
def test_a_setting_of_an_older_version_is_told_what_became_of_it(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, f"state_dir: /x\n{text}")
    with pytest.raises(ConfigError) as caught:
        load(Newer, path)
    assert words in caught.value.message
    assert str(path) in caught.value.message


def test_names_of_old_settings_are_no_settings_themselves() -> None:
    for model in (Settings, Newer):
        assert "renamed" not in model.model_fields
        assert not set(model.renamed) & set(model.model_fields)
