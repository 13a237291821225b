"""What every error, every method and every key of a configuration must have."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from dux_ctl import catalogue
from dux_ctl.helptexts import OWN
from dux_ctl.main import build_parser
from duxcommon.api.common import Model
from duxcommon.config import Access
from duxcommon.daemon import CommonMethods
from duxcommon.errors import BY_CODE, BY_NAME, DuxError
from duxcommon.rpc.declare import MethodSpec, specs_of
from tests.support.schema import SchemaChecker

ROOT = Path(__file__).resolve().parent.parent.parent

SECTIONS = {
    "common": [range(-32_800, -32_000), range(1000, 2000)],
    "flopd": [range(2000, 3000)],
    "escrowd": [range(3000, 4000)],
    "taskd": [range(4000, 4500)],
    "sandbox": [range(4500, 5000)],
    "registryd": [range(5000, 5500)],
    "store": [range(5500, 6000)],
    "airdropd": [range(6000, 7000)],
    "devnet": [range(7000, 8000)],
    "setup": [range(8000, 9000)],
}


@cache
def generate() -> ModuleType:
    """build_script/generate.py, which knows where every daemon declares its methods."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "build_script" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def declared() -> dict[str, list[MethodSpec]]:
    """Daemon → its methods, with those that all daemons have under "common"."""
    found: dict[str, list[MethodSpec]] = dict(generate().declared())
    found["common"] = specs_of(CommonMethods)
    return found


def all_methods() -> list[tuple[str, MethodSpec]]:
    return [(daemon, spec) for daemon, specs in declared().items() for spec in specs]


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", BY_NAME.values(), ids=BY_NAME)
def test_an_error_has_a_code_of_its_section_a_name_and_a_hint(error: type[DuxError]) -> None:
    assert any(error.code in codes for codes in SECTIONS[error.component]), (error.code, error.component)
    assert BY_CODE[error.code] is error
    assert re.fullmatch(r"[A-Z][A-Za-z]+", error.__name__)
    hint = error.hint_default
    assert len(hint) > 10
    assert hint[0].isupper() or hint[0] in "`0123456789"
    assert hint.endswith((".", ")")), hint
    rpc = error("what happened").to_rpc()
    assert rpc["data"]["hint"] == hint
    assert isinstance(rpc["data"]["retry"], bool)


def test_two_errors_can_not_share_a_name_or_a_code() -> None:
    with pytest.raises(TypeError, match="is taken"):
        type("NotFound", (DuxError,), {"code": 9_999})
    with pytest.raises(TypeError, match="is taken"):
        type("SomethingElse", (DuxError,), {"code": 1005})


def test_every_error_is_raised_somewhere() -> None:
    sources = "\n".join(
        path.read_text() for path in ROOT.glob("dux*/**/*.py") if path.parent != ROOT / "duxcommon" / "errors"
    )
    words = set(re.findall(r"\w+", sources))
    assert sorted(name for name in BY_NAME if name not in words) == []


# --- methods --------------------------------------------------------------------------------------------------------


def test_no_two_daemons_declare_the_same_method() -> None:
    names = [spec.name for _, spec in all_methods()]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize(("daemon", "spec"), all_methods(), ids=lambda item: getattr(item, "name", None))
def test_a_method_has_help_an_example_that_is_valid_and_known_errors(daemon: str, spec: MethodSpec) -> None:
    assert re.match(r"[A-Z`].*[.]$", spec.summary), spec.summary
    assert len(spec.summary) <= 120
    spec.parse(spec.example)
    assert issubclass(spec.reply, BaseModel)
    assert len(set(spec.errors)) == len(spec.errors)
    for error in spec.errors:
        assert error is DuxError or BY_NAME.get(error.__name__) is error
    # Only the worker's own daemon waits for a whole execution.
    assert 0 < spec.timeout_s <= (200_000 if spec.access == "daemon" else 600)
    if spec.reply_record is not None:
        assert spec.reply_record in spec.reply.model_fields


@pytest.mark.parametrize(("daemon", "spec"), all_methods(), ids=lambda item: getattr(item, "name", None))
def test_a_method_that_spends_takes_an_idempotency_key(daemon: str, spec: MethodSpec) -> None:
    if spec.access == "spend":
        assert "key" in spec.params.model_fields or not _acts(spec), f"{spec.name} may be sent twice"


def test_daemons_pay_for_tasks_and_can_not_empty_the_wallet() -> None:
    """What strangers reach, and what runs their programs, must not have the wallet when it is taken over."""
    for_daemons = {spec.name for _, spec in all_methods() if spec.daemons}
    assert for_daemons == {"payment.hold", "payment.release", "payment.refund"}
    assert "dux-sandbox" not in Access().daemons


def _acts(spec: MethodSpec) -> bool:
    """Methods that look, stop or forget are as good twice as once; a second address to be paid at costs nothing, and
    a bond can't be taken back twice.
    """
    harmless = {"cancel", "abort", "withdraw", "read", "write", "status", "logs", "scan", "receive", "unbond"}
    return spec.name.split(".")[1] not in harmless


@pytest.mark.parametrize("daemon", [name for name in declared() if name != "common"])
def test_the_schemas_of_a_daemon_are_valid_and_its_examples_fit_them(daemon: str) -> None:
    document: dict[str, Any] = generate().documents()[daemon]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    checker = SchemaChecker(document)
    for spec in declared()[daemon]:
        checker.check_params(spec.name, spec.example)


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """A model and those within it."""
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for part in _types(field.annotation):
                models(part, seen)
    return seen


def _types(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _types(part)]


def test_every_model_on_the_wire_is_strict_frozen_and_refuses_unknown_members() -> None:
    seen: set[type[BaseModel]] = set()
    for _, spec in all_methods():
        models(spec.params, seen)
        models(spec.reply, seen)
    loose = [
        model.__name__
        for model in seen
        if model.__name__ != "Discovery"  # the document that describes all others
        and not (issubclass(model, Model) or model.model_config.get("strict"))
    ]
    assert loose == []
    for model in seen:
        if model.__name__ != "Discovery":
            assert model.model_config.get("extra") == "forbid", model.__name__
            assert model.model_config.get("frozen"), model.__name__


def test_amounts_of_money_are_koinu_in_every_schema() -> None:
    words = re.compile(r"(^|_)(amount|price|gross|tax|fee|deposit|balance|confirmed|pending|threshold)$")
    for daemon, document in generate().documents().items():
        for name, schema in document["components"]["schemas"].items():
            for field, part in schema.get("properties", {}).items():
                kinds = {part.get("type"), *(option.get("type") for option in part.get("anyOf", []))}
                if words.search(field) and "number" in kinds:
                    raise AssertionError(f"{daemon}: {name}.{field} is a number that may have a fraction")


# --- configuration --------------------------------------------------------------------------------------------------


def keys(path: Path) -> list[str]:
    """The fields of the pydantic models in a settings module."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return [
        item.target.id
        for node in classes
        if any(ast.unparse(base) in ("BaseModel", "Settings") for base in node.bases)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]


def test_every_key_of_every_configuration_is_read_somewhere() -> None:
    unread = []
    for path in [*sorted(ROOT.glob("dux*/**/settings.py")), ROOT / "duxcommon" / "config.py"]:
        sources = "\n".join(
            other.read_text() for other in [*path.parent.rglob("*.py"), *(ROOT / "duxcommon").rglob("*.py")]
        )
        unread += [
            f"{path.relative_to(ROOT)}: {key}"
            for key in keys(path)
            if not re.search(rf"(\.{key}\b|\"{key}\")", sources)
        ]
    assert unread == []


# --- the man page -----------------------------------------------------------------------------------------------------


def printed_commands() -> list[str]:
    page = (ROOT / "docs" / "dux-ctl.1").read_text().replace("\\-", "-")
    return re.findall(r"^\.B dux-ctl ([a-z-]+(?: [a-z-]+)?)", page, re.MULTILINE)


def test_every_command_of_the_man_page_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser(None)
    for command in printed_commands():
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([*command.split(), "--help"])
        assert ended.value.code == 0, command
    capsys.readouterr()


def test_every_namespace_and_what_takes_several_calls_is_in_the_man_page() -> None:
    printed = printed_commands()
    assert {command.split()[0] for command in printed} >= {*catalogue.namespaces(), *OWN}
    for command in ("airdrop eligible", "airdrop verify", "param verify", "proposal create", "app test"):
        assert command in printed
