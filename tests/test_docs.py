"""The documents say what is true: files, verbs, keys, figures of the walk, examples that run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paretune import __version__
from paretune.cli import app
from paretune.search.study import Study, load_study
from paretune.spaces.build import build
from paretune.spaces.candidate import Candidate
from paretune.spaces.configuration import SLOTS, Choice, Configuration
from paretune.spaces.families import family_of
from paretune.spaces.load import Load
from paretune.spaces.lower import Graph, Subject, lower, plain, walk
from paretune.spaces.models import inspect_model, profile_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Head
from paretune.spaces.recipe import Recipe
from paretune.spaces.testing import Specimen, check_technique

ROOT = Path(__file__).parents[1]
HAND_WRITTEN = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("architecture", "guide", "decisions", "log")),
]
PAGES = [*HAND_WRITTEN, *sorted(set((ROOT / "docs").glob("*.md")) - set(HAND_WRITTEN))]
OF_THE_REPOSITORY = re.compile(r"`([\w./-]+\.(?:py|html|css|js|json|yaml|lock|toml))`")
WRITTEN_BY_A_RUN = {
    "adapter_config.json",
    "artifact.json",
    "config.json",
    "log.jsonl",
    "paretune.json",
    "prior.json",
    "report.html",
    "snapshot.json",
    "stage.json",
    "study.yaml",
}
ROOMS = ("spaces", "evaluators", "search", "reports", "docs", "benchmarks")


def fences(page: Path, kind: str) -> Iterator[str]:
    """The fenced blocks of a page that are marked with some words."""
    yield from re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.M | re.S)


def example(page: str, kind: str) -> str:
    """The one block of that kind."""
    (found,) = fences(ROOT / page, kind)
    return found


def spoken(page: Path) -> Iterator[tuple[str, str]]:
    """Each command line of a page: its verb and what follows."""
    text = page.read_text()
    lines = "\n".join(re.findall(r"^```(?:sh|text)?\n(.*?)^```$", text, re.M | re.S))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    inline = re.findall(r"`(paretune [a-z][^`]*)`", prose)
    for line in [*lines.splitlines(), *inline]:
        command, _, _ = line.partition("#")
        found = re.match(r"(?:\.venv/bin/)?paretune ([a-z]+)(.*)", command.strip())
        if found:
            yield found[1], found[2]


def options() -> dict[str, set[str]]:
    """The options of every verb."""
    import typer

    group: Any = typer.main.get_command(app)
    return {
        name: {option for row in verb.params for option in row.opts} | {"--help"}
        for name, verb in group.commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    named = set(OF_THE_REPOSITORY.findall(page.read_text())) - WRITTEN_BY_A_RUN
    inside = {name for name in named if "/" in name or (ROOT / name).exists()}
    assert not {name for name in inside if not (ROOT / name).is_file()}
    known = {path.name for room in ROOMS for path in (ROOT / room).rglob("*")}
    assert not {name for name in named - inside if name.endswith(".py") and name not in known}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_another_page_leads_somewhere(page):
    headings = {path: _anchors(path) for path in PAGES}
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), target
        assert not anchor or anchor in headings.get(path, {anchor}), target


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_and_option_that_a_page_names_exists(page):
    known = options()
    for verb, rest in spoken(page):
        assert verb in known, f"paretune {verb}"
        told = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest))
        assert told <= known[verb], f"paretune {verb}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_study_in_a_page_can_be_read(page, tmp_path):
    for block in fences(page, "yaml study"):
        (tmp_path / "study.yaml").write_text(block)
        load_study(tmp_path / "study.yaml")


def test_the_guide_names_every_section_of_the_study_file():
    text = (ROOT / "docs/guide.md").read_text()
    assert not [name for name in Study.model_fields if f"| `{name}` |" not in text]


def test_the_floor_plan_has_every_file_once():
    text = (ROOT / "docs/architecture.md").read_text()
    plan = re.findall(r"^\| `([\w./]+)` \|", text[text.index("## Floor plan") :], re.M)
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    files += ROOT.glob("*.py")
    wanted = {str(path.relative_to(ROOT)) for path in files if _says_something(path)}
    assert sorted(plan) == sorted(set(plan))
    assert sorted(wanted - set(plan)) == [], "add a line for each"
    assert [name for name in plan if not (ROOT / name).is_file()] == [], "these are gone"


def _says_something(path: Path) -> bool:
    """Not an `__init__.py` that only gathers names."""
    if path.parent == ROOT or path.name != "__init__.py":
        return True
    return bool(re.search(r"^(TABLE|class |def )", path.read_text(), re.M))


@pytest.fixture(scope="module")
def subject(tiny_models: dict[str, Path]) -> Subject:
    source = inspect_model(str(tiny_models["bert"]))
    profile = profile_of(source, "classification", 3)
    return Subject(
        load=Load(source, profile),
        profile=profile,
        recipe=Recipe(train_items=64, epochs=2.0, batch=16),
        digests={"model": source.digest, "train": "t", "calibration": "c"},
        baseline=Configuration.of(finetuning=Choice.of("full", learning_rate=1e-4)),
        rungs=(0.25, 1.0),
    )


@pytest.fixture(scope="module")
def followed() -> Configuration:
    """The configuration that the architecture follows."""
    text = example("docs/architecture.md", "json configuration")
    return Configuration.from_json(json.loads(text))


def test_the_walk_through_shows_the_nodes_that_the_code_makes(subject, followed):
    shown = example("docs/architecture.md", "text nodes").splitlines()[1:]
    made = _as_shown(lower(followed, subject))
    assert [line.split() for line in shown] == [line.split() for line in made]


def _as_shown(graph: Graph) -> list[str]:
    place = {node.key: str(i) for i, node in enumerate(graph)}
    return [
        " ".join(
            [
                place[node.key],
                node.step.name,
                node.slot,
                ", ".join(place[key] for key in node.inputs) or "-",
                str(node.until_step or "-"),
                ", ".join(sorted(node.step.reads)) or "-",
                "yes" if node.step.draws else "no",
            ]
        )
        for node in graph
    ]


def test_the_walk_through_shows_the_steps_in_their_phases(subject, followed):
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| \w* ?\| `([\w.]+)` \| \w+ \| `([A-Z_]+)` \|", text, re.M)
    moves = walk(followed, subject).moves
    assert rows == [(move.step.name, move.step.phase.name) for move in moves]


def test_the_followed_configuration_is_canonical_and_of_the_study_beside_it(followed, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(example("docs/architecture.md", "yaml study"))
    space = load_study(study).space
    assert plain(followed) == followed
    assert all(choice.method in space[slot]["methods"] for slot, choice in followed)


def test_the_architecture_names_every_slot():
    text = (ROOT / "docs/architecture.md").read_text()
    assert not [slot for slot in SLOTS if f"`{slot}`" not in text]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_technique_of_the_contributors_page_keeps_the_contract(family):
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(example("CONTRIBUTING.md", "python technique"), "CONTRIBUTING.md", "exec"), scope)
    check_technique(scope["Tables"](), _specimen(family))


def _specimen(family: str) -> Specimen:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {**sizes, "intermediate_size": 64, "vocab_size": 43, "max_position_embeddings": 64}
    heads = {"bert": Head("classification", 3), "llama": Head("language-modelling", 43)}
    profile = family_of(family).profile(config, heads[family])
    return Specimen.of(Candidate(build(profile, seed=0), Paper(profile)))


def test_the_contributors_page_names_targets_of_the_makefile():
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= rules


def test_the_examples_of_the_guide_run(tiny_models, tmp_path, monkeypatch, capsys):
    (tmp_path / "model").symlink_to(tiny_models["bert"])
    letters = [f"{chr(97 + i // 26)} {chr(97 + i % 26)}" for i in range(200)]
    rows = [f"the film was {['good', 'bad'][i % 2]} {two},{i % 2}" for i, two in enumerate(letters)]
    (tmp_path / "films.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    for block in fences(ROOT / "docs/guide.md", "python run"):
        exec(compile(block, "guide.md", "exec"), {"__name__": "example"})
    assert "Trial" in capsys.readouterr().out


def test_the_newest_entry_of_the_changelog_is_this_version():
    versions = re.findall(r"^## \[(\d[\w.]*)\] - \d{4}-\d\d-\d\d$", CHANGELOG.read_text(), re.M)
    assert versions[0] == __version__


CHANGELOG = ROOT / "CHANGELOG.md"


def test_decisions_and_experiments_are_dated_and_in_order():
    for name in ("decisions", "log"):
        text = (ROOT / "docs" / f"{name}.md").read_text()
        titles = re.findall(r"^## (.*)$", text, re.M)
        dates = [re.match(r"\d{4}-\d\d-\d\d (?=\S)", title) for title in titles]
        assert all(dates), name
        assert [d[0] for d in dates if d] == sorted(d[0] for d in dates if d)
