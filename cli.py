"""The command line. Each verb reads its arguments, calls one function, and prints.

JSON alone goes to standard output; logs and progress to standard error. Exit 0 done, 1 the work
failed, 2 the request was wrong. Ctrl-C once: the search finishes what is under way and ends in good
order (0); twice: it stops at once (130). Heavy libraries are imported by the verbs that need them.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import ParetuneError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Searches architecture, compression and fine-tuning of a transformer together and "
    "returns the Pareto front.",
)

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a full or a protected disk answers."""

INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C ended."""

WIDTH = 100
"""Columns of a table that goes to a file or a pipe."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a line of the study.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    try:
        app(args=list(arguments) if arguments is not None else None)
    except ParetuneError as error:
        for told in error.args:
            _say(f"paretune: {' '.join(str(told).split())}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _say(
            f"paretune: cannot write {error.filename or 'a file'}: {error.strerror}; free some "
            "space or choose another place, then try again: what was stored is kept"
        )
        sys.exit(1)


@app.command()
def init(
    task: Annotated[str, typer.Option(help="What the model is for.")] = "docstrings",
    model: Annotated[
        str, typer.Option(help="Hub id or folder.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("study.yaml"),
) -> None:
    """Write a commented study file."""
    from .search.study_template import write_template

    found = write_template(out, task=task, model=model)
    _say(f"wrote {out}{f': {found}' if found else ''}; next: paretune search {out}")


@app.command()
def doctor(json_: Json = False) -> None:
    """Say what can be measured here, and how."""
    from .evaluators.environment import doctor as examine

    rows = [dict(vars(row)) for row in examine()]
    _print(rows, json_)


@app.command()
def search(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    run: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    trials: Annotated[int | None, typer.Option(help="Most trials.")] = None,
    engine: Annotated[str | None, typer.Option(help="optuna or ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Quote, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json_: Json = False,
) -> None:
    """Search: make and judge configurations, and keep the Pareto front."""
    from .search.quote import quote
    from .search.quote_words import in_words
    from .search.session import start
    from .search.study import load_study

    flags = {"budget.trials": trials, "engine.kind": engine, "engine.workers": workers}
    overrides = [*(sets or []), *(f"{k}={v}" for k, v in flags.items() if v is not None)]
    resolved = load_study(study, overrides)
    if dry_run:
        quoted = quote(resolved)
        _print(quoted if json_ else in_words(quoted), json_)
        return
    folder = run or Path("runs") / study.stem
    _report(start(resolved, folder, quiet=quiet), folder, json_, quiet)


@app.command()
def resume(
    run: RunFolder,
    trials: Annotated[int | None, typer.Option(help="Most trials, those done included.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Most minutes, those spent included.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Move the study to this Optuna URL first.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json_: Json = False,
) -> None:
    """Go on with a run that was stopped, or that gets a larger budget."""
    from .search.session import go_on

    done = go_on(run, trials=trials, minutes=minutes, storage=storage, quiet=quiet)
    _report(done, run, json_, quiet)


@app.command()
def status(run: RunFolder, json_: Json = False) -> None:
    """Say how far a run is and what it has cost."""
    from .reports.tables import status as describe
    from .reports.tables import status_in_words
    from .search.run import read_run

    read = read_run(run)
    _print(describe(read) if json_ else status_in_words(read), json_)


@app.command()
def front(
    run: RunFolder,
    objectives: Annotated[
        str | None, typer.Option(help="Any metrics that were stored, separated by commas.")
    ] = None,
    json_: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Print the configurations that nobody beats on every objective."""
    from .reports.tables import front_csv, front_json, front_note, front_rows
    from .search.run import read_run

    read = read_run(run)
    chosen = objectives.split(",") if objectives else None
    if csv:
        print(front_csv(read, chosen), end="")
    elif json_:
        _print(front_json(read, chosen), json_=True)
    else:
        _print(front_rows(read, chosen), json_=False)
        note = front_note(read, chosen)
        if note:
            _say(note)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs.")],
    objectives: Annotated[
        str | None, typer.Option(help="Metrics that all runs stored, separated by commas.")
    ] = None,
    tested: Annotated[
        bool, typer.Option("--tested", help="By the test split's figures of confirmed points.")
    ] = False,
    json_: Json = False,
) -> None:
    """Compare the fronts of several runs of one task."""
    from .reports.compare import compare as beside
    from .reports.compare import note, rows
    from .search.run import read_run

    chosen = objectives.split(",") if objectives else None
    found = beside([read_run(run) for run in runs], chosen, tested=tested)
    _print(found if json_ else rows(found), json_)
    if not json_:
        _say(note(found))


@app.command()
def select(
    run: RunFolder,
    where: Annotated[
        list[str] | None,
        typer.Option(help="A limit beside the study's: 'model_bytes <= 40 MB'."),
    ] = None,
    prefer: Annotated[str | None, typer.Option(help="The metric to be best at.")] = None,
    json_: Json = False,
) -> None:
    """Pick the best point under other limits, without a new trial, and say why."""
    from .reports.tables import selection_json
    from .search.run import read_run
    from .search.select import select as choose

    read = read_run(run)
    chosen = choose(read, where or [], prefer)
    if json_:
        _print(selection_json(read, chosen), json_=True)
    else:
        _say(chosen.sentence, file=sys.stdout)


@app.command()
def interactions(
    run: RunFolder,
    metric: Annotated[
        str | None, typer.Option(help="Any metric that was stored; default: the first objective.")
    ] = None,
    json_: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the pairs as CSV.")] = False,
) -> None:
    """Say which choices help or fight each other, where all else is equal."""
    from .reports.interactions import interactions_csv, interactions_in_words, interactions_json
    from .search.run import read_run

    read = read_run(run)
    chosen = metric or read.objectives[0].name
    if csv:
        print(interactions_csv(read, chosen), end="")
    else:
        _print((interactions_json if json_ else interactions_in_words)(read, chosen), json_)


@app.command()
def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
) -> None:
    """Write the page on which a person decides."""
    from .reports.page import write_page
    from .search.run import read_run

    path = out or run / "report.html"
    write_page(read_run(run), path)
    _say(f"wrote {path}")


@app.command()
def export(
    run: RunFolder,
    trial: Annotated[str, typer.Argument(help="A trial's number, or `recommended`.")],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="hf, onnx, ...; default: what the trial ran on.")
    ] = None,
    json_: Json = False,
) -> None:
    """Write a trial's artifact, reload it in a fresh process and measure it again."""
    from .reports.export import export_trial

    _print(export_trial(run, trial, to, format_), json_)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported folder.")],
    json_: Json = False,
) -> None:
    """Prove again that an exported folder is what its description claims."""
    from .reports.export import verify_export

    _print(verify_export(folder), json_)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id or folder.")],
    task: Annotated[str, typer.Option(help="What it is for.")],
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Measure one model as it is, without a search."""
    from .search.single import evaluate_model

    _print(evaluate_model(model, task, sets or []), json_)


@app.command()
def estimate(
    model: Annotated[str, typer.Argument(help="config.json, hub id or folder.")],
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Say what a model costs, on paper."""
    from .search.estimate import estimate_model

    _print(estimate_model(model, sets or []), json_)


@app.command()
def spaces(json_: Json = False) -> None:
    """List every technique, its knobs and what it moves."""
    from .reports.catalogues import technique_rows, techniques_in_short

    _print(technique_rows() if json_ else techniques_in_short(), json_)


@app.command()
def metrics(json_: Json = False) -> None:
    """List every metric, its unit and where it comes from."""
    from .reports.catalogues import metric_rows, metrics_in_short

    _print(metric_rows() if json_ else metrics_in_short(), json_)


@app.command()
def devices(json_: Json = False) -> None:
    """List the hardware and the grid regions that figures are computed with."""
    from .reports.catalogues import device_rows, devices_in_short

    _print(device_rows() if json_ else devices_in_short(), json_)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove every stage.")] = False,
    json_: Json = False,
) -> None:
    """Show the shared stages, or clear them."""
    from .search.stages import StageStore, cache_root

    store = StageStore(cache_root())
    if clear:
        gone = store.evict(limit_bytes=0)
        _print({"folder": str(store.root), "removed": len(gone)}, json_)
        return
    rows = [{"key": n.key, "step": n.step, "bytes": n.bytes} for n in store.entries()]
    _print({"folder": str(store.root), "stages": len(rows), "entries": rows}, json_)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the study file."""
    from .search.study import json_schema

    _print(json_schema(), json_=True)


def _report(done: Mapping[str, Any], folder: Path, json_: bool, quiet: bool) -> None:
    from .reports.page import write_page
    from .search.doubts import nothing_learnt
    from .search.front import front_of
    from .search.run import read_run
    from .search.select import recommendation

    read = read_run(folder)
    write_page(read, folder / "report.html")
    chosen, _ = recommendation(read)
    found = {"front": len(front_of(read).records), "recommended": chosen.number if chosen else None}
    _print({**done, **found, "report": str(folder / "report.html")}, json_)
    if warning := nothing_learnt(read.baseline):
        _say(f"warning: {warning}")
    if done["under_way"]:
        numbers = ", ".join(map(str, done["under_way"]))
        _say(f"stopped at once; `paretune resume {folder}` makes trial {numbers} again")
        raise typer.Exit(INTERRUPTED)
    if not (quiet or json_):
        _say(
            f"the front: paretune front {folder}\n"
            f"a model:   paretune export {folder} recommended --to DIR\n"
            f"go on:     paretune resume {folder} --trials N or --minutes N (totals)"
        )


def _print(value: Any, json_: bool) -> None:
    if json_:
        json.dump(value, sys.stdout, indent=2, allow_nan=False)
        print()
        return
    from .reports.text import render

    wide = sys.stdout.isatty()
    print(render(value, shutil.get_terminal_size((WIDTH, 24)).columns if wide else WIDTH))


def _say(text: str, *, file: Any = None) -> None:
    print(text, file=file or sys.stderr)
