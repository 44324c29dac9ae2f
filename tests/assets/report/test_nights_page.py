"""The pages over a store: what they say, that no name from the data runs, and how they behave in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from assets.report.document import Estimate
from assets.report.history import read_history
from assets.report.night import CauseFigure, Night, NightFigures, SetCounts
from assets.report.nights_page import family_cells, render_compare, render_trend, write_nights_pages
from assets.report.trend_figures import gap_chart, volume_chart

HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} \"><img src=x onerror='alert(2)'>"


@pytest.fixture(scope="module")
def nights(make_street, tmp_path_factory) -> list[Night]:
    """Six nights: pictures come and go, a cause is confirmed on the fourth, the fifth is missed, the last fails."""
    street = make_street(tmp_path_factory.mktemp("street"))
    street.night(0, {"exposure": ("inconclusive", 0.1), "haze": ("refuted", 0.0)})
    street.target |= {f"new_{i}": (f"new_{i % 3}", 0.5, "c") for i in range(6)}
    street.night(1, {"exposure": ("inconclusive", 0.12), "haze": ("refuted", 0.0)})
    street.quiet(2)
    street.target = {name: (drive, loss + 0.2, content) for name, (drive, loss, content) in street.target.items()
                     if name not in ("dusk_0_000", "dusk_0_001")}  # fmt: skip
    street.night(3, {"exposure": ("confirmed", 0.6), "haze": ("refuted", 0.0)})
    street.quiet(5)
    street.quiet(6, problem=f"dusk/manifest: {HOSTILE}")
    return read_history(street.store, "dusk")


def visible(page: str) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def never() -> dict[str, list[Night]]:
    return {"rain": []}


def test_the_trend_says_what_changed_and_lists_every_night(nights):
    page = render_trend("dusk", nights, 30)
    text = visible(page)
    assert "6 checks since 2026-07-01 02:00 UTC" in text
    assert "No report could be made" in text and "Pictures of dusk: 2 removed" in text
    assert "Exposure: a root cause now (inconclusive → confirmed)" in text
    assert page.count('<tr><th scope="row" class="nowrap"') == 6
    assert text.count("beyond its noise") >= 1


def test_the_matrix_has_a_row_a_target_and_the_word_that_weighs_most(nights):
    text = visible(render_compare("day", {"dusk": nights, **never()}, None))
    assert "Exposure" in text and "confirmed" in text and "60% [50%, 70%]" in text
    assert "rain – –" in text and "never" in text and "Not checked yet." in text
    assert "Haze" in text, "refuted somewhere, so it has a column"


def test_a_root_cause_stands_before_a_remedy_and_takes_the_familys_share():
    def cause(name, verdict, *, root, share):
        return CauseFigure(id=name, title=name, family="colour", verdict=verdict, root=root, share=share)

    figures = NightFigures(
        headline="", source="a", target="b", schema_version="1", unexplained=Estimate(value=None),
        recipe_closes=Estimate(value=None), shares={"colour": Estimate(value=0.5)},
        causes=[cause("match", "confirmed", root=False, share=0.9), cause("tint", "confirmed", root=True, share=0.3),
                cause("cast", "inconclusive", root=False, share=0.8)],
    )  # fmt: skip
    root = family_cells(figures)["colour"]
    assert (root.titles, root.remedy, root.share.value) == (["tint"], False, 0.5)
    remedies = figures.model_copy(update={"causes": figures.causes[:1]})
    remedy = family_cells(remedies)["colour"]
    assert remedy.remedy and remedy.share.value == 0.9 and remedy.rank < root.rank


def test_charts_place_what_they_say(nights):
    chart = gap_chart(nights, 600)
    assert [mark.outcome for mark in chart.gaps] == [night.outcome for night in nights]
    heights = [mark.y for mark in chart.gaps]
    assert heights[3] < heights[1] < chart.zero and heights[3] == heights[4] == heights[5], "a larger gap stands higher"
    assert all(mark.high < mark.y < mark.low for mark in chart.gaps)
    assert len(chart.pauses) == 1 and chart.gaps[3].x < chart.pauses[0] < chart.gaps[4].x
    bars = volume_chart(nights, 600).volumes
    assert [kind for kind, _, _ in bars[1].parts] == ["kept", "added"]
    assert [kind for kind, _, _ in bars[3].parts] == ["kept", "removed"]
    kept, added = (height for _, _, height in bars[1].parts)
    assert kept / added == pytest.approx(80 / 6)
    assert max(tick.at for tick in chart.values) - min(tick.at for tick in chart.values) == pytest.approx(182)


def test_no_name_runs_and_nothing_is_loaded(nights):
    for page in (render_trend("dusk", nights, 30), render_compare("day", {"dusk": nights}, 30)):
        assert "<script>alert" not in page and "onerror=" not in re.sub(r"&[^;]+;[^<]*", "", page)
        assert "{{ 7 * 7 }}" in page.replace("&#39;", "'")
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1].replace("&#39;", "'")
        [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert policy.startswith("default-src 'none'; script-src 'sha256-" + digest)
        links = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert all(re.match(r"data:,|#|\.\./index\.html$|(dusk/)?(report|trend)\.html$", link) for link in links), links
        assert not re.search(r"\b(None|nan|NaN|inf|Undefined)\b", visible(page))


def test_a_target_that_was_never_reported_has_a_page_that_says_so(street):
    street.write()
    street.quiet(0, problem="dusk/embeddings: out of memory")
    write_nights_pages(street.config, street.store)
    page = visible(street.store.read("reports", "dusk", "trend.html").decode())
    assert "there are no figures yet: dusk/embeddings: out of memory" in page
    assert "No night has a loss gap to draw." in page
    assert "dusk" in visible(street.store.read("reports", "index.html").decode())


@pytest.mark.parametrize("count", [1, 2, 90])
def test_any_number_of_nights_is_drawn(count, street):
    figures = street.night(0).figures
    counts = SetCounts(name="dusk", samples=80, labelled=80, quarantined=0)
    many = [Night(time=street.time(i), outcome="reported", figures=figures, source=counts, target=counts)
            for i in range(count)]  # fmt: skip
    page = render_trend("dusk", many, None)
    assert page.count("<circle") >= min(count, 60)
    assert (f"the last 60 of {count}" in visible(page)) == (count > 60)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


def test_the_pages_in_a_browser(browser, street, nights):
    """Sorting by mouse and keyboard, links from page to page, no sideways scroll on a phone, no complaint."""
    other = [night.model_copy(update={"figures": night.figures.model_copy(update={"loss_gap": 0.9})})
             for night in nights]  # fmt: skip
    page_of = {"dusk": nights, "rain": other, "fog": []}
    folder = street.store.local_copy("reports")
    street.store.write(render_compare("day", page_of, 30), "reports", "index.html")
    street.store.write(render_trend("dusk", nights, 30), "reports", "dusk", "trend.html")
    complaints: list[str] = []
    for options in ({"viewport": {"width": 1280, "height": 900}},
                    {"viewport": {"width": 375, "height": 800}, "color_scheme": "dark"}):  # fmt: skip
        page = browser.new_context(**options).new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((folder / "index.html").as_uri())
        rows = page.locator("tbody th")
        page.get_by_role("button", name="Loss gap").click()
        assert [name.split("\n")[0].split("Report")[0] for name in rows.all_inner_texts()] == ["rain", "dusk", "fog"]
        page.get_by_role("button", name="Loss gap").press("Enter")
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        assert "overdue" in page.locator("tbody tr").first.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("tr", has_text="dusk").get_by_role("link", name="Night by night").click()
        assert page.get_by_role("heading", level=1).inner_text() == "dusk night by night"
        shown = page.locator("svg.chart:visible")
        assert shown.count() == 2, "one drawing of each chart fits the screen"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("link", name="All targets").click()
        assert page.url.endswith("index.html")
    assert complaints == []
