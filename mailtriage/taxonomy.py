"""The taxonomy: the only list of tasks and labels, in the order in which models number them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from mailtriage.errors import TaxonomyError, nearest

State = Literal["active", "retired"]
ChangeKind = Literal["renamed", "merged", "split"]


@dataclass(frozen=True, slots=True)
class Label:
    """A label of one task. `id` is stable; `name` may change and is what a person reads, by language."""

    id: str
    name: Mapping[str, str]
    state: State = "active"
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One question that the model answers, and its possible answers in model order."""

    id: str
    name: Mapping[str, str]
    labels: tuple[Label, ...]

    @property
    def label_ids(self) -> tuple[str, ...]:
        return tuple(label.id for label in self.labels)

    def index(self, label_id: str) -> int:
        """The number of a label in model order.

        Raises:
            TaxonomyError: the task has no such label.
        """
        try:
            return self.label_ids.index(label_id)
        except ValueError:
            hint = nearest(label_id, self.label_ids)
            raise TaxonomyError(f"task '{self.id}' has no label '{label_id}'{hint}") from None


@dataclass(frozen=True, slots=True)
class Change:
    """What became of labels of one task in one version: `sources` are the labels before, `targets` those after."""

    version: str
    task: str
    kind: ChangeKind
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Taxonomy:
    """Tasks, labels, and which combinations of labels are valid.

    `combinations` holds every valid combination of label ids, in task order; `None` allows all of them.
    """

    version: str
    tasks: tuple[Task, ...]
    combinations: tuple[tuple[str, ...], ...] | None = None
    history: tuple[Change, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Taxonomy:
        """Read and check a `taxonomy.yaml`.

        Raises:
            TaxonomyError: the file is missing, is no YAML, or contradicts itself.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise TaxonomyError(f"cannot read the taxonomy {path}: {error.strerror}") from None
        try:
            return cls.parse(text)
        except TaxonomyError as error:
            raise TaxonomyError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Taxonomy:
        """Read and check the text of a `taxonomy.yaml`; raises as `load` does."""
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise TaxonomyError(f"this is no YAML: {error}") from None
        return _read_taxonomy(document)

    @property
    def task_ids(self) -> tuple[str, ...]:
        return tuple(task.id for task in self.tasks)

    def task(self, task_id: str) -> Task:
        """The task with this id.

        Raises:
            TaxonomyError: there is none.
        """
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise TaxonomyError(f"the taxonomy has no task '{task_id}'{nearest(task_id, self.task_ids)}")

    @cached_property
    def valid_indices(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Valid combinations of active labels as label numbers: shape (combinations, tasks)."""
        rows = [
            [task.index(label) for task, label in zip(self.tasks, combination, strict=True)]
            for combination in self._active_combinations()
        ]
        return np.asarray(rows, dtype=np.int64)

    def is_valid(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels, one a task, may stand together."""
        return self.combinations is None or tuple(labels[task] for task in self.task_ids) in self._valid

    @cached_property
    def _valid(self) -> frozenset[tuple[str, ...]]:
        return frozenset(self.combinations or ())

    def _active_combinations(self) -> Iterator[tuple[str, ...]]:
        active = [{label.id for label in task.labels if label.state == "active"} for task in self.tasks]
        for combination in self.combinations or _product([task.label_ids for task in self.tasks]):
            if all(label in allowed for label, allowed in zip(combination, active, strict=True)):
                yield combination

    @property
    def digest(self) -> str:
        """SHA-256 of what a model depends on: tasks, label ids in order, states and valid combinations."""
        parts = [f"{task.id}:{label.id}:{label.state}" for task in self.tasks for label in task.labels]
        parts += ["/".join(combination) for combination in self.combinations or ()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


_KEYS = ("version", "tasks", "valid", "history")
_LABEL_KEYS = ("name", "state", "hint")


def _read_taxonomy(document: object) -> Taxonomy:
    if not isinstance(document, Mapping):
        raise TaxonomyError("expected a mapping with 'version', 'tasks' and 'valid'")
    _check_keys(document, _KEYS, "the taxonomy")
    for key in ("version", "tasks"):
        if not document.get(key):
            raise TaxonomyError(f"'{key}' is missing")
    if not isinstance(document["tasks"], Mapping):
        raise TaxonomyError("expected 'tasks' to map each task's id to its labels")
    tasks = tuple(_read_task(str(task_id), content) for task_id, content in document["tasks"].items())
    valid = document.get("valid", "all")
    combinations = None if valid == "all" else tuple(_read_combinations(valid, tasks))
    if combinations is not None:
        _check_combinations(combinations, tasks)
    history = tuple(_read_change(entry) for entry in document.get("history") or ())
    return Taxonomy(str(document["version"]), tasks, combinations, history)


def _read_task(task_id: str, content: object) -> Task:
    if not isinstance(content, Mapping) or not isinstance(content.get("labels"), Mapping):
        raise TaxonomyError(f"expected task '{task_id}' to have 'labels' that map each label's id to its names")
    _check_keys(content, ("name", "labels"), f"task '{task_id}'")
    labels = tuple(_read_label(str(label_id), label, task_id) for label_id, label in content["labels"].items())
    if not any(label.state == "active" for label in labels):
        raise TaxonomyError(f"task '{task_id}' has no active label")
    return Task(task_id, _read_names(content.get("name"), task_id), labels)


def _read_label(label_id: str, content: object, task_id: str) -> Label:
    where = f"label '{label_id}' of task '{task_id}'"
    content = {} if content is None else content
    if not isinstance(content, Mapping):
        raise TaxonomyError(f"expected {where} to be a mapping such as {{name: {{de: ..., en: ...}}}}")
    _check_keys(content, _LABEL_KEYS, where)
    state = content.get("state", "active")
    if state not in ("active", "retired"):
        raise TaxonomyError(f"expected the state of {where} to be 'active' or 'retired', found '{state}'")
    return Label(label_id, _read_names(content.get("name"), label_id), state, str(content.get("hint", "")))


_CHANGE_KEYS = ("version", "task", "change", "from", "to")
_CHANGE_SIZES = {"renamed": (1, 1), "merged": (2, 1), "split": (1, 2)}  # fewest labels before and after; 1 is also most


def _read_change(entry: object) -> Change:
    """An entry such as `{version: "2026-12-01", task: topic, change: merged, from: [a, b], to: c}`."""
    if not isinstance(entry, Mapping) or any(not entry.get(key) for key in _CHANGE_KEYS):
        raise TaxonomyError(f"expected an entry of 'history' to have {', '.join(_CHANGE_KEYS)}, found {entry}")
    _check_keys(entry, _CHANGE_KEYS, "an entry of 'history'")
    kind, sources, targets = entry["change"], _label_list(entry["from"]), _label_list(entry["to"])
    if kind not in _CHANGE_SIZES:
        raise TaxonomyError(f"expected a change of 'history' to be {', '.join(_CHANGE_SIZES)}, found '{kind}'")
    for word, labels, least in zip(("from", "to"), (sources, targets), _CHANGE_SIZES[kind], strict=True):
        if len(labels) < least or (least == 1 and len(labels) > 1):
            wanted = "one label" if least == 1 else "two labels or more"
            raise TaxonomyError(f"expected '{kind}' to go {word} {wanted}, found {', '.join(labels)}")
    return Change(str(entry["version"]), str(entry["task"]), kind, sources, targets)


def _label_list(labels: object) -> tuple[str, ...]:
    return tuple(map(str, labels)) if isinstance(labels, list) else (str(labels),)


def _read_names(names: object, fallback: str) -> Mapping[str, str]:
    if names is None:
        return {"en": fallback}
    if isinstance(names, str):
        return {"en": names}
    if isinstance(names, Mapping):
        return {str(language): str(name) for language, name in names.items()}
    raise TaxonomyError(f"expected the name of '{fallback}' to be a text or one text a language")


def _read_combinations(valid: object, tasks: Sequence[Task], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Walk the nested mapping `first label -> second label -> [third labels]`, one level a task."""
    task = tasks[len(prefix)]
    last = len(prefix) == len(tasks) - 1
    if not isinstance(valid, Sequence if last else Mapping) or isinstance(valid, str):
        shape = "a list of labels" if last else "a mapping from each label"
        raise TaxonomyError(f"expected 'valid' at {'/'.join(prefix) or 'its top'} to be {shape} of task '{task.id}'")
    for label in valid:
        task.index(label)
        if last:
            yield (*prefix, label)
        else:
            yield from _read_combinations(valid[label], tasks, (*prefix, label))


def _check_combinations(combinations: Sequence[tuple[str, ...]], tasks: Sequence[Task]) -> None:
    repeated = {"/".join(c) for c in combinations if combinations.count(c) > 1}
    if repeated:
        raise TaxonomyError(f"'valid' names a combination twice: {', '.join(sorted(repeated))}")
    for position, task in enumerate(tasks):
        used = {combination[position] for combination in combinations}
        unused = [label.id for label in task.labels if label.state == "active" and label.id not in used]
        if unused:
            raise TaxonomyError(f"no valid combination uses the active labels of '{task.id}': {', '.join(unused)}")


def _check_keys(mapping: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise TaxonomyError(f"{where} has an unknown key '{key}'{nearest(str(key), known)}")


def _product(columns: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    if not columns:
        yield ()
        return
    for label in columns[0]:
        for rest in _product(columns[1:]):
            yield (label, *rest)
