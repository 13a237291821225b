"""Finds floats where money is counted: an amount is an integer of koinu, and rounding it is a bug.

Seconds may be floats, when the name says that they are seconds or a moment.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TIME_NAME = re.compile(
    r"(?i)^_?(timeout|until|due|now|started|since|wait|delays?|pause|seconds|moment|deadline|time|clock)$"
    r"|(_s|_ms|_at|_until|_due|_seconds|_time|_started|_timeout)$"
)
TIME_CALLS = frozenset({"sleep", "timeout", "wait", "wait_for", "monotonic", "time", "uniform"})
PATH_WORDS = re.compile(r"(?i)(dir|path|folder|home|root|file|parent|__file__)")


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Tuple):
        return [name for item in node.elts for name in _names(item)]
    return []


def _is_time(node: ast.AST | None) -> bool:
    names = [] if node is None else _names(node)
    return bool(names) and all(TIME_NAME.search(name) for name in names)


class _Linter(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._time = 0
        """Depth inside something whose name says that it is about time."""

    def _within(self, about_time: bool, *nodes: ast.AST | None) -> None:
        self._time += about_time
        for node in nodes:
            if node is not None:
                self.visit(node)
        self._time -= about_time

    def visit_Assign(self, node: ast.Assign) -> None:
        self._within(all(map(_is_time, node.targets)), node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._within(_is_time(node.target), node.annotation, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Div):
            self.found.append((node.lineno, "true division"))
        self._within(_is_time(node.target), node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        plain = [*node.args.posonlyargs, *node.args.args]
        defaults: list[ast.expr | None] = [None] * (len(plain) - len(node.args.defaults))
        pairs = [
            *zip(plain, [*defaults, *node.args.defaults], strict=True),
            *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
        ]
        for argument, default in pairs:
            self._within(bool(TIME_NAME.search(argument.arg)), argument.annotation, default)
        self._within(bool(TIME_NAME.search(node.name)), node.returns)
        for item in [*node.decorator_list, *node.body]:
            self.visit(item)

    def visit_Call(self, node: ast.Call) -> None:
        name = next(iter(_names(node.func)), "")
        if name == "float" and not self._time:
            self.found.append((node.lineno, "float()"))
        self._within(False, node.func)
        self._within(name in TIME_CALLS, *node.args)
        for keyword in node.keywords:
            about_time = keyword.arg is not None and bool(TIME_NAME.search(keyword.arg))
            self._within(about_time or name in TIME_CALLS, keyword.value)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            named = isinstance(key, ast.Constant) and isinstance(key.value, str) and TIME_NAME.search(key.value)
            self._within(bool(named), value)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._within(_is_time(node.body) or _is_time(node.orelse), node.body, node.orelse)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        self._within(any(map(_is_time, sides)), *sides)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Div) and not self._time and not _is_path(node):
            self.found.append((node.lineno, "true division"))
        self._within(_is_time(node.left) or _is_time(node.right), node.left, node.right)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, float) and not self._time:
            self.found.append((node.lineno, f"the float {node.value}"))

    def visit_Name(self, node: ast.Name) -> None:
        if node.id == "float" and isinstance(node.ctx, ast.Load) and not self._time:
            self.found.append((node.lineno, "the type float"))


def _is_path(node: ast.BinOp) -> bool:
    text = ast.unparse(node.left)
    return bool(PATH_WORDS.search(text)) or isinstance(node.right, ast.JoinedStr) or (
        isinstance(node.right, ast.Constant) and isinstance(node.right.value, str)
    )  # fmt: skip


def lint(source: str) -> list[tuple[int, str]]:
    """Line and fault of each float in `source` that is not plainly about time."""
    linter = _Linter()
    linter.visit(ast.parse(source))
    return sorted(set(linter.found))


def lint_files(paths: list[Path]) -> Iterator[tuple[Path, int, str, str]]:
    """Path, line number, fault and the line's text."""
    for path in paths:
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for number, fault in lint(source):
            yield path, number, fault, lines[number - 1].strip()
