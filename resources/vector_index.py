"""FAISS: exact nearest-neighbour search over L2-normalised latents, kept in the store.

Belongs here: building, saving, loading and searching an index. Does not: scores and statistics (scoring).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.errors import DomainGapError

Vectors = NDArray[np.float32]


def import_faiss() -> Any:
    """The module `faiss`, from faiss-cpu or faiss-gpu. Raises DomainGapError that names the two commands."""
    try:
        import faiss
    except ImportError:
        raise DomainGapError(
            "faiss is not installed; run: pip install 'domain-gap[cpu]' (or 'domain-gap[gpu]' on a machine with CUDA)"
        ) from None
    return faiss


def normalised(vectors: NDArray[Any]) -> Vectors:
    """Rows scaled to unit length, float32, C order; rows of zeros stay zero."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Vectors = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


@dataclass
class VectorIndex:
    """Reference latents by sample id; `search` gives Euclidean distances between unit vectors."""

    index: Any
    ids: list[str]

    @classmethod
    def build(cls, ids: list[str], vectors: NDArray[Any]) -> VectorIndex:
        """Exact index over rows (n, d), normalised here."""
        faiss = import_faiss()
        index = faiss.IndexFlatL2(vectors.shape[1])
        index.add(normalised(vectors))
        return cls(index, ids)

    def search(self, vectors: NDArray[Any], k: int) -> tuple[NDArray[np.float64], list[list[str]]]:
        """Distances (n, k), nearest first, and the neighbours' ids. k is cut to the index's size."""
        squared, found = self.index.search(normalised(vectors), min(k, len(self.ids)))
        names = [[self.ids[i] for i in row] for row in found]
        return np.sqrt(np.maximum(squared, 0).astype(np.float64)), names

    def save(self, path: Path) -> None:
        """Write the index and its ids; each file whole or not at all, the index last."""
        ids_path = path.with_suffix(".ids.json")
        temporary = path.with_name(f".{path.name}.partial")
        import_faiss().write_index(self.index, str(temporary))
        ids_temporary = ids_path.with_name(f".{ids_path.name}.partial")
        ids_temporary.write_text(json.dumps(self.ids))
        ids_temporary.replace(ids_path)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> VectorIndex:
        """Read what `save` wrote."""
        index = import_faiss().read_index(str(path))
        return cls(index, json.loads(path.with_suffix(".ids.json").read_text()))
