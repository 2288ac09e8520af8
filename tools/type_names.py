"""Counts type names that are defined in two or more modules of the source.

    .venv/services/bin/python -m tools.type_names            # lists them, fails above LIMIT (make lint)

A type name is a CapWords name (PEP 8) at the top level of a module: a class, or an assigned name (an alias such as
``Vector = NDArray[np.float32]``, a NewType, a TypeVar). Names in capitals only are constants. Importing a name does not
define it again. The client's own copies of the server's answer types count too: it is installed alone.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("nearline", "nearline_client", "services", "flink_jobs", "training", "local", "benchmarks", "tools")
# The current number: lower it when a name goes, never raise it.
LIMIT = 19


def type_names(source: str) -> set[str]:
    """The type names that *source*, a module's text, defines."""
    return set(_defined(ast.parse(source).body))


def repeated(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Each type name that two or more of *sources* (texts by module) define, with the modules."""
    modules: dict[str, list[str]] = {}
    for module in sorted(sources):
        for name in type_names(sources[module]):
            modules.setdefault(name, []).append(module)
    return {name: modules[name] for name in sorted(modules) if len(modules[name]) > 1}


def report(found: Mapping[str, Iterable[str]], limit: int) -> str:
    """The list, one name per line, and what to do about it."""
    lines = [f"{name}: {', '.join(modules)}" for name, modules in found.items()]
    return "\n".join([*lines, f"{len(lines)} type names are defined in several modules; {_advice(len(lines), limit)}"])


def _defined(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name) and _is_cap_words(target.id))
        elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
            yield from _defined(ast.iter_child_nodes(node))


def _is_cap_words(name: str) -> bool:
    bare = name.lstrip("_")
    return bare[:1].isupper() and not bare.isupper()


def _advice(count: int, limit: int) -> str:
    if count > limit:
        return f"at most {limit} may be: give the new thing a name of its own, or import the one that exists."
    if count < limit:
        return f"lower LIMIT from {limit} to {count} in tools/type_names.py."
    return f"the limit is {limit}."


def _sources() -> dict[str, str]:
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text() for path in paths}


if __name__ == "__main__":
    repeats = repeated(_sources())
    print(report(repeats, LIMIT))
    sys.exit(len(repeats) > LIMIT)
