"""The command `mailtriage`: each command reads files, calls the core, and says what it did."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from mailtriage import __version__
from mailtriage.errors import ConfigError, DataError, MailtriageError

if TYPE_CHECKING:
    from mailtriage.cleaning import Cleaned
    from mailtriage.config import TrainingConfig
    from mailtriage.examples import Example
    from mailtriage.mail import Email
    from mailtriage.splitting import Split
    from mailtriage.taxonomy import Taxonomy

app = typer.Typer(
    help="Sorts customer e-mail: cleans it, gives it three labels, and decides who looks at it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
taxonomy_app = typer.Typer(help="Work with a taxonomy.", no_args_is_help=True)
bundle_app = typer.Typer(help="Work with a bundle.", no_args_is_help=True)
app.add_typer(taxonomy_app, name="taxonomy")
app.add_typer(bundle_app, name="bundle")
registry_app = typer.Typer(help="Work with the model registry (MLflow).", no_args_is_help=True)
app.add_typer(registry_app, name="registry")
console = Console(stderr=True, highlight=False)

ExistingFile = Annotated[Path, typer.Argument(exists=True, readable=True)]


def main() -> None:
    """Run the command; our own errors end it with one line and exit code 1."""
    try:
        app()
    except MailtriageError as error:
        console.print(f"[red]error:[/] {type(error).__name__}: ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)


def say(line: str) -> None:
    """A line of progress, on standard error."""
    console.print(line, markup=False, soft_wrap=True)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def sample(
    rows: Annotated[int, typer.Option(min=1, help="How many mails.")],
    output: Annotated[Path, typer.Option(help="JSONL file to write.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same mails.")] = 1,
) -> None:
    """Write synthetic mails of a brokerage's clients, with labels."""
    from mailtriage.sample import write_sample

    write_sample(rows, seed, output)
    say(f"wrote {rows:,} synthetic mails to {output}")


@taxonomy_app.command("check")
def check_taxonomy(file: Path) -> None:
    """Read a taxonomy, say what is in it, or what contradicts itself."""
    from mailtriage.taxonomy import Taxonomy

    taxonomy = Taxonomy.load(file)
    labels = ", ".join(f"{len(task.labels)} of {task.id}" for task in taxonomy.tasks)
    combinations = "all combinations" if taxonomy.combinations is None else f"{len(taxonomy.combinations)} combinations"
    print(f"{file} is sound: version {taxonomy.version}; labels: {labels}; {combinations} valid")


@taxonomy_app.command("diff")
def diff_taxonomies(old: Path, new: Path) -> None:
    """Say what changed from one taxonomy to the next, by what its `history` says."""
    from mailtriage.migration import Migration, describe
    from mailtriage.taxonomy import Taxonomy

    for line in describe(Migration.between(Taxonomy.load(old), Taxonomy.load(new))):
        print(line)


@taxonomy_app.command("migrate")
def migrate_labels(
    old: Path, new: Path, data: ExistingFile, output: Annotated[Path, typer.Option(help="JSONL file to write.")]
) -> None:
    """Move the labels of mails from one taxonomy to the next; a label that was split or retired becomes missing."""
    from mailtriage.ingestion import read_labelled
    from mailtriage.migration import Migration, Moved, migrate
    from mailtriage.readers import Rejected, write_rejected
    from mailtriage.taxonomy import Taxonomy

    migration = Migration.between(Taxonomy.load(old), Taxonomy.load(new))
    rejected: list[Rejected] = []

    def usable() -> Iterator[Any]:
        for row in read_labelled(data, migration.old):
            if isinstance(row, Rejected):
                rejected.append(row)
            else:
                yield row

    counts = Moved()
    _write_rows(output, (mail.to_record() for mail in migrate(usable(), migration, counts)))
    for task in migration.new.task_ids:
        print(
            f"{task:20} {counts.kept[task]:,} kept, {counts.moved[task]:,} moved, now without a label: "
            f"{counts.split[task]:,} split, {counts.retired[task]:,} retired"
        )
    if rejected:
        quarantine = output.with_suffix(".quarantine.jsonl")
        write_rejected(quarantine, rejected)
        say(f"{len(rejected):,} rows cannot be used; their reasons are in {quarantine}")
    say(f"wrote {counts.mails:,} mails to {output}; {counts.invalid_combinations:,} have no valid combination")


@app.command()
def explore(
    data: Annotated[Path, typer.Argument(exists=True, help="A file or folder of labelled mails.")],
    output: Annotated[Path, typer.Option(help="Folder for the page.")],
    config: Annotated[Path, typer.Option(help="Training configuration: its taxonomy, split and seed.")] = Path(
        "configs/demo.yaml"
    ),
) -> None:
    """Look at labelled mails before training: explore.html, and suspicious_labels.csv with labels probably wrong."""
    from mailtriage.config import load_config
    from mailtriage.exploration import SUSPICIOUS
    from mailtriage.exploration import explore as explore_examples
    from mailtriage.splitting import split
    from mailtriage.taxonomy import Taxonomy

    settings = load_config(config)
    taxonomy = Taxonomy.load(settings.taxonomy)
    examples = _labelled_examples(taxonomy, data, output)
    parts = split(examples, seed=settings.seed, method=settings.split)
    figures = explore_examples(examples, taxonomy, parts, output, say)
    for task, count in figures["suspicious"].items():
        print(f"{task:20} {count:,} of {figures['mails'] - figures['missing'][task]:,} labels are probably wrong")
    say(f"look at {output / 'explore.html'} and {SUSPICIOUS}")


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="Training configuration, YAML.")],
    data: Annotated[Path, typer.Option(help="A file or folder of labelled mails.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle to write.")],
    warm_start: Annotated[str | None, typer.Option(help="Start from this bundle; as in the configuration.")] = None,
) -> None:
    """Clean, split and train; write a bundle. A stopped run goes on when it is started again."""
    from mailtriage.config import load_config
    from mailtriage.taxonomy import Taxonomy
    from mailtriage.training import train as train_bundle

    settings = load_config(config)
    if warm_start:
        settings = settings.model_copy(update={"warm_start": warm_start})
    taxonomy = Taxonomy.load(settings.taxonomy)
    parts = _split_mails(settings, taxonomy, data, output)
    result = train_bundle(settings, taxonomy, parts.train, parts.validation, output, say)
    say(f"validation macro-F1 {result.validation_macro_f1:.3f}; the bundle is in {output}")


@app.command()
def tune(
    config: ExistingFile,
    space: Annotated[Path, typer.Argument(exists=True, help="YAML: setting -> choice, uniform or loguniform.")],
    data: Annotated[Path, typer.Option(help="A file or folder of labelled mails.")],
    output: Annotated[Path, typer.Option(help="Folder for bundle, best.yaml and trials.csv.")],
    trials: Annotated[int, typer.Option(min=1, help="How many draws from the space.")] = 16,
) -> None:
    """Search for settings (Ray Tune, ASHA), each trial in MLflow; train the best. A stopped search goes on."""
    from mailtriage.config import load_config
    from mailtriage.search import parse_space, search
    from mailtriage.taxonomy import Taxonomy

    settings = load_config(config)
    ranges = parse_space(space.read_text(encoding="utf-8"), settings, str(space))
    taxonomy = Taxonomy.load(settings.taxonomy)
    parts = _split_mails(settings, taxonomy, data, output)
    result = search(settings, ranges, taxonomy, parts.train, parts.validation, output, trials=trials, say=say)
    say(f"validation macro-F1 {result.validation_macro_f1:.3f}; the bundle is {output / 'bundle'}")


def _split_mails(config: TrainingConfig, taxonomy: Taxonomy, data: Path, output: Path) -> Split:
    from mailtriage.splitting import split

    return split(_labelled_examples(taxonomy, data, output), seed=config.seed, method=config.split)


def _labelled_examples(taxonomy: Taxonomy, data: Path, output: Path) -> list[Example]:
    """Read labelled mails, put those that cannot be used beside `output`, and clean the others."""
    from mailtriage.examples import Example
    from mailtriage.ingestion import read_labelled
    from mailtriage.readers import Rejected, write_rejected

    rows = list(read_labelled(data, taxonomy))
    rejected = [row for row in rows if isinstance(row, Rejected)]
    if rejected:
        quarantine = output.with_name(output.name + ".quarantine.jsonl")
        quarantine.parent.mkdir(parents=True, exist_ok=True)
        write_rejected(quarantine, rejected)
        say(f"{len(rejected):,} rows cannot be used; their reasons are in {quarantine}")
    return [Example.from_email(mail, len(rows)) for mail in rows if not isinstance(mail, Rejected)]


@app.command()
def evaluate(
    bundle: Path,
    data: Annotated[Path, typer.Argument(exists=True, help="A file or folder of labelled mails.")],
    output: Annotated[Path, typer.Option(help="Folder for the report.")],
    champion: Annotated[Path | None, typer.Option(help="A bundle to compare with; flips.csv has what changes.")] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="NAME=BUNDLE", help="One more row beside the model's; may be repeated.")
    ] = None,
) -> None:
    """Measure a bundle on labelled mails: metrics.json, report.html and pictures.

    Of the mails that the bundle was trained on, those are taken that its split left for the test.
    """
    from mailtriage.bundle import Bundle
    from mailtriage.evaluation import evaluate as evaluate_bundle
    from mailtriage.seen import training_split
    from mailtriage.splitting import Split

    others = _named_bundles(against or [])
    opened = Bundle.open(bundle)
    examples = _labelled_examples(opened.taxonomy, data, output)
    parts = training_split(opened, examples)
    if parts is None:
        parts = Split([], [], examples, groups=0)
    else:
        say(f"the bundle was trained on these mails: measuring on the {len(parts.test):,} that were left for the test")
    metrics = evaluate_bundle(
        bundle,
        parts.test,
        output,
        baseline_train=parts.train,
        validation=parts.validation,
        champion_path=champion,
        against=others,
    )
    if metrics["overall"]["mails_seen"]:
        say(f"the model has seen {metrics['overall']['mails_seen']:,} of {len(parts.test):,} mails: no test of it")
    for task in opened.taxonomy.task_ids:
        scores = metrics[task]
        print(f"{task:20} accuracy {scores['accuracy']:.3f}  macro-F1 {scores['macro_f1']:.3f}")
    say(f"the report is {output / 'report.html'}")


def _named_bundles(options: list[str]) -> dict[str, Path]:
    """`NAME=BUNDLE` options as a mapping, in their order."""
    found: dict[str, Path] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not (name and equals and path) or name in found:
            raise ConfigError(f"expected --against NAME=BUNDLE with a name of its own, found '{option}'")
        found[name] = Path(path)
    return found


@app.command()
def clean(
    mails: Annotated[Path, typer.Argument(exists=True, help="A file or folder of raw mails.")],
    output: Annotated[Path | None, typer.Argument(help="JSONL file to write.")] = None,
    quarantine: Annotated[Path | None, typer.Option(help="JSONL file for rows that cannot be read.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print each mail with what was cut struck out.")] = False,
    html: Annotated[Path | None, typer.Option(help="With --show: write a page of HTML instead of printing.")] = None,
    mail_id: Annotated[str | None, typer.Option("--id", help="With --show: only the mail with this id.")] = None,
    diff: Annotated[
        Path | None,
        typer.Option(help="A bundle: print what cleaning makes of its training mails now and did not then."),
    ] = None,
) -> None:
    """Cut mails down to what the client wrote now, and say what was removed."""
    if (html is not None or mail_id is not None) and not show:
        raise ConfigError("--html and --id say what --show does: give --show, too")
    if show:
        _show_mails(mails, html, mail_id)
    if diff is not None:
        _show_changes(diff, mails)
    if output is not None:
        _clean_file(mails, output, quarantine)
    elif not show and diff is None:
        raise ConfigError("name a JSONL file to write, or --show or --diff to look")


def _clean_file(mails: Path, output: Path, quarantine: Path | None) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from mailtriage.bulk_cleaning import clean_file

    columns = BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]:,} mails"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, rows=0)
        counts = clean_file(
            mails, output, quarantine, progress=lambda rows, share: bar.update(task, completed=share, rows=rows)
        )
    say(f"wrote {counts.mails:,} cleaned mails to {output}; {counts.rejected:,} rows could not be read")


def _show_mails(path: Path, html: Path | None, mail_id: str | None) -> None:
    from mailtriage.cleaning_view import html_page, terminal_view

    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        with html.open("w", encoding="utf-8") as file:
            file.writelines(html_page(_cleaned_mails(path, mail_id)))
        say(f"wrote {html}")
        return
    page = Console(highlight=False)
    for mail, cleaned in _cleaned_mails(path, mail_id):
        page.rule(Text(f"{mail.id}: {cleaned.subject}"), align="left")
        page.print(terminal_view(mail.body, cleaned, notes=mail.notes))


def _show_changes(bundle: Path, mails: Path) -> None:
    from mailtriage.cleaning_diff import Comparison, diff_view, summary

    page = Console(highlight=False)
    comparison = Comparison.with_bundle(bundle)
    for change in comparison.changes(mails):
        page.rule(Text(change.mail.id), align="left")
        page.print(diff_view(change))
    for line in summary(comparison):
        page.print(line, markup=False, soft_wrap=True)


def _cleaned_mails(path: Path, mail_id: str | None) -> Iterator[tuple[Email, Cleaned]]:
    from mailtriage.cleaning import clean as clean_body
    from mailtriage.readers import Rejected, read_mails

    found = False
    for mail in read_mails(path):
        if isinstance(mail, Rejected):
            say(f"row {mail.row} of {mail.source}: {mail.reason}")
        elif mail_id is None or mail.id == mail_id:
            found = True
            yield mail, clean_body(mail.body, mail.subject)
    if not found:
        wanted = "a mail" if mail_id is None else f"the mail '{mail_id}'"
        raise DataError(f"expected {wanted} in {path}, found none")


@app.command()
def predict(bundle: Path, mails: ExistingFile, output: Path) -> None:
    """Label mails with a bundle; write one JSON answer a mail, in order, as the REST route gives."""
    from mailtriage.bundle import Bundle
    from mailtriage.engines import OnnxEngine
    from mailtriage.inference import Triage
    from mailtriage.inference import predict as predict_mails
    from mailtriage.readers import Rejected, read_mails

    opened = Bundle.open(bundle)
    triage, engine = Triage.from_bundle(opened), OnnxEngine(opened)

    def answers() -> Iterator[dict[str, Any]]:
        for batch in _batches(read_mails(mails), 256):
            usable = [mail for mail in batch if not isinstance(mail, Rejected)]
            predictions = iter(predict_mails(triage, engine, usable))
            for mail in batch:
                yield _error(mail) if isinstance(mail, Rejected) else next(predictions).to_record()

    say(f"wrote {_write_rows(output, answers()):,} answers to {output}")


@bundle_app.command("verify")
def verify_bundle(bundle: Path) -> None:
    """Check a bundle's files, checksums and versions."""
    from mailtriage.bundle import Bundle

    opened = Bundle.open(bundle)
    print(f"{bundle} is whole: model {opened.model_version}, taxonomy {opened.taxonomy.version}, {opened.digest[:12]}")


@registry_app.command("approve")
def approve(
    model_version: Annotated[str, typer.Argument(help="The version to serve, such as 3.")],
    by: Annotated[str, typer.Option(help="Who approves it; goes into the registry.")],
    name: Annotated[str, typer.Option(help="Name of the model.")] = "mailtriage",
) -> None:
    """Make a version the champion: the one that serving fetches."""
    from mailtriage import registry

    registry.approve(model_version, by, name)
    say(f"version {model_version} of '{name}' is the champion, approved by {by}")


@registry_app.command("fetch")
def fetch(
    output: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    model: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION.")] = "mailtriage@champion",
) -> None:
    """Download a version as a bundle, and check it."""
    from mailtriage import registry

    say(f"version {registry.fetch(model, output).model_version} of {model} is in {output}")


def _error(rejected: Any) -> dict[str, Any]:
    """An unusable row in its place, as the REST route answers it."""
    return {"row": rejected.row, "error": {"code": rejected.code, "message": rejected.reason}}


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


if __name__ == "__main__":
    main()
