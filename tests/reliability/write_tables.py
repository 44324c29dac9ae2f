"""Writes the tables of docs/reliability.md anew, from a run of the corpus."""

import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from licences import licence_table  # noqa: E402
from outcomes import corpus_tables, replaced, run_corpus  # noqa: E402

if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    document = ROOT / "docs" / "reliability.md"
    with tempfile.TemporaryDirectory() as folder:
        parts = [("corpus", corpus_tables(run_corpus(Path(folder)))), ("licences", licence_table())]
    document.write_text(replaced(document.read_text(encoding="utf-8"), parts), encoding="utf-8")
