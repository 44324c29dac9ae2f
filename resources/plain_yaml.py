"""YAML as plain values: a text that somebody else may have written does no harm and hides no mistake.

Belongs here: limits on size, depth and aliases, doubled keys, errors that quote nothing of the text (secrets).
Does not: what the values mean (`config.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000
"""Values with every alias written out: a few lines of aliases can stand for billions."""


class PlainYamlError(Exception):
    """A text that is not used, with the reason in one line."""


def read_yaml(path: Path) -> Any:
    """The value of a YAML file: mappings, lists, texts, numbers, dates. Raises PlainYamlError, or OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)  # what a device gives has no size to ask for
    if len(content) > MAX_BYTES:
        raise PlainYamlError(f"more than {MAX_BYTES:,} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PlainYamlError(f"byte {error.start} is not UTF-8") from None
    try:
        return _loaded(yaml.SafeLoader(text))
    except PlainYamlError:
        raise
    except yaml.MarkedYAMLError as error:  # its own text quotes the line
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise PlainYamlError(f"{error.problem}{where}") from None
    except yaml.reader.ReaderError as error:
        raise PlainYamlError(f"{error.reason} at position {error.position}") from None
    except RecursionError:
        raise PlainYamlError(_TOO_DEEP) from None
    except Exception as error:  # a date of month 13, a number of 5,000 digits: the parser lets them through
        raise PlainYamlError(f"a value that can't be read ({type(error).__name__})") from None


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def _loaded(loader: yaml.SafeLoader) -> Any:
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, ()) > MAX_NODES:
            raise PlainYamlError(f"more than {MAX_NODES:,} values with all aliases written out")
        _check_keys(loader, node, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a node stands for; `known` by node, so that aliases cost nothing to count."""
    if id(node) in above:
        raise PlainYamlError("an alias within its own anchor")
    if len(above) > MAX_DEPTH:
        raise PlainYamlError(_TOO_DEEP)
    if id(node) not in known:
        known[id(node)] = 1 + sum(_size(child, known, (*above, id(node))) for child in _children(node))
    return known[id(node)]


def _check_keys(loader: yaml.SafeLoader, node: yaml.Node, seen: set[int]) -> None:
    """Of two equal keys YAML would silently keep the last."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            value = loader.construct_object(key)
            if value in keys:
                raise PlainYamlError(f"the key in line {key.start_mark.line + 1} is there twice in one mapping")
            keys.add(value)
    for child in _children(node):
        _check_keys(loader, child, seen)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
