"""The page in a real browser, opened from the disk."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paretune.reports.page import write_page
from paretune.reports.tables import front_json
from paretune.search.run import Run
from paretune.spaces.configuration import Choice, Configuration
from report_cases import made_up_run

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = "<img src=x onerror=\"document.title='broken'\"></script>"


@pytest.fixture(scope="module")
def browser():
    if not shutil.which(CHROMIUM):
        required = "chromium" in os.environ.get("PARETUNE_REQUIRED", "")
        (pytest.fail if required else pytest.skip)(f"no {CHROMIUM}: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return made_up_run(tmp_path_factory.mktemp("run"), confirmed=(0, 31))


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, browser, path: Path, fragment: str = "", **settings) -> None:
        self.page = browser.new_page(viewport={"width": 1440, "height": 900}, **settings)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{path.as_uri()}{fragment}")
        self.page.wait_for_selector("html[data-ready]", timeout=90_000)

    def numbers(self, where: str = "[data-front]") -> list[int]:
        """Trials in the table, in its order."""
        rows = self.page.query_selector_all(f"#trials tbody tr{where}")
        return [int(row.get_attribute("data-trial")) for row in rows]

    def card(self) -> str:
        return self.page.inner_text("#selected")

    def axis(self, which: str) -> str:
        return self.page.evaluate(f"document.getElementById('plot').layout.{which}axis.title.text")

    def trace(self, name: str) -> dict:
        script = "name => document.getElementById('plot').data.find(t => t.name === name)"
        return self.page.evaluate(script, name)


@pytest.fixture
def opened(browser, run, tmp_path):
    pages = []

    def open_page(fragment="", run=run, **settings) -> Opened:
        path = tmp_path / "report.html"
        write_page(run, path)
        pages.append(Opened(browser, path, fragment, **settings))
        return pages[-1]

    yield open_page
    for one in pages:
        one.page.close()


def test_it_opens_from_disk_without_an_error_or_a_request(opened):
    page = opened()
    assert page.said == []
    assert [url.split(":")[0] for url in page.asked] == ["file", "blob"]


def test_figures_and_table_are_there_before_the_plots(browser, run, tmp_path):
    path = tmp_path / "report.html"
    write_page(run, path)
    bare = path.read_text(encoding="utf-8").replace("DecompressionStream", "Never")
    path.write_text(bare, encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator("#trials tbody tr").count() == 61
    assert "Trial 31" in page.inner_text("#selected")
    assert page.locator("#lines path.front").count() == len(front_json(run)["trials"])
    page.close()


@pytest.mark.parametrize(
    "objectives",
    [
        ["accuracy", "latency_p50", "model_bytes"],
        ["accuracy", "energy"],
        ["parameters"],
        ["accuracy", "latency_p50", "model_bytes", "flops", "energy"],
    ],
    ids=",".join,
)
def test_its_front_is_that_of_the_tables(opened, run, objectives):
    page = opened(f"#o={','.join(objectives)}")
    expected = front_json(run, objectives)["trials"]
    assert sorted(page.numbers()) == [row["number"] for row in expected]
    knees = [row["number"] for row in expected if row["knee"]]
    labels = page.page.locator("#trials tbody tr", has_text="knee")
    assert [int(row.get_attribute("data-trial")) for row in labels.all()] == knees


def test_ticking_another_objective_changes_the_front_and_the_address(opened, run):
    page = opened()
    page.page.click("#objectives summary")
    page.page.check("#objectives input[value=energy]")
    expected = front_json(run, ["accuracy", "latency_p50", "model_bytes", "energy"])
    assert sorted(page.numbers()) == [row["number"] for row in expected["trials"]]
    assert "o=accuracy%2Clatency_p50%2Cmodel_bytes%2Cenergy" in page.page.url


def test_another_axis_redraws_the_plot_and_says_what_is_modelled(opened):
    page = opened()
    assert page.axis("x") == "median latency (ms), lower is better"
    before = page.trace("on the front")["x"]
    page.page.select_option("#axis-x", "energy")
    assert page.axis("x") == "energy (mJ), modelled, lower is better"
    after = page.trace("on the front")
    assert after["x"] != before
    assert set(after["marker"]["symbol"]) == {"circle-open"}
    page.page.check("#log-x")
    assert page.page.evaluate("document.getElementById('plot').layout.xaxis.type") == "log"


def test_a_click_on_a_row_selects_the_point_the_line_and_the_card(opened, run):
    page = opened()
    number = next(n for n in page.numbers() if n != 31)
    page.page.click(f"#trials tr[data-trial='{number}'] td.short")
    assert f"Trial {number}" in page.card()
    record = next(r for r in run.records if r.number == number)
    assert page.trace("selected")["x"] == [pytest.approx(record.value("latency_p50") * 1e3)]
    assert page.page.locator("#line-selected path").count() == 1
    assert page.numbers("[aria-selected=true]") == [number]
    assert f"s={number}" in page.page.url


def test_a_click_on_a_point_selects_its_row(opened):
    page = opened()
    script = """() => {
        const plot = document.getElementById('plot');
        const trace = plot.data.find(t => t.name === 'on the front');
        const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
        const { xaxis, yaxis } = plot._fullLayout;
        return [box.x + xaxis.d2p(trace.x[1]), box.y + yaxis.d2p(trace.y[1])];
    }"""
    page.page.locator("#plot").scroll_into_view_if_needed()
    x, y = page.page.evaluate(script)
    page.page.mouse.move(x, y)
    page.page.wait_for_selector("#plot .hoverlayer .hovertext")
    page.page.mouse.click(x, y)
    (number,) = page.numbers("[aria-selected=true]")
    assert number == sorted(page.numbers())[1]
    assert f"Trial {number}" in page.card()


def test_arrow_keys_walk_the_front(opened, run):
    page = opened()
    rows = front_json(run)["trials"]
    path = [r["number"] for r in sorted(rows, key=lambda r: r["metrics"]["latency_p50"]["value"])]
    at = path.index(31)
    page.page.focus("#plot")
    page.page.keyboard.press("ArrowRight")
    assert f"Trial {path[at + 1]}\n" in page.card()
    page.page.focus("#trials tbody tr")
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Enter")
    assert f"Trial {page.numbers('')[1]}\n" in page.card()


def test_headers_sort_and_words_filter_the_table(opened, run):
    page = opened()
    page.page.click("#trials th:has-text('size on disk') button")
    sizes = {r.number: r.value("model_bytes") for r in [run.baseline, *run.records]}
    known = [sizes[n] for n in page.numbers("") if sizes[n] is not None]
    assert known == sorted(known)
    page.page.fill("#find", "lora int8")
    texts = page.page.locator("#trials tbody td.short").all_inner_texts()
    assert texts
    assert all("LoRA" in text and "int8" in text for text in texts)


def test_brushing_an_axis_keeps_only_what_lies_within(opened, run):
    page = opened("#a=1")
    page.page.locator("#lines").scroll_into_view_if_needed()
    grips = page.page.locator("#lines .grip").all()
    box = grips[-1].bounding_box()  # size on disk; small is up
    x, top = box["x"] + box["width"] / 2, box["y"]
    page.page.mouse.move(x, top + 2)
    page.page.mouse.down()
    page.page.mouse.move(x, top + box["height"] / 2, steps=4)
    page.page.mouse.up()
    sizes = {r.number: r.value("model_bytes") for r in [run.baseline, *run.records]}
    kept = [sizes[number] for number in page.numbers("")]
    assert kept
    assert max(kept) < 60e6
    again = opened(page.page.url[page.page.url.index("#") :])
    assert len(again.numbers("")) == len(kept)
    again.page.click("#clear")
    assert len(again.numbers("")) == 61
    assert "b=" not in again.page.url


def test_downloads_hold_the_trials_that_are_shown(opened, run):
    page = opened("#f=1")
    with page.page.expect_download() as download:
        page.page.click("#json")
    data = json.loads(Path(download.value.path()).read_text())
    expected = {
        row["number"]: row["metrics"]["accuracy"]["value"] for row in front_json(run)["trials"]
    }
    assert {r["number"]: r["metrics"]["accuracy"]["value"] for r in data["trials"]} == expected
    with page.page.expect_download() as download:
        page.page.click("#csv")
    assert len(Path(download.value.path()).read_text().splitlines()) == 1 + len(expected)


def test_the_address_brings_back_what_was_seen(opened):
    page = opened("#x=model_bytes&y=accuracy&ly=1&c=energy&s=13&q=front&by=accuracy&d=-1")
    assert page.axis("x").startswith("size on disk")
    assert "Trial 13" in page.card()
    assert page.page.input_value("#find") == "front"
    assert page.page.locator("th[aria-sort=descending]").inner_text().startswith("accuracy")


def test_an_address_of_another_run_does_no_harm(opened):
    page = opened("#x=unknown&c=other&s=9999&o=nothing&by=gone&b=gone|0|1;accuracy|x;|")
    assert page.said == []
    assert page.axis("x").startswith("median latency")


def test_plots_have_a_role_a_summary_and_no_button_that_uploads(opened):
    page = opened()
    drawings = page.page.locator("svg.main-svg[role=img]").all()
    assert len(drawings) == 3
    assert all(drawing.get_attribute("aria-label") for drawing in drawings)
    titles = page.page.eval_on_selector_all(".modebar-btn", "all => all.map(b => b.dataset.title)")
    assert len(titles) == 4
    assert not any("hare" in title or "loud" in title for title in titles)


def test_dark_mode_is_dark_all_through(opened):
    page = opened(color_scheme="dark")
    ground = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(15, 18, 23)"
    font = page.page.evaluate("document.getElementById('plot').layout.font.color")
    assert font == "#e9edf3"
    assert page.said == []


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened()
    page.page.set_viewport_size({"width": width, "height": 844})
    page.page.wait_for_timeout(300)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_a_user_wrote_never_runs(opened, run):
    evil = Configuration.of(finetuning=Choice.of(EVIL, rank=8), runtime=Choice.of("a", b=EVIL))
    best = front_json(run)["trials"][0]["number"]
    records = [replace(r, configuration=evil) if r.number == best else r for r in run.records]
    page = opened(f"#s={best}", run=replace(run, name=EVIL, records=tuple(records)))
    page.page.locator("#plot").hover()
    assert page.page.title() == "all-MiniLM-L6-v2 on docstrings - paretune"
    assert page.page.locator("img").count() == 0
    assert page.said == []


def test_a_run_without_figures_still_opens(opened, run):
    page = opened(run=replace(run, records=(), baseline=None, reference=None, confirmations={}))
    assert page.said == []
    assert "No point can be recommended" in page.page.inner_text("main")
