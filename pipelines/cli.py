"""The command line: `domain-gap run` and its sisters.

Belongs here: arguments, what is printed, exit codes. Does not: the loop (`rerun.py`), what stages do.
Exit codes: 0 done; 1 a failed stage or check, or a gap above the alert thresholds; 2 bad usage or config.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.completion import complete_target

if TYPE_CHECKING:
    import polars as pl

    from assets.report.document import ReportDocument
    from pipelines.rerun import Outcome, Rerun
    from resources.config import GapConfig
    from resources.sample_store import SampleStore

app = typer.Typer(
    help="Finds, measures, explains and closes the domain gap between two street-scene data sets.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=True, rich_markup_mode=None,
)  # fmt: skip

ConfigOption = Annotated[Path | None, typer.Option("-c", "--config", help="The gap.yaml to use.", show_default=False)]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Folder or URL of tables and reports.", show_default=False)
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option("--target", help="Only this target.", show_default=False, autocompletion=complete_target),
]
NoUserCode = Annotated[
    bool, typer.Option("--no-user-code", help="Refuse a config that names code; GAP_USER_CODE=0 does the same.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what is wrong.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

FAILED, BAD_USAGE = 1, 2


def main() -> None:
    """Entry point: errors meant for the user are one line on standard error."""
    from resources.errors import ConfigError, DatasetError, DomainGapError, ModelError, printable

    _prepare_environment()
    try:
        app()
    except DomainGapError as error:
        typer.echo(f"domain-gap: {printable(str(error))}", err=True)
        sys.exit(BAD_USAGE if isinstance(error, ConfigError | DatasetError | ModelError) else FAILED)


@app.command()
def demo(store: StoreOption = None, quiet: QuietOption = False, as_json: JsonOption = False) -> None:
    """Run the main job on the built-in street scenes: one source, three targets."""
    from resources.config import DEMO_CONFIG

    _run_and_tell(DEMO_CONFIG, store, None, quiet=quiet, as_json=as_json)


@app.command()
def run(
    config: ConfigOption = None, store: StoreOption = None, target: TargetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and why.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Run every stage, changed or not.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file anew.")] = False,
    no_user_code: NoUserCode = False, quiet: QuietOption = False, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Observe the folders and rerun what changed, level by level."""
    from resources.config import find_config

    _switch_off_user_code(no_user_code)
    options = {"everything": everything, "verify": verify, "quiet": quiet, "as_json": as_json}
    if dry_run:
        _tell_statuses(find_config(config), store, target, only_stale=True, quiet=quiet, as_json=as_json)
    else:
        _run_and_tell(find_config(config), store, target, **options)


@app.command()
def status(
    config: ConfigOption = None, store: StoreOption = None, target: TargetOption = None,
    no_user_code: NoUserCode = False, quiet: QuietOption = False, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Every asset: fresh, or stale and why (--quiet: the stale ones)."""
    from resources.config import find_config

    _switch_off_user_code(no_user_code)
    _tell_statuses(find_config(config), store, target, only_stale=False, quiet=quiet, as_json=as_json)


@app.command()
def report(
    config: ConfigOption = None, store: StoreOption = None, target: TargetOption = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
    no_user_code: NoUserCode = False,
) -> None:  # fmt: skip
    """Where the reports lie and what they say."""
    from resources.config import find_config

    _switch_off_user_code(no_user_code)
    settings, tables, _ = _load(find_config(config), store)
    for name in _targets(settings, target):
        if as_json and tables.exists("reports", name, "report.json"):
            typer.echo(tables.read("reports", name, "report.json").decode())
        else:
            _print_report(tables, name)
        if open_page:
            typer.launch(str(tables.local_copy("reports", name) / "report.html"))


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="'samples' of one target, or 'slice-tests' of all.")] = "samples",
    config: ConfigOption = None, store: StoreOption = None, target: TargetOption = None,
    select: Annotated[str, typer.Option(help="worst, next, suspects, all, slice:<name>, or a file of ids.")] = "next",
    kind: Annotated[str, typer.Option("--format", help="csv, coco or fiftyone.")] = "csv",
    out: Annotated[Path | None, typer.Option("--out", help="A new folder (slice-tests: a file).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="No more than the first ones.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the pictures, too.")] = False,
    predictions: Annotated[bool, typer.Option("--predictions", help="With the model's predictions.")] = False,
) -> None:  # fmt: skip
    """Write chosen samples as CSV, COCO or FiftyOne, or freeze the slices as tests that run every night."""
    from assets.report.export import FORMATS
    from resources.config import find_config
    from resources.errors import ConfigError

    path = find_config(config)
    settings, tables, _ = _load(path, store)
    names = _targets(settings, target)
    if what == "slice-tests":
        _freeze_slices(tables, names, out or path.resolve().parent / "slice_tests.json")
    elif what != "samples":
        raise ConfigError(f"export {what}: expected 'samples' or 'slice-tests'")
    elif kind not in FORMATS:
        raise ConfigError(f"--format {kind}: expected {', '.join(FORMATS)}")
    elif len(names) != 1 or out is None:
        raise ConfigError("export: expected one --target and --out, a new folder")
    else:
        _export_samples(settings, tables, names[0], select, limit, kind, out, copy=copy, predictions=predictions)


@app.command()
def compare(
    config: ConfigOption = None, store: StoreOption = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:  # fmt: skip
    """All targets side by side, and what changed since the check before."""
    from assets.report.nights_page import INDEX, write_nights_pages
    from resources.config import find_config
    from resources.errors import printable

    settings, tables, _ = _load(find_config(config), store)
    for row in write_nights_pages(settings, tables):
        typer.echo(f"{row.key}: {row.figures.headline if row.figures is not None else 'no report yet'}")
        for text in row.changes:
            typer.echo(f"  {printable(text)}")
    page = tables.place(*INDEX)
    typer.echo(page)
    if open_page:
        typer.launch(page)


@app.command()
def alert(
    config: ConfigOption = None, store: StoreOption = None,
    test: Annotated[bool, typer.Option("--test", help="Send a test alert to every address instead.")] = False,
) -> None:  # fmt: skip
    """Hold the rules of the config's alerts against what is in the store, and send what is due; runs nothing."""
    from pipelines.notify import send_test
    from resources.config import find_config

    settings, tables, _ = _load(find_config(config), store)
    if test:
        sent = send_test(settings, tables)
        typer.echo(f"test alert sent to {len(sent)} of {len(settings.alerts.notify)} addresses")
        if len(sent) < len(settings.alerts.notify):
            failed = [str(number) for number in range(1, len(settings.alerts.notify) + 1) if number not in sent]
            typer.echo(f"refused: entries {', '.join(failed)} of alerts.notify", err=True)
            raise typer.Exit(FAILED)
        return
    _tell_alerts(settings, tables)


@app.command()
def agreement(
    target: Annotated[str, typer.Option("--target", help="A target with labels.", show_default=False)],
    hidden: Annotated[str, typer.Option("--hidden", help="Its twin with use_labels: false.", show_default=False)],
    config: ConfigOption = None, store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:  # fmt: skip
    """What estimates are worth: a target's report against that of its twin with hidden labels."""
    import json

    from assets.report.agreement import agreement as compare
    from pipelines.console import print_agreement
    from resources.config import find_config

    settings, tables, _ = _load(find_config(config), store)
    _targets(settings, [target, hidden])
    documents, losses = zip(*(_reported(tables, name) for name in (target, hidden)), strict=True)
    found = compare(*documents, *losses)
    if as_json:
        typer.echo(json.dumps(found.as_values(), indent=1))
    else:
        print_agreement(found)


@app.command()
def check(
    config: ConfigOption = None, store: StoreOption = None, no_user_code: NoUserCode = False,
    quiet: QuietOption = False, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Look at config, data, labels and model, and say what to fix."""
    from pipelines.check import Diagnosis, diagnose
    from pipelines.console import print_finding
    from pipelines.definitions import allow_user_modules
    from resources.config import find_config

    _switch_off_user_code(no_user_code)
    settings, _, path = _load(find_config(config), store)
    allow_user_modules(path)
    found = Diagnosis()
    for finding in diagnose(settings):
        found.findings.append(finding)
        if not as_json and (finding.level == "wrong" or not quiet):
            print_finding(finding)
    then = f"domain-gap check{_with_config(config)}" if found.wrong else f"domain-gap run{_with_config(config)}"
    if as_json:
        _print_json(found.as_values(then))
    elif not quiet:
        count = len(found.wrong)
        typer.echo(f"mend {count} thing{'s' if count > 1 else ''}, then: {then}" if count else f"next: {then}")
    if found.wrong:
        raise typer.Exit(BAD_USAGE if found.refused else FAILED)


@app.command()
def init(
    source: Annotated[Path, typer.Argument(help="The source's folder: pictures and masks in any order.")],
    target: Annotated[Path, typer.Argument(help="The target's folder; masks are optional.")],
    output: Annotated[Path, typer.Option("--output", help="Where to write the config.")] = Path("gap.yaml"),
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="The weights of the model under test.", show_default=False)
    ] = None,
    quiet: QuietOption = False, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write a commented gap.yaml for two folders."""
    from pipelines.init import propose
    from resources.errors import ConfigError

    if output.exists():
        raise ConfigError(f"{output}: already there; move it away or give --output")
    if not output.resolve().parent.is_dir():
        raise ConfigError(f"{output}: no folder {output.resolve().parent} to write it into; make it first")
    if checkpoint is not None and not checkpoint.is_file():
        raise ConfigError(f"--checkpoint {checkpoint}: no such file")
    found = propose(source, target, output.resolve().parent, checkpoint)
    output.write_text(found.text, encoding="utf-8")
    then = f"domain-gap check{_with_config(output)}"
    if as_json:
        _print_json({"config": str(output), **found.summary(), "next": then})
    elif not quiet:
        lines = [f"{side.root}: {side.described()}" for side in (found.source, found.target)]
        typer.echo("\n".join([*lines, f"wrote {output}", *(f"  - {one}" for one in found.to_do), f"next: {then}"]))


@app.command()
def ui(
    config: ConfigOption = None, store: StoreOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000, no_user_code: NoUserCode = False,
) -> None:  # fmt: skip
    """Dagster's UI with its daemon, over the same store as the command line; the reports on the next port."""
    from assets.door import REPORTS
    from pipelines.home import dagster_home
    from pipelines.reports_server import start_beside
    from resources.config import find_config

    _switch_off_user_code(no_user_code)
    path = find_config(config).resolve()
    settings, tables, _ = _load(path, store)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home(tables)),
        "GAP_CONFIG": str(path),
        "GAP_STORE": settings.store,
        "PYTHONSAFEPATH": "1",  # a file in the working folder must not stand in for a package of Dagster's
    }
    address = start_beside(tables.local_copy("reports"), port + 1)
    if address is not None:
        environment[REPORTS] = address
    beside = f", reports on {address}" if address else ""
    typer.echo(f"Dagster on http://127.0.0.1:{port} in a moment{beside}; stop with Ctrl-C")
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "-m",
        "pipelines.definitions",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    os.execve(sys.executable, command, environment)  # noqa: S606


def _prepare_environment() -> None:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _switch_off_user_code(off: bool) -> None:
    """For this process and those that it starts; an environment that forbids code stays as it is."""
    from resources.config import USER_CODE

    if off:
        os.environ[USER_CODE] = "0"


def _load(path: Path, store: str | None) -> tuple[GapConfig, SampleStore, Path]:
    from resources.config import load_config
    from resources.sample_store import open_store

    settings = load_config(path, store=store)
    tables = open_store(settings)
    tables.check()
    return settings, tables, path


@contextmanager
def _loading() -> Iterator[None]:
    """Packages and definitions stay till the end: looking for garbage among them is a quarter of the time to load."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@_loading()
def _open(
    path: Path, store: str | None, target: list[str] | None, **options: Any
) -> tuple[Rerun, GapConfig, SampleStore]:
    import warnings

    import dagster as dg

    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    from pipelines.definitions import allow_user_modules, build_defs
    from pipelines.home import open_instance
    from pipelines.rerun import Rerun

    allow_user_modules(path)
    settings, tables, _ = _load(path, store)
    targets = _targets(settings, target) if target else None
    return Rerun(build_defs(settings), open_instance(tables), targets=targets, **options), settings, tables


def _targets(settings: GapConfig, wanted: Sequence[str] | None) -> list[str]:
    from resources.errors import ConfigError

    names = [target.name for target in settings.targets]
    for name in wanted or []:
        if name not in names:
            raise ConfigError(f"--target {name}: not in the config; targets are {', '.join(names)}")
    return list(wanted) if wanted else names


def _run_and_tell(
    path: Path, store: str | None, target: list[str] | None, *, everything: bool = False, verify: bool = False,
    quiet: bool = False, as_json: bool = False,
) -> None:  # fmt: skip
    import time

    from pipelines.console import live_progress, no_progress
    from pipelines.jobs import TARGET_TAG
    from pipelines.nights import check as check_targets

    started = time.monotonic()
    with no_progress() if quiet else live_progress() as listener:
        tags = {TARGET_TAG: ", ".join(target)} if target else {}
        loop, settings, tables = _open(path, store, target, listener=listener, tags=tags)
        _check_first(loop, settings)
        if verify:
            _forget_hashes(loop, tables)
        outcome = check_targets(loop, settings, targets=target, everything=everything)
    seconds, names = time.monotonic() - started, _targets(settings, target)
    if as_json:
        _print_json({**outcome.as_values(), "seconds": round(seconds, 1), "reports": [_told(tables, n) for n in names]})
    elif not quiet:
        rows = ", ".join(f"{count} {name}" for name, count in outcome.rows.items()) or "none"
        typer.echo(f"{outcome.summary()}; rows: {rows}; {seconds:.1f} s")
        for name in names:
            _print_report(tables, name)
    _exit(outcome)


def _with_config(path: Path | None) -> str:
    """The option that names a config, for the next command to type; nothing for the one that is found anyway."""
    import shlex

    return "" if path is None or path == Path("gap.yaml") else f" -c {shlex.quote(str(path))}"


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=1))


def _check_first(loop: Rerun, settings: GapConfig) -> None:
    """What makes the model's stage fail is a config error: found before anything runs, where it will run."""
    import dagster as dg

    from pipelines.check import fit_model

    statuses = loop.statuses()
    if statuses[dg.AssetKey(["source", "model"])].state != "fresh":
        fit_model(settings)


def _forget_hashes(loop: Rerun, tables: SampleStore) -> None:
    for key in {source.path[0] for source in loop.sources}:
        table = tables.table(key, "files")
        table.remove(table.keys()["sample_id"].to_list())


def _tell_statuses(
    path: Path, store: str | None, target: list[str] | None, *, only_stale: bool, quiet: bool, as_json: bool
) -> None:
    loop, _, _ = _open(path, store, target)
    loop.observe()
    statuses = list(loop.statuses().values())
    stale = [status for status in statuses if status.state != "fresh"]
    below = loop.below([status.key for status in stale]) - {status.key for status in stale} if stale else set()
    then = sorted("/".join(key.path) for key in below)
    if as_json:
        rows = [{"asset": "/".join(one.key.path), "state": one.state, "reasons": list(one.reasons)} for one in statuses]
        _print_json({"stale": len(stale), "assets": rows, "and_perhaps": then})
        return
    for status in stale if only_stale or quiet else statuses:
        why = "; ".join(status.reasons) or ("never made" if status.state == "missing" else "")
        typer.echo(f"{status.state:8} {'/'.join(status.key.path)}{f'  ({why})' if why else ''}")
    if quiet:
        return
    if not stale:
        typer.echo("nothing is stale")
    elif only_stale and then:
        typer.echo(f"and, where these come out changed: {', '.join(then)}")


def _told(tables: SampleStore, name: str) -> dict[str, Any]:
    """A target's headline and where its report lies; without a headline where there is none."""
    import json

    path = ("reports", name, "report.json")
    if not tables.exists(*path):
        return {"target": name, "headline": None, "report": None}
    headline = json.loads(tables.read(*path))["headline"]
    return {"target": name, "headline": headline, "report": tables.place("reports", name, "report.html")}


def _print_report(tables: SampleStore, name: str) -> None:
    told = _told(tables, name)
    if told["report"] is None:
        typer.echo(f"{name}: no report yet; run: domain-gap run --target {name}")
    else:
        typer.echo(f"{name}: {told['headline']}\n  {told['report']}")


def _tell_alerts(settings: GapConfig, tables: SampleStore) -> None:
    from assets.report.telling import tell_alerts
    from resources.clock import Clock
    from resources.errors import printable
    from resources.notifications import Notifier

    notifier, broken = Notifier(settings.alerts.addresses), 0
    for name in _targets(settings, None):
        found = tell_alerts(settings, tables, name, notifier, Clock().now())
        broken += len(found)
        typer.echo(f"{name}: {printable('; '.join(one.text for one in found)) or 'no rule is broken'}")
    if broken:
        raise typer.Exit(FAILED)


def _export_samples(
    settings: GapConfig, tables: SampleStore, name: str, select: str, limit: int | None, kind: str, out: Path, *,
    copy: bool, predictions: bool,
) -> None:  # fmt: skip
    from assets.report.export import export_samples, new_folder
    from assets.report.selection import read_samples, select_samples
    from resources.datasets import open_reader

    rows = select_samples(tables, name, select, limit)
    reader = open_reader(settings, settings.dataset(name))
    samples = read_samples(tables, name, rows, reader, predictions=predictions)
    count = export_samples(rows, samples, settings.class_names, new_folder(out), kind, copy=copy)
    typer.echo(f"{name}: {count} samples in {out}")


def _freeze_slices(tables: SampleStore, names: list[str], out: Path) -> None:
    from assets.diagnosis.frozen_slices import frozen_text
    from resources.errors import ConfigError

    if out.exists():
        raise ConfigError(f"--out {out}: already there; its thresholds may be yours, so move it away first")
    found = {name: tables.read_json("reports", name, "slice_tests.json")["tests"] for name in names}
    out.write_text(frozen_text(found), encoding="utf-8")
    counts = ", ".join(f"{len(tests)} of {name}" for name, tests in found.items())
    typer.echo(f"wrote {out} (tests: {counts}); to run them every night, add to the config:")
    typer.echo(f"checks: {{slice_tests: {out}}}")


def _reported(tables: SampleStore, name: str) -> tuple[ReportDocument, pl.DataFrame]:
    """A target's report, and its pictures' losses."""
    from assets.diagnosis.gather import read_sides
    from assets.report.document import ReportDocument
    from resources.errors import ConfigError

    path = ("reports", name, "report.json")
    if not tables.exists(*path):
        raise ConfigError(f"{name}: no report yet; run: domain-gap run --target {name}")
    losses = read_sides(tables, name).target.select("sample_id", "loss")
    return ReportDocument.model_validate_json(tables.read(*path)), losses


def _exit(outcome: Outcome) -> None:
    from resources.errors import printable

    for key, why in {**outcome.failed, **outcome.blocked}.items():
        typer.echo(f"not made: {'/'.join(key.path)}: {printable(why)}", err=True)
    for name, detail in outcome.failed_checks.items():
        typer.echo(f"check failed: {name}: {printable(detail)}", err=True)
    if outcome.failed or outcome.blocked or outcome.failed_checks:
        raise typer.Exit(FAILED)
