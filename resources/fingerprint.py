"""Fingerprints: short hashes of all that decides a row or a stage.

Belongs here: hashing of values, files and code. Does not: deciding what a fingerprint covers (each stage does).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

DIGEST_BYTES = 16
_READ_BYTES = 1 << 20
_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)


def fingerprint(*parts: Any) -> str:
    """Hash of any JSON-like values (dictionaries in any key order; paths and tuples as text and lists)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, read in blocks."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def rows_version(rows: Iterable[tuple[str, str]]) -> str:
    """Data version of a per-sample table: a hash of its sorted (sample_id, fingerprint) pairs."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for sample_id, row in sorted(rows):
        digest.update(f"{sample_id}\0{row}\n".encode())
    return digest.hexdigest()


def folder_version(folder: Path) -> str:
    """Hash of a folder's files, by name and content; folders within it do not count."""
    return fingerprint([(path.name, file_digest(path)) for path in sorted(folder.iterdir()) if path.is_file()])


def code_version(*modules: str) -> str:
    """Hash of modules' code by dotted name, without importing them; comments, docstrings and layout do not count.

    Raises ModuleNotFoundError for a name that has no Python source.
    """
    return fingerprint([_module_code(name) for name in sorted(modules)])


def definition_version(definition: type | Any) -> str:
    """Hash of a function's or class's code and of all that it uses from its own module.

    So an edit to one experiment's operator, or to a helper that only it uses, changes that experiment alone. A
    definition inside another has the version of its whole module.
    """
    module = inspect.getmodule(definition)
    if module is None:
        raise TypeError(f"{definition!r} has no module to read its code from")
    tree = ast.parse(inspect.getsource(module))
    definitions = _module_definitions(tree)
    if definition.__name__ not in definitions:
        return fingerprint(_dump(tree))
    wanted, found = [definition.__name__], set[str]()
    while wanted:
        name = wanted.pop()
        if name in definitions and name not in found:
            found.add(name)
            wanted.extend(_names_used(definitions[name]))
    return fingerprint(sorted((name, _dump(definitions[name])) for name in found))


@cache
def _module_code(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ModuleNotFoundError(f"no source for module {name!r}")
    return _dump(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))


def _module_definitions(tree: ast.Module) -> dict[str, ast.AST]:
    definitions: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            definitions.update(dict.fromkeys((name for target in node.targets for name in _names_used(target)), node))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            definitions[node.target.id] = node
    return definitions


def _names_used(node: ast.AST) -> list[str]:
    return [child.id for child in ast.walk(node) if isinstance(child, ast.Name)]


def _dump(node: ast.AST) -> str:
    """A tree as text, without docstrings and places; `ast.dump` says the same and takes four times as long."""
    parts: list[str] = []
    _write(node, parts)
    return "\0".join(parts)


def _write(node: ast.AST, parts: list[str]) -> None:
    parts.append(type(node).__name__)
    documented = type(node) in _DOCUMENTED
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            items = value[1:] if documented and name == "body" and _is_text(value) else value
            parts.append(f"[{len(items)}")
        else:
            items = [value]
        for item in items:
            if isinstance(item, ast.AST):
                _write(item, parts)
            else:
                parts.append(repr(item))


def _is_text(body: list[ast.stmt]) -> bool:
    """Whether a body begins with a docstring."""
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
