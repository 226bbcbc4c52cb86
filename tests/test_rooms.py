"""The floor plan: which room may import which, and that no import runs in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ["spaces", "evaluators", "search", "reports", "cli"]
HEAVY = {"torch", "transformers", "peft", "ray", "onnx", "onnxruntime", "sklearn", "datasets"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = [ROOT / "errors.py", ROOT / "cli.py", ROOT / "__init__.py", ROOT / "__main__.py"]
    for room in (*ROOMS[:-1], "benchmarks"):
        files += sorted((ROOT / room).rglob("*.py"))
    named = {}
    for path in files:
        parts = ["paretune", *path.relative_to(ROOT).with_suffix("").parts]
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def _package(name: str, path: Path) -> list[str]:
    parts = name.split(".")
    return parts if path.name == "__init__.py" else parts[:-1]


def imports(name: str, path: Path, *, lazy: bool) -> set[str]:
    """Modules of the package that a module imports; `lazy`: inside functions too."""
    tree = ast.parse(path.read_text())
    known = modules()
    found: set[str] = set()
    for node in ast.walk(tree) if lazy else _at_import(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = _package(name, path)
            base = base[: len(base) - node.level + 1]
            target = ".".join([*base, node.module] if node.module else base)
            inner = {f"{target}.{alias.name}" for alias in node.names}
            found |= {full for full in inner if full in known} or {target}
    return found - {name}


def _at_import(tree: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        found += [child, *_at_import(child)]
    return found


def _room(name: str) -> str | None:
    part = name.split(".")[1] if "." in name else None
    return part if part in ROOMS else None


def test_imports_run_one_way():
    wrong = []
    for name, path in modules().items():
        here = _room(name)
        for target in imports(name, path, lazy=True):
            there = _room(target)
            if here and there and ROOMS.index(there) > ROOMS.index(here):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_import_runs_in_a_circle():
    graph = {n: imports(n, p, lazy=False) for n, p in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_package_imports_itself_relatively():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(a.name.split(".")[0] == "paretune" for a in node.names), name
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] != "paretune", name


def test_tables_metrics_and_the_command_line_load_without_heavy_libraries():
    code = (
        "import sys, paretune.cli, paretune.search.study\n"
        "from paretune.spaces.slots import slots; slots()\n"
        "from paretune.evaluators.catalogue import metrics; metrics()\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_no_file_is_longer_than_600_lines():
    long = [name for name, path in modules().items() if path.read_text().count("\n") > 600]
    assert not long


def test_no_function_is_longer_than_60_lines():
    long = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and (body[-1].end_lineno or 0) - body[0].lineno >= 60:
                    long.append(f"{name}.{node.name}")
    assert not long
