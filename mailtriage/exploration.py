"""Looks at labelled mails before anything is trained: what there is, what repeats, and which labels are probably wrong.

Suspicious labels are found by confident learning (Northcutt et al. 2021, arXiv:1911.00068; cleanlab) on probabilities
of TF-IDF and logistic regression for mails that it was not fitted on.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mailtriage import plots, report
from mailtriage.baselines import mail_texts
from mailtriage.errors import DataError
from mailtriage.evaluation import true_labels
from mailtriage.examples import Example
from mailtriage.metrics import UNLABELLED, Floats, Labels
from mailtriage.splitting import Split, crossings, groups_of, near_duplicate_groups
from mailtriage.taxonomy import Taxonomy

FOLDS = 5
DIRECTIONS = 200  # latent semantic analysis: keeps the regression quick
FEATURES = 30_000  # of words and of characters each, the most frequent ones
FEWEST = 2 * FOLDS  # mails of a label; one with fewer is left out of the search for wrong labels
SUSPICIOUS = "suspicious_labels.csv"
UNDATED = "without a time"  # sorts behind every month
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Suspicion:
    """A label that is probably wrong; `confidence` is the probability of the suggested one."""

    id: str
    task: str
    given: str
    suggested: str
    confidence: float


def explore(
    examples: Sequence[Example],
    taxonomy: Taxonomy,
    parts: Split,
    output: Path,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Write `explore.html`, its pictures, `explore.json` and `suspicious_labels.csv`; returns the figures.

    Args:
        parts: the split that training would make.

    Raises:
        DataError: there are no mails.
        TaxonomyError: a mail has a label that the taxonomy lacks.
    """
    if not examples:
        raise DataError("expected mails to explore, found none")
    output.mkdir(parents=True, exist_ok=True)
    true = true_labels(taxonomy, examples)
    duplicates = near_duplicate_groups([f"{mail.subject} {mail.text}" for mail in examples])
    progress(f"looking for wrong labels among {len(examples):,} mails")
    suspicions = suspicious_labels(examples, taxonomy, true)
    write_suspicions(output / SUSPICIOUS, suspicions)
    progress("counting")
    figures = {
        "mails": len(examples),
        "labels": {task.id: _counts(task.label_ids, true[task.id]) for task in taxonomy.tasks},
        "labels_by_month": {task.id: _by_month(task.label_ids, examples, true[task.id]) for task in taxonomy.tasks},
        "missing": {task: int((labels == UNLABELLED).sum()) for task, labels in true.items()},
        "languages": dict(Counter(mail.language or "unclear" for mail in examples).most_common()),
        "characters": _quantiles([len(mail.text) for mail in examples]),
        "empty": sum(not mail.text.strip() and not mail.subject.strip() for mail in examples),
        "invalid_combinations": _invalid(examples, taxonomy),
        "repeats": _repeats(examples, duplicates),
        "conflicts": conflicts(examples, duplicates, taxonomy),
        "split": crossings({"train": parts.train, "validation": parts.validation, "test": parts.test}),
        "suspicious": {task: sum(s.task == task for s in suspicions) for task in taxonomy.task_ids},
    }
    progress("drawing")
    pictures = _draw(output, examples, figures)
    (output / "explore.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    report.write_exploration(output / "explore.html", figures, pictures, suspicions, taxonomy)
    return figures


def suspicious_labels(
    examples: Sequence[Example], taxonomy: Taxonomy, true: Mapping[str, Labels], seed: int = 0
) -> list[Suspicion]:
    """Labels that are probably wrong, the surest first, over all tasks.

    Near-duplicates and threads are held out together, so that no copy of a mail vouches for its label.
    """
    from cleanlab.filter import find_label_issues

    groups, words = np.array(groups_of(examples)), _words(examples)
    found = []
    for task in taxonomy.tasks:
        rows = _searchable(true[task.id], groups, len(task.labels))
        labels, given = np.unique(true[task.id][rows], return_inverse=True)
        if len(labels) < 2:
            continue
        probabilities = _out_of_fold(words[rows], given, groups[rows], seed)
        issues = find_label_issues(
            given, probabilities, filter_by="both", return_indices_ranked_by="normalized_margin", n_jobs=1
        )
        for position in np.asarray(issues).tolist():
            best = int(probabilities[position].argmax())
            names = task.label_ids[labels[given[position]]], task.label_ids[labels[best]]
            confidence = round(float(probabilities[position, best]), 4)
            found.append(Suspicion(examples[rows[position]].id, task.id, *names, confidence))
    return sorted(found, key=lambda suspicion: (-suspicion.confidence, suspicion.id, suspicion.task))


def _searchable(true: Labels, groups: Labels, count: int) -> Labels:
    """Positions of mails whose label has `FEWEST` mails, not all copies of one: copies are held out together."""
    mails = np.bincount(true[true >= 0], minlength=count)
    kinds = np.bincount(np.unique(np.stack([true, groups])[:, true >= 0], axis=1)[0], minlength=count)
    usable = (mails >= FEWEST) & (kinds > 1)
    return np.flatnonzero((true >= 0) & usable[np.maximum(true, 0)])


def write_suspicions(path: Path, suspicions: Sequence[Suspicion]) -> None:
    """The CSV that a client-service lead opens: ids and labels, no text of a mail."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "task", "given label", "suggested label", "confidence"))
        writer.writerows((s.id, s.task, s.given, s.suggested, s.confidence) for s in suspicions)


def conflicts(examples: Sequence[Example], duplicates: Sequence[int], taxonomy: Taxonomy) -> dict[str, Any]:
    """Mails that say the same with different labels: task -> `groups` and `mails` in them.

    Args:
        duplicates: the number of each mail's group of near-duplicates.
    """
    result = {}
    for task in taxonomy.task_ids:
        found: dict[int, list[str]] = {}
        for group, mail in zip(duplicates, examples, strict=True):
            label = mail.labels.get(task)
            if label is not None:
                found.setdefault(group, []).append(label)
        torn = [labels for labels in found.values() if len(set(labels)) > 1]
        result[task] = {"groups": len(torn), "mails": sum(map(len, torn))}
    return result


def _words(examples: Sequence[Example]) -> Any:
    """TF-IDF of words and of characters inside them, in its `DIRECTIONS` main directions: shape (mails, directions)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    options = {"sublinear_tf": True, "max_features": FEATURES}
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, **options),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=3, **options),
    )
    words = features.fit_transform(mail_texts(examples))
    return TruncatedSVD(min(DIRECTIONS, min(words.shape) - 1), random_state=0).fit_transform(words)


def _out_of_fold(words: Any, labels: Labels, groups: Labels, seed: int) -> Floats:
    """Probabilities of shape (mails, labels), each from a model that was fitted on neither the mail nor its group."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    for train, rest in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(words, labels, groups):
        model = LogisticRegression(C=20, tol=1e-2, max_iter=100).fit(words[train], labels[train])
        probabilities[np.ix_(rest, model.classes_)] = model.predict_proba(words[rest])
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def _counts(labels: Sequence[str], true: Labels) -> dict[str, int]:
    return {label: int((true == number).sum()) for number, label in enumerate(labels)}


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    shares = {"5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}
    return {name: int(np.quantile(values, share)) for name, share in shares.items()}


def _invalid(examples: Sequence[Example], taxonomy: Taxonomy) -> int:
    labelled = [{task: mail.labels.get(task) for task in taxonomy.task_ids} for mail in examples]
    complete = [{t: str(label) for t, label in mail.items()} for mail in labelled if None not in mail.values()]
    return sum(not taxonomy.is_valid(mail) for mail in complete)


def _repeats(examples: Sequence[Example], duplicates: Sequence[int]) -> dict[str, int]:
    """Mails that are not the first of their kind."""
    different = {" ".join(f"{mail.subject} {mail.text}".lower().split()) for mail in examples}
    return {
        "identical": len(examples) - len(different),
        "near_duplicates": len(examples) - len(set(duplicates)),
    }


def _by_month(labels: Sequence[str], examples: Sequence[Example], true: Labels) -> dict[str, dict[str, int]]:
    """Month -> label -> mails, the oldest month first; mails without a time stand under `UNDATED`, last."""
    months = np.array([mail.received_at.strftime("%Y-%m") if mail.received_at else UNDATED for mail in examples])
    return {str(month): _counts(labels, true[months == month]) for month in np.unique(months)}


def _draw(output: Path, examples: Sequence[Example], figures: Mapping[str, Any]) -> dict[str, Path]:
    pictures = {"labels": plots.label_distribution(output / "explore_labels.png", figures["labels"])}
    for task, by_month in figures["labels_by_month"].items():
        months, shares = _over_time(figures["labels"][task], by_month)
        if len(months) > 1 and any(figures["labels"][task].values()):
            file = output / f"explore_time_{task}.png"
            pictures[f"time_{task}"] = plots.labels_over_time(file, task, months, shares)
    lengths: dict[str, list[int]] = {}
    for mail in examples:
        lengths.setdefault(mail.language or "unclear", []).append(len(mail.text))
    pictures["lengths"] = plots.lengths(output / "explore_lengths.png", lengths)
    return pictures


def _over_time(
    labels: Mapping[str, int], by_month: Mapping[str, Mapping[str, int]], largest: int = 6
) -> tuple[list[str], dict[str, list[float]]]:
    """Months, and each month's share of the largest labels."""
    months = {month: counts for month, counts in by_month.items() if month != UNDATED}
    totals = {month: max(sum(counts.values()), 1) for month, counts in months.items()}
    commonest = [label for label, mails in Counter(labels).most_common(largest) if mails]
    return list(months), {
        label: [counts[label] / totals[month] for month, counts in months.items()] for label in commonest
    }
