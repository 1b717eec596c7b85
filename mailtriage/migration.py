"""From one taxonomy to the next: what changed, and where the labels of old mails go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mailtriage.errors import TaxonomyError, nearest
from mailtriage.mail import Email
from mailtriage.taxonomy import Change, Task, Taxonomy

Fate = Literal["kept", "renamed", "merged", "split", "retired", "revived", "removed", "new"]
ORDER: tuple[Fate, ...] = ("renamed", "merged", "split", "retired", "revived", "removed", "new", "kept")


@dataclass(frozen=True)
class Migration:
    """The way of every old label into the new taxonomy.

    `targets` maps a task that both have to old label -> new labels: one, or several where it was split, or none where
    it is neither in the new taxonomy nor in its history.
    """

    old: Taxonomy
    new: Taxonomy
    targets: Mapping[str, Mapping[str, tuple[str, ...]]]

    @classmethod
    def between(cls, old: Taxonomy, new: Taxonomy) -> Migration:
        """Follow the changes of `new.history` that `old` does not have yet.

        Raises:
            TaxonomyError: a change names a task or a label that is not there at that point.
        """
        changes = [change for change in new.history if change not in old.history]
        shared = [task.id for task in old.tasks if task.id in new.task_ids]
        for change in changes:
            if change.task not in shared:
                hint = nearest(change.task, shared)
                raise TaxonomyError(f"'history' of version {new.version} names a task '{change.task}'{hint}")
        return cls(
            old,
            new,
            {task: _follow(old.task(task), new.task(task), [c for c in changes if c.task == task]) for task in shared},
        )

    def sources(self, task_id: str) -> dict[str, tuple[str, ...]]:
        """New label -> the old labels that went into it; none for a label that is new."""
        targets = self.targets.get(task_id, {})
        return {
            label: tuple(old for old, reached in targets.items() if label in reached)
            for label in self.new.task(task_id).label_ids
        }

    def fates(self, task_id: str) -> dict[Fate, list[str]]:
        """What happened to the labels of a task that both have: a line a label or change, by kind."""
        before, after = self.old.task(task_id), self.new.task(task_id)
        sources = self.sources(task_id)
        found: dict[Fate, list[str]] = {fate: [] for fate in ORDER}
        for label, reached in self.targets[task_id].items():
            if not reached:
                found["removed"].append(label)
            elif len(reached) > 1:
                found["split"].append(f"{label} -> {', '.join(reached)}")
            elif len(sources[reached[0]]) == 1 and reached[0] != label:
                found["renamed"].append(f"{label} -> {reached[0]}")
            elif len(sources[reached[0]]) == 1:
                states = (before.labels[before.index(label)].state, after.labels[after.index(label)].state)
                found[_STATE_FATES[states]].append(label)
        for label, origin in sources.items():
            if not origin:
                found["new"].append(label)
            elif len(origin) > 1:
                found["merged"].append(f"{', '.join(origin)} -> {label}")
        return found

    def untouched(self, task_id: str) -> list[str]:
        """New labels that mean what one old label meant, and nothing else."""
        targets = self.targets.get(task_id, {})
        return [
            label
            for label, origin in self.sources(task_id).items()
            if len(origin) == 1 and len(targets[origin[0]]) == 1
        ]


_STATE_FATES: dict[tuple[str, str], Fate] = {
    ("active", "active"): "kept",
    ("retired", "retired"): "kept",
    ("active", "retired"): "retired",
    ("retired", "active"): "revived",
}


def _follow(old: Task, new: Task, changes: Iterable[Change]) -> dict[str, tuple[str, ...]]:
    reached: dict[str, tuple[str, ...]] = {label: (label,) for label in old.label_ids}
    for change in changes:
        present = {label for labels in reached.values() for label in labels}
        missing = [label for label in change.sources if label not in present]
        if missing:
            raise TaxonomyError(
                f"'history' says that '{missing[0]}' of task '{old.id}' was {change.kind} in version {change.version}, "
                f"but the old taxonomy has no such label{nearest(missing[0], present)}"
            )
        for label, labels in reached.items():
            moved = [t for at in labels for t in (change.targets if at in change.sources else (at,))]
            reached[label] = tuple(dict.fromkeys(moved))
    for change in changes:
        for label in change.targets:
            if label not in new.label_ids and not any(label in later.sources for later in changes):
                raise TaxonomyError(
                    f"'history' says that labels of task '{new.id}' became '{label}' in version {change.version}, "
                    f"but the new taxonomy has no such label{nearest(label, new.label_ids)}"
                )
    return {label: tuple(t for t in labels if t in new.label_ids) for label, labels in reached.items()}


def describe(migration: Migration) -> Iterator[str]:
    """The difference as lines for a person."""
    old, new = migration.old, migration.new
    yield f"version {old.version} -> {new.version}"
    for task in old.task_ids:
        if task not in new.task_ids:
            yield f"{task}: the task is gone; its labels are dropped"
    for task in new.task_ids:
        if task not in old.task_ids:
            yield f"{task}: the task is new; no old mail has a label for it"
            continue
        fates = migration.fates(task)
        yield f"{task}: {len(fates['kept'])} labels kept"
        for fate in ORDER[:-1]:
            note = " (not in 'history': say what became of it)" if fate == "removed" else ""
            yield from (f"  {fate:8} {line}{note}" for line in fates[fate])
    yield _combinations_line(old, new)
    yield "a model of the old version must be trained again" if old.digest != new.digest else "models stay valid"


def _combinations_line(old: Taxonomy, new: Taxonomy) -> str:
    if old.combinations is None or new.combinations is None:
        return "valid combinations: " + ("all" if new.combinations is None else f"{len(new.combinations)}, were all")
    added, gone = (
        len(set(a) - set(b)) for a, b in ((new.combinations, old.combinations), (old.combinations, new.combinations))
    )
    return f"valid combinations: {added} new, {gone} gone, {len(new.combinations)} now"


@dataclass
class Moved:
    """How many labels of training mails went where: task -> count by what happened."""

    mails: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    split: Counter[str] = field(default_factory=Counter)
    retired: Counter[str] = field(default_factory=Counter)
    invalid_combinations: int = 0


def migrate(mails: Iterable[Email], migration: Migration, counts: Moved) -> Iterator[Email]:
    """The mails with labels of the new taxonomy; adds to `counts` on the way.

    Renamed and merged labels move. A label that was split becomes a missing label, since nobody knows which part the
    mail belongs to, and so does a label that is retired now: a model neither learns nor answers it.

    Raises:
        TaxonomyError: a mail's label was removed without a word in `history`.
    """
    for mail in mails:
        labels = {task: _moved_label(mail, task, migration, counts) for task in migration.new.task_ids}
        counts.mails += 1
        complete = {task: label for task, label in labels.items() if label is not None}
        if len(complete) == len(labels) and not migration.new.is_valid(complete):
            counts.invalid_combinations += 1
        yield replace(mail, labels=labels)


def _moved_label(mail: Email, task: str, migration: Migration, counts: Moved) -> str | None:
    label = mail.labels.get(task)
    if label is None or task not in migration.targets:
        return None
    reached = migration.targets[task].get(label)
    if not reached:
        raise TaxonomyError(
            f"mail '{mail.id}': label '{label}' of task '{task}' is not in taxonomy {migration.new.version} and its "
            "'history' does not say what became of it; write it there, or keep the label as 'state: retired'"
        )
    if len(reached) > 1:
        counts.split[task] += 1
        return None
    new_task = migration.new.task(task)
    if new_task.labels[new_task.index(reached[0])].state == "retired":
        counts.retired[task] += 1
        return None
    (counts.kept if reached[0] == label else counts.moved)[task] += 1
    return reached[0]
