"""Search for settings with Ray Tune: a declared space, bad trials stopped early (ASHA), each trial in MLflow.

A search that was stopped goes on when it is started again with the same configuration, space and mails. ASHA is that of
Li et al. 2020, arXiv:1810.05934: after 1, 3, 9, ... epochs the best third of the trials goes on.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mailtriage import tracking
from mailtriage.config import TrainingConfig
from mailtriage.errors import ConfigError, MailtriageError, nearest
from mailtriage.examples import Example, data_hash
from mailtriage.taxonomy import Taxonomy

if typing.TYPE_CHECKING:
    from mailtriage.fitting import Say, TrainingState
    from mailtriage.training import TrainingResult

KINDS = ("choice", "uniform", "loguniform")
SCORE = "macro_f1"
KEPT_SHARE = 3  # one of so many trials goes on
# What changes no model, or what the mails are: nothing to choose by validation.
FIXED = frozenset(
    "taxonomy name split route_precision route_confidence route_promise route_by mails_a_day export_tolerance "
    "workers worker_cpus gpus storage".split()
)


@dataclass(frozen=True)
class Range:
    """Where one setting is drawn from: one of `values` (`choice`), or between two (`uniform`, `loguniform`)."""

    kind: str
    values: tuple[Any, ...]


Space = dict[str, Range]


def parse_space(text: str, config: TrainingConfig, source: str = "the space") -> Space:
    """Read a space: YAML that maps a setting to `{choice: [...]}`, `{uniform: [low, high]}` or `{loguniform: ...}`.

    Raises:
        ConfigError: a setting or value that a configuration does not allow; names it, and the nearest known setting.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is no YAML: {error}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"expected {source} to map settings to ranges, found {type(content).__name__}")
    searchable = [name for name in TrainingConfig.model_fields if name not in FIXED]
    for name in content:
        if name in FIXED:
            raise ConfigError(f"{source} cannot search over '{name}': set it in the configuration")
        if name not in searchable:
            raise ConfigError(f"{source} has an unknown setting '{name}'{nearest(str(name), searchable)}")
    return {name: _parse_range(name, value, config, source) for name, value in content.items()}


def _parse_range(name: str, value: Any, config: TrainingConfig, source: str) -> Range:
    if not isinstance(value, dict) or len(value) != 1:
        raise ConfigError(f"expected '{name}' in {source} to be one of {', '.join(KINDS)}, found {value!r}")
    ((kind, values),) = value.items()
    if kind not in KINDS:
        raise ConfigError(f"{source}: '{name}' has an unknown range '{kind}'{nearest(str(kind), KINDS)}")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{source}: expected a list of values for '{name}', found {values!r}")
    if kind != "choice":
        numbers = len(values) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if not numbers or not (0 if kind == "loguniform" else -float("inf")) < values[0] < values[1]:
            raise ConfigError(f"{source}: expected '{name}' to be {kind} between two rising numbers, found {values}")
    for each in values:
        TrainingConfig.build(config.model_dump() | {name: each}, f"{source}, '{name}'")
    return Range(kind, tuple(values))


def search(
    config: TrainingConfig,
    space: Space,
    taxonomy: Taxonomy,
    train: Sequence[Example],
    validation: Sequence[Example],
    output: Path,
    *,
    trials: int,
    taxonomy_text: str | None = None,
    mlflow_folder: Path = tracking.DEFAULT_FOLDER,
    say: Say = lambda _line: None,
) -> TrainingResult:
    """Try `trials` draws from `space` and train the best one into the bundle `output/bundle`.

    Also writes `best.yaml`, a configuration, and `trials.csv`, the best trial first; trials that failed are not in it.
    A trial takes `config.worker_cpus` cores, and a GPU if `config.gpus`; trials run side by side as far as these last.

    Raises:
        ConfigError: no trial ended well; says why the first one failed.
        DataError, EncoderError, ExportError: as `training.train`.
    """
    from mailtriage.ray_training import connected, messages
    from mailtriage.training import train as train_bundle

    text = taxonomy_text if taxonomy_text is not None else Path(config.taxonomy).read_text(encoding="utf-8")
    output.mkdir(parents=True, exist_ok=True)
    name = f"search-{_digest(config, space, trials, text, train, validation)}"
    runs = _Runs(name, config, space, mlflow_folder)

    def hear(message: Mapping[str, Any]) -> None:
        runs.write(**message)
        for last in message["history"][-1:]:
            say(f"trial {message['trial']}  epoch {last['epoch']}  validation macro-F1 {last['macro_f1']:.3f}")

    with connected(), messages(hear) as send:
        shared = {"config": config.model_dump(), "taxonomy": text, "train": train, "validation": validation}
        tuner = _tuner(config, space, trials, {**shared, "send": send}, config.storage or str(output.resolve()), name)
        grid = tuner.fit()
    failed = {result.metrics["trial_id"]: _reason(result.error) for result in grid if result.error}
    for result in grid:
        runs.write(result.metrics["trial_id"], result.config or {}, result.metrics.get("history", ()))
        if result.error:
            trial = result.metrics["trial_id"]
            say(f"trial {trial} failed: {failed[trial]}; {result.path}/error.txt says where")
    runs.end(failed)
    results = sorted((r for r in grid if not r.error and SCORE in r.metrics), key=lambda r: -r.metrics[SCORE])
    if not results:
        first = next(iter(failed.values()), "no trial ran")
        raise ConfigError(f"expected a trial that ends well, found none of {trials}: {first}")
    _write_table(output / "trials.csv", results)
    best = TrainingConfig.build(config.model_dump() | results[0].config)
    changed = {key: value for key, value in best.model_dump(mode="json").items() if _is_set(key, value)}
    (output / "best.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    said = f", {len(failed)} more failed" if failed else ""
    say(f"best of {len(results)} trials{said}: {results[0].metrics['trial']}, macro-F1 {results[0].metrics[SCORE]:.3f}")
    return train_bundle(best, taxonomy, train, validation, output / "bundle", say, taxonomy_text=text)


def _reason(error: BaseException) -> str:
    """Why a trial failed: our own errors hold no text of a mail; of others, which may, only the kind."""
    cause = getattr(error, "cause", None) or error
    name = type(cause).__name__
    return f"{name}: {cause}" if isinstance(cause, MailtriageError) else name


def _tuner(
    config: TrainingConfig, space: Space, trials: int, shared: Mapping[str, Any], storage: str, name: str
) -> Any:
    """A new search, or the one of that name that was stopped."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    resources = {"cpu": config.worker_cpus} | ({"gpu": 1} if config.gpus else {})
    trainable = tune.with_resources(tune.with_parameters(_try, shared=shared), resources)
    place = f"{storage.rstrip('/')}/{name}"
    drawn = {setting: _domain(setting, found) for setting, found in space.items()}
    if tune.Tuner.can_restore(place):
        return tune.Tuner.restore(place, trainable, resume_errored=True, param_space=drawn)
    longest = int(max(space["epochs"].values)) if "epochs" in space else config.epochs
    return tune.Tuner(
        trainable,
        param_space=drawn,
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=trials,
            reuse_actors=True,  # the next trial needs not import torch again
            search_alg=BasicVariantGenerator(random_state=config.seed),
            scheduler=ASHAScheduler(time_attr="epoch", max_t=longest, reduction_factor=KEPT_SHARE),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )


def _domain(name: str, found: Range) -> Any:
    from ray import tune

    if found.kind == "choice":
        return tune.choice(list(found.values))
    low, high = found.values
    annotation = TrainingConfig.model_fields[name].annotation
    if int in (annotation, *typing.get_args(annotation)):
        return (tune.randint if found.kind == "uniform" else tune.lograndint)(low, high + 1)
    return (tune.uniform if found.kind == "uniform" else tune.loguniform)(low, high)


def _try(settings: dict[str, Any], shared: Mapping[str, Any]) -> None:
    """One trial, in a process of Ray's: `fitting.fit`, with a checkpoint and a word to the driver after each epoch."""
    from ray import tune

    from mailtriage.fitting import TrainingState, Worker, fit, prepare

    config = TrainingConfig.build(shared["config"] | settings)
    fingerprint = json.dumps(settings, sort_keys=True)
    trial = tune.get_context().get_trial_id()
    device = "cuda" if config.gpus else "cpu"

    def report(state: TrainingState) -> None:
        history = [asdict(epoch) for epoch in state.history]
        metrics = {"epoch": len(history), SCORE: max(e["macro_f1"] for e in history)}
        shared["send"]({"trial": trial, "settings": settings, "history": history})
        with tempfile.TemporaryDirectory() as folder:
            state.save(Path(folder) / "state.pt", fingerprint)
            checkpoint = tune.Checkpoint.from_directory(folder)
            tune.report({**metrics, "trial": trial, "history": history}, checkpoint=checkpoint)

    shared["send"]({"trial": trial, "settings": settings, "history": []})
    with tempfile.TemporaryDirectory() as folder:
        taxonomy = Taxonomy.parse(shared["taxonomy"])
        parts = prepare(config, taxonomy, shared["train"], shared["validation"], Path(folder))
    resume = None
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            resume = TrainingState.load(Path(folder) / "state.pt", fingerprint)
    fit(*parts, config, worker=Worker(device=device), resume=resume, after_epoch=report)


class _Runs:
    """The runs in MLflow: one for the search, and under it one a trial, which grows epoch by epoch."""

    def __init__(self, name: str, config: TrainingConfig, space: Space, folder: Path) -> None:
        self._client, self._name, self._config, self._folder = tracking.client(folder), name, config, folder
        self._experiment = tracking.experiment_id(self._client, tracking.EXPERIMENT, tracking.tracking_uri(folder))
        before = {run.data.tags["trial"]: run for run in self._found("trial")}
        self._ids = {trial: run.info.run_id for trial, run in before.items()}
        self._failed_before = {trial for trial, run in before.items() if "failure" in run.data.tags}
        self._written = {trial: self._epochs(run_id) for trial, run_id in self._ids.items()}
        whole = self._found("whole")
        if whole:
            self._parent = whole[0].info.run_id
        else:
            params = {"config": config.model_dump(), "space": {key: asdict(found) for key, found in space.items()}}
            tags = {"search": name, "part": "whole"}
            self._parent = tracking.record(params=params, metrics={}, run_name=name, tags=tags, folder=folder)

    def write(self, trial: str, settings: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Log what is not there yet."""
        from mlflow.entities import Param

        if trial not in self._ids:
            tags = {"search": self._name, "part": "trial", "trial": trial, "mlflow.parentRunId": self._parent}
            run = self._client.create_run(self._experiment, run_name=f"trial {trial}", tags=tags)
            self._ids[trial], self._written[trial] = run.info.run_id, 0
            values = tracking.flatten(self._config.model_dump() | dict(settings))
            self._client.log_batch(run.info.run_id, params=[Param(key, str(value)[:6000]) for key, value in values])
        rows = [row for row in history if row["epoch"] > self._written[trial]]
        if rows:
            self._client.log_batch(self._ids[trial], metrics=tracking.history_metrics(rows))
            self._written[trial] = rows[-1]["epoch"]

    def end(self, failed: Mapping[str, str]) -> None:
        """No trial runs any more; these failed, and why."""
        for trial, run_id in self._ids.items():
            if trial in failed:
                self._client.set_tag(run_id, "failure", failed[trial])
            elif trial in self._failed_before:
                self._client.delete_tag(run_id, "failure")
            self._client.set_terminated(run_id, "FAILED" if trial in failed else "FINISHED")

    def _found(self, part: str) -> list[Any]:
        wanted = f"tags.search = '{self._name}' and tags.part = '{part}'"
        return list(self._client.search_runs([self._experiment], wanted, max_results=10_000))

    def _epochs(self, run_id: str) -> int:
        return max((m.step for m in self._client.get_metric_history(run_id, f"training/{SCORE}")), default=0)


def _write_table(file: Path, results: Sequence[Any]) -> None:
    settings = list(results[0].config)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", SCORE, "epochs", *settings])
        for result in results:
            found = result.metrics
            writer.writerow([found["trial"], found[SCORE], found["epoch"], *(result.config[key] for key in settings)])


def _is_set(key: str, value: Any) -> bool:
    return bool(value != TrainingConfig.model_fields[key].default) or key == "taxonomy"


def _digest(config: TrainingConfig, space: Space, trials: int, taxonomy: str, *parts: Sequence[Example]) -> str:
    work = (config, sorted(space.items()), trials, taxonomy, data_hash(*parts))
    return hashlib.sha256(repr(work).encode()).hexdigest()[:12]
