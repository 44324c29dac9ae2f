"""Licences of what the project runs with, from the metadata of the installed packages.

Belongs here: which packages, what their metadata say, the table. Does not: judging (`test_licences.py`).
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
RUNTIME_EXTRAS = ("cpu", "gpu", "onnx", "ray", "transformers")

NVIDIA = ("nvidia-", "cuda-")
"""Packages of torch's CUDA build; some say nothing of their licence."""

FAMILIES = {
    "Apache-2.0": r"apache",
    "MIT": r"\bmit\b|\bexpat\b",
    "BSD": r"bsd|hpnd-markus",
    "MPL-2.0": r"mpl|mozilla",
    "PSF-2.0": r"psf|python software foundation|python-2|matplotlib",
    "HPND": r"hpnd|historical permission|mit-cmu",
    "ISC": r"\bisc\b",
    "Unlicense": r"unlicen[sc]e|public domain|cc0",
    "Zlib": r"zlib",
    "0BSD": r"0bsd",
    "NVIDIA": r"nvidia",
    "LGPL": r"lgpl|lesser general public",
    "GPL": r"(?<!l)gpl|(?<!lesser )general public",
}
"""Families by what a package's metadata say of itself, in the order in which a package's families are listed."""


def direct_dependencies() -> list[str]:
    """Names of pyproject's own runtime dependencies, extras that users install included."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(line for key in RUNTIME_EXTRAS for line in project["optional-dependencies"][key]),
    ]
    return sorted({Requirement(line).name.lower() for line in listed})


def all_dependencies() -> list[str]:
    """Names of what these need in turn, as far as it is installed."""
    found: set[str] = set()
    waiting = [name for name in direct_dependencies() if _is_installed(name)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting += [needed.name.lower()] if _is_installed(needed.name) else []
    return sorted(found)


def licence_of(name: str) -> tuple[str, ...]:
    """Families of a package's licence by the first that names one: expression, classifiers, field, licence file."""
    about = distribution(name).metadata
    classifiers = [line for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    field = (about.get("License") or "").strip().splitlines()[:1]
    for said in (about.get("License-Expression") or "", "; ".join(classifiers), *field, _licence_file(name)):
        if found := tuple(family for family, pattern in FAMILIES.items() if re.search(pattern, said, re.IGNORECASE)):
            return found
    return ("NVIDIA",) if name.startswith(NVIDIA) else ()


def licence_table() -> str:
    """The direct dependencies with their licences, as Markdown; those not installed here say so."""
    rows = [f"| {name} | {_shown(name)} |" for name in direct_dependencies()]
    return "\n".join(["| package | licence |", "| --- | --- |", *rows])


def _licence_file(name: str) -> str:
    files = [file for file in distribution(name).files or [] if file.name.upper().startswith(("LICENSE", "LICENCE"))]
    return files[0].read_text()[:400] if files else ""


def _shown(name: str) -> str:
    return " and ".join(licence_of(name)) if _is_installed(name) else "not installed here"


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
