"""The page as text: self-contained, escaped, complete, and written whatever state a run is in."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paretune.errors import StorageFailed
from paretune.reports.page import write_page
from paretune.reports.page.payload import payload
from paretune.reports.page.write import page, plotly_compressed
from paretune.search.front import front_of
from paretune.search.run import Run
from paretune.search.select import select
from paretune.spaces.configuration import Choice, Configuration
from report_cases import header, made_up_run

METRICS = header().metrics
EVIL = "</script><img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of each script by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._script = dict(attributes).get("id", "main") if tag == "script" else None

    def handle_data(self, data):
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def handle_endtag(self, tag):
        self._script = None


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return made_up_run(tmp_path_factory.mktemp("run"), confirmed=(0, 31))


@pytest.fixture(scope="module")
def text(run) -> str:
    return page(run)


def seen(text: str) -> str:
    """What stands in the page apart from scripts and styles."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def test_the_page_asks_for_nothing_outside_itself(text):
    for tag, attributes in Elements(text).tags:
        for name in ("src", "srcset", "data", "action"):
            assert name not in attributes, (tag, attributes)
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert attributes.get("href", "#").startswith("#")
    assert "@import" not in text.split("</style>")[0]
    assert "url(" not in text.split("</style>")[0]


def test_its_policy_forbids_every_request(text):
    metas = [a for tag, a in Elements(text).tags if tag == "meta" and "http-equiv" in a]
    policy = metas[0]["content"]
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy
    assert "http" not in policy


def test_plotly_lies_compressed_in_the_page(text):
    packed = Elements(text).scripts["plotly"]
    assert packed == plotly_compressed()
    assert b"plotly.js" in gzip.decompress(base64.b64decode(packed))[:200]
    assert len(text) < 2.5e6


def test_the_scripts_keep_to_files_of_reasonable_length():
    for script in (Path(__file__).parents[1] / "reports" / "page").glob("*.js"):
        assert script.read_text().count("\n") < 600


def test_the_headline_says_what_was_found_and_what_it_cost(text):
    words = seen(text)
    assert "all-MiniLM-L6-v2 on docstrings" in words
    assert "4.4 \u00d7 lower median latency and 3.9 \u00d7 smaller size on disk" in words
    assert "Confirmed once: accuracy" in words
    assert "2 seeds" in words
    for part in ("21.0 min", "Wh", "modelled, 65 W a worker, PUE 1.2", "USD"):
        assert part in words


def test_the_search_is_told_with_failures_refusals_and_shared_work(text):
    words = seen(text)
    assert "60 trials and the baseline" in words
    for part in ("47 judged in full", "out of memory", "asked before", "stages were found made"):
        assert part in words


def test_what_a_user_wrote_is_text_and_never_markup(run):
    records = list(run.records)
    evil = Configuration.of(finetuning=Choice.of(EVIL, rank=8), runtime=Choice.of("a", b=EVIL))
    records[0] = replace(records[0], configuration=evil)
    broken = replace(
        run, name=EVIL, records=tuple(records), study={**run.study, "model": EVIL, EVIL: EVIL}
    )
    broken = replace(broken, refused={EVIL: 3}, environment={EVIL: {EVIL: EVIL}})
    written = page(broken)
    assert "<img" not in written
    names = [tag for tag, _ in Elements(written).tags]
    assert names.count("script") == 3
    assert json.loads(Elements(written).scripts["data"])["study"] == EVIL


def test_the_data_holds_every_trial_unrounded(run, text):
    data = json.loads(Elements(text).scripts["data"])
    assert data["trials"]["number"] == [0, *(record.number for record in run.records)]
    for record in run.records:
        i = data["trials"]["number"].index(record.number)
        assert data["figures"]["accuracy"]["value"][i] == record.value("accuracy")
        assert data["trials"]["configuration"][i] == record.configuration.to_json()


def test_metrics_without_a_figure_are_not_offered(run):
    assert "peak_memory" not in payload(run, None)["metrics"]


def test_the_page_marks_limits_and_trials_beyond_them(run):
    data = payload(run, None)
    assert data["limits"][0]["bound"] == pytest.approx(0.9 * run.baseline.value("accuracy"))
    on = {record.number for record in front_of(run).judged}
    for number, state, broken in zip(
        *(data["trials"][k] for k in ("number", "state", "broken")), strict=True
    ):
        assert (number in on) == (state == "final" and not broken)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "metrics": {
                n: {k: v for k, v in row.items() if k != "source"} for n, row in METRICS.items()
            }
        },
        {"records": (), "baseline": None, "reference": None, "confirmations": {}},
        {"baseline": None, "constraints": ()},
        {"records": ()},
        {"constraints": ("accuracy >= 0.999",)},
        {"study": {}, "environment": {}, "refused": {}},
    ],
    ids=[
        "metrics of the user's",
        "nothing yet",
        "no baseline",
        "only the baseline",
        "no trial within limits",
        "no study",
    ],
)
def test_a_page_is_written_at_every_stage_of_a_search(run, changes):
    assert "</html>" in page(replace(run, **changes))


def test_a_run_that_recommends_nothing_says_why(run):
    words = seen(page(replace(run, constraints=("accuracy >= 0.999",))))
    assert "No point can be recommended" in words
    assert "no trial keeps" in words


def test_the_same_run_gives_the_same_page(run, text):
    assert page(run) == text


def test_writing_replaces_the_file_whole(run, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_page(run, path)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_an_error_with_advice(run, tmp_path):
    with pytest.raises(StorageFailed, match="--out"):
        write_page(run, tmp_path / "absent" / "report.html")


def test_a_figure_of_several_seeds_says_how_many_and_how_far_apart(run):
    chosen = select(run).record
    figure = replace(chosen.measurements["accuracy"], value=chosen.value("accuracy") + 0.01)
    figures = {**chosen.measurements, "accuracy": figure}
    rung = replace(chosen.rungs[-1], measurements=figures)
    again = replace(chosen, rungs=(rung,), seed=1, purpose="repeat")
    searched = replace(run, confirmations={})
    repeated = replace(searched, near_ties={chosen.number: (again,)})
    assert select(repeated).number == chosen.number
    assert "over 2 seeds" not in seen(page(searched))
    assert re.search(r"[\d.]+ to [\d.]+ % over 2 seeds", seen(page(repeated)))
    told = payload(repeated, chosen.number)
    place = told["figures"]["accuracy"]["note"][chosen.number]
    assert told["texts"][place].startswith("over 400 items; ")
    assert "over 2 seeds; split validation" in told["texts"][place]
