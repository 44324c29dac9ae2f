"""How large the page of a large report is, and how soon a browser is ready: 5,000 samples, all that it can have."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PAGE_TESTS = Path(__file__).parents[1] / "assets" / "report" / "test_page.py"
ROUNDS = 5
READY = """() => new Promise(done => {
  const asked = performance.now();
  requestAnimationFrame(() => setTimeout(() => done({
    interactive: performance.getEntriesByType('navigation')[0].domInteractive,
    loaded: performance.getEntriesByType('navigation')[0].loadEventEnd,
    frame: performance.now() - asked,
  })));
})"""


def page_tests() -> ModuleType:
    """The module that builds a realistic report."""
    spec = importlib.util.spec_from_file_location("report_page_tests", PAGE_TESTS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report_page_tests"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_page_of_five_thousand_samples(benchmark: Any, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    tests = page_tests()
    text = tests.render_page(tests.build_document(), tests.crowded(5_000))
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    found: list[dict[str, float]] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})

        def visit() -> None:
            page.goto(file.as_uri())
            found.append(page.evaluate(READY))

        benchmark.pedantic(visit, rounds=ROUNDS, warmup_rounds=1)
        browser.close()
    benchmark.extra_info |= {"megabytes": len(text.encode()) / 1e6} | {
        name: statistics.median(one[name] for one in found[1:]) for name in ("interactive", "loaded", "frame")
    }
    assert len(text.encode()) <= 15_000_000
