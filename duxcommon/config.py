"""Configuration files: strict YAML, one pydantic model a daemon, drop-ins beside it.

`X.yaml` is read first, then `X.d/*.yaml` in the order of their names; later files replace keys of earlier ones,
section by section. Unknown and duplicate keys are refused with file and line.
"""

import difflib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .errors import ConfigError

MAX_CONFIG_BYTES = 1_000_000
LIKELY = 3
"""Most keys that are offered for one that is unknown."""

Directory = Annotated[Path, BeforeValidator(lambda value: Path(value) if isinstance(value, str) else value)]
"""A path, written as text."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


AbsolutePath = Annotated[Directory, AfterValidator(_absolute)]


RENAMED_GROUPS = {"duxnet-spend": "dux-spend", "duxnet-admin": "dux-admin", "duxnet-blobs": "dux-blobs"}
"""Names of groups before 0.1 was published."""


def _present_group(name: str) -> str:
    if name in RENAMED_GROUPS:
        raise ValueError(f"group {name!r} was renamed to {RENAMED_GROUPS[name]!r} in 0.1; write that instead")
    return name


Group = Annotated[str, AfterValidator(_present_group)]


class Access(BaseModel):
    """Which groups may call methods of each class; root and the daemon's own user always may."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    read: list[Group] = ["duxnet"]
    """Groups that may look at everything."""
    spend: list[Group] = ["dux-spend"]
    """Groups that may look, and act with the node's money."""
    admin: list[Group] = ["dux-admin"]
    """Groups that may do all that, and change how the node works."""
    daemons: list[str] = ["dux-flopd", "dux-escrowd", "dux-taskd", "dux-registryd", "dux-airdropd"]
    """Users that the other daemons run as; the sandbox worker, which runs strangers' programs, calls none."""
    gateway: list[str] = ["dux-registryd"]
    """Users that may speak for a remote node."""


class Settings(BaseModel):
    """What every daemon's configuration has."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Key that an older version had → what became of it, such as "was renamed to `poll_s` in 0.2"; any section may have
    such a table."""

    run_dir: AbsolutePath = Path("/run/duxnet")
    """Where the sockets are."""
    state_dir: AbsolutePath
    """Databases and keys of this daemon alone."""
    log_dir: AbsolutePath | None = Path("/var/log/duxnet")
    """Where X.log is kept (10 MB, five old ones); null logs to standard error alone."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged: debug, info, warning or error."""
    network: AbsolutePath = Path("/etc/duxnet/network.yaml")
    """The network definition."""
    access: Access = Access()
    """Who may call. Sockets in `run_dir` belong to the group duxnet: everyone named here must be in it as well."""
    calls_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """Of one local user, over all methods."""
    drain_s: Annotated[int, Field(ge=0, le=300)] = 10
    """How long a stop waits for calls in flight, in seconds."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's surprises: `010` is not 8, `1:30` is not 90, `yes` is text, keys are unique."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Aliases of aliases let a small file fill the memory.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", "tf"),
    ("tag:yaml.org,2002:int", r"^-?(?:0|[1-9][0-9]*)$", "-0123456789"),
    ("tag:yaml.org,2002:float", r"^-?(?:0|[1-9][0-9]*)\.[0-9]+$", "-0123456789"),
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", ["n", "~", ""]),
):
    _StrictLoader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def _no_duplicates(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice (first in line {seen[key]})", key_node.start_mark
            )
        seen[key] = line
    return dict(loader.construct_pairs(node, deep=True))


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _no_duplicates)

M = TypeVar("M", bound=BaseModel)


def load_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The mapping in `path` and the line of each key path. Raises ConfigError naming file and line."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            # Reading a pipe would wait for ever.
            raise ConfigError(
                f"can't read {path}: it is no file", hint="Remove it, or put a file with settings in its place."
            )
        if found.st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"can't read {path}: byte {error.start} is no text in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", hint=_readable(path)) from error
    return parse_yaml(text, str(path))


def _readable(path: Path) -> str:
    return f"It must be there and readable by the daemon's user: look at `ls -l {path}` and `namei -l {path}`."


def parse_yaml(text: str, origin: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Like load_yaml, of text; `origin` names it in errors."""
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        value = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{origin}, line {line}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{origin}: {error}") from error
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise ConfigError(f"{origin}, line 1: expected keys and values")
    return value, _lines(node)


def _lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    lines: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            lines[path] = key.start_mark.line + 1
            lines.update(_lines(value, path))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            path = (*prefix, str(index))
            lines[path] = value.start_mark.line + 1
            lines.update(_lines(value, path))
    return lines


def validate(model: type[M], value: dict[str, Any], where: dict[tuple[str, ...], str], origin: str) -> M:
    """`value` as a `model`; `where` maps key paths to "file, line n". Raises ConfigError for the first fault."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = tuple(str(part) for part in first["loc"])
        place = origin
        for length in range(len(path), 0, -1):
            if path[:length] in where:
                place = where[path[:length]]
                break
        key = ".".join(path)
        if (said := _renamed(model, path)) is not None:
            message = f"{place}: {key!r} {said}"
        elif first["type"] == "extra_forbidden":
            message = f"{place}: unknown key {key!r}{_meant(model, path)}"
        else:
            message = f"{place}: {key}: {first['msg']}" if key else f"{place}: {first['msg']}"
        raise ConfigError(message) from error


def _section(model: type[BaseModel], path: tuple[str, ...]) -> Any:
    """The model of the section that a key stands in; None where that can't be told."""
    section: Any = model
    for part in path[:-1]:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        section = next((one for one in _models(field.annotation)), None) if field is not None else None
    return section


def _renamed(model: type[BaseModel], path: tuple[str, ...]) -> str | None:
    """What became of an old key, by the table of the section that it stands in."""
    table: Mapping[str, str] = getattr(_section(model, path), "renamed", {})
    return table.get(path[-1]) if path else None


def _meant(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """The keys of the same section that look like it: all of them would hide what is said after."""
    known = list(getattr(_section(model, path), "model_fields", {}))
    near = difflib.get_close_matches(path[-1], known, LIKELY)
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections among the types that a setting may have."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def drop_ins(folder: Path) -> list[Path]:
    """The settings in a drop-in folder, by name. Raises ConfigError for one that can't be looked into."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        # Left out in silence, the daemon would run with other settings than its owner believes.
        raise ConfigError(f"can't read the folder {folder}: {error.strerror}", hint=_readable(folder)) from error
    return [folder / name for name in sorted(names) if name.endswith(".yaml") and not name.startswith(".")]


def load(model: type[M], path: Path) -> M:
    """The settings in `path` and its drop-in folder (`X.d/*.yaml`), checked. Raises ConfigError."""
    value: dict[str, Any] = {}
    where: dict[tuple[str, ...], str] = {}
    for part in [path, *drop_ins(path.with_suffix(".d"))]:
        content, lines = load_yaml(part)
        value = _merge(value, content)
        where.update({key: f"{part}, line {line}" for key, line in lines.items()})
    return validate(model, value, where, str(path))
