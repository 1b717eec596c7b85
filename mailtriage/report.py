"""The evaluation report: one HTML file with its pictures inside, pictures first."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mailtriage
from mailtriage.taxonomy import Taxonomy

LISTED = 20  # suspicious labels in the page; the CSV has all
SMALLEST_GROUP = 30  # mails; the figures of fewer say little
SECTIONS = (  # the pictures whose name starts so, the question that they answer, and how to read them
    (
        "coverage",
        "How much can be routed without a person?",
        "From left to right more mails are answered, the surest first; the curve says how many of them are right.",
    ),
    (
        "reliability",
        "Can its confidence be believed?",
        "On the diagonal, 80 % of the answers given with 80 % confidence are right. "
        "Calibration moves the squares to the circles.",
    ),
    (
        "label_f1",
        "Which labels does it know?",
        "The bar is the F1 of a label, the line its 95 % interval: few mails make it long.",
    ),
    (
        "confusion",
        "What does it take for what?",
        "A row is the true label; what lies off the diagonal went wrong.",
    ),
    ("labels", "What was it measured on?", "Test mails with each label."),
    ("training", "How did it learn?", "Loss and macro-F1 on the validation mails after each epoch."),
)
PROMISES = {
    "mail": "routed mails have every label right",
    "task": "answers of each task are right",
    "label": "answers of each label are right",
}
BASELINE_NAMES = {"majority": "most frequent label", "tfidf_svm": "TF-IDF and linear SVM"}


def write(path: Path, metrics: Mapping[str, Any], pictures: Mapping[str, Path], taxonomy: Taxonomy) -> Path:
    """Render `metrics` (the content of `metrics.json`) and `pictures` (by name, PNG files) to `path`.

    The file loads nothing from elsewhere, so it can be mailed, and shown by KFP and MLflow.
    """
    return _render(path, "report.html", content(metrics, pictures, taxonomy))


def write_exploration(
    path: Path,
    figures: Mapping[str, Any],
    pictures: Mapping[str, Path],
    suspicions: Sequence[Any],
    taxonomy: Taxonomy,
) -> Path:
    """Render what `exploration.explore` found to `path`; pictures first, no text of a mail."""
    return _render(
        path,
        "explore.html",
        {
            "figures": figures,
            "pictures": [{"source": _embedded(file), "alt": _words(name)} for name, file in pictures.items()],
            "tasks": [{"id": task, "name": _words(task)} for task in taxonomy.task_ids],
            "by_month": [_months(task, found) for task, found in figures["labels_by_month"].items()],
            "suspicions": suspicions[:LISTED],
            "suspicious": len(suspicions),
            "crossings": _crossings(figures),
            "parts": figures["split"]["parts"],
            "code_version": mailtriage.__version__,
        },
    )


def _months(task: str, by_month: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """A table of counts, a row a label that occurs, the largest first."""
    counts = {label: [month[label] for month in by_month.values()] for label in next(iter(by_month.values()))}
    largest = sorted(counts.items(), key=lambda row: (-sum(row[1]), row[0]))
    rows = [{"label": label, "counts": found, "all": sum(found)} for label, found in largest if any(found)]
    return {"name": _words(task), "months": list(by_month), "rows": rows}


def _render(path: Path, name: str, values: Mapping[str, Any]) -> Path:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mailtriage", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path.write_text(environment.get_template(name).render(**values), encoding="utf-8")
    return path


def content(metrics: Mapping[str, Any], pictures: Mapping[str, Path], taxonomy: Taxonomy) -> dict[str, Any]:
    """What the template shows, in reading order."""
    tasks = [{"id": task.id, "name": _words(task.id), "entry": metrics[task.id]} for task in taxonomy.tasks]
    return {
        "model": metrics["model"],
        "overall": metrics["overall"],
        "title": _title(metrics["model"]),
        "verdict": _verdict(metrics["overall"]),
        "mails": _mails(metrics["overall"]),
        "tiles": _tiles(metrics, taxonomy),
        "sections": _sections(pictures),
        "tasks": tasks,
        "comparison": _comparison(metrics, taxonomy),
        "routing": _routing(metrics, taxonomy),
        "champion": _champion(metrics, taxonomy),
        "crossings": _crossings(metrics),
        "parts": metrics.get("split", {}).get("parts", {}),
        "promise": _promise(metrics["overall"]["routing"]),
        "groups": _groups(metrics.get("slices", {}), taxonomy),
        "interval": _interval,
        "code_version": mailtriage.__version__,
    }


def _title(model: Mapping[str, Any]) -> str:
    registered = not str(model["version"]).startswith("unregistered")
    return f"{model['name']} version {model['version']}" if registered else f"{model['name']}, not registered yet"


def _verdict(overall: Mapping[str, Any]) -> str:
    routing = overall["routing"]
    if routing["precision"] is None:
        return "No mail would be routed without a person: the model is nowhere sure enough for the wanted precision."
    return (
        f"Of 100 mails, {100 * routing['coverage']:.0f} would be routed without a person, "
        f"and of those {100 * routing['precision']:.1f} % get every label right. "
        f"The other {100 - round(100 * routing['coverage'])} are left for people, with suggestions."
    )


def _mails(overall: Mapping[str, Any]) -> dict[str, str]:
    """What the model was measured on: a phrase, and a warning where its figures are no figures on new mails."""
    seen, mails = overall.get("mails_seen"), f"{overall['mails']:,} mails"
    if seen == 0:
        return {"text": f"{mails} that the model has not seen", "warning": ""}
    if seen is None:
        return {"text": f"{mails}; the bundle does not say whether it has seen them", "warning": ""}
    warning = (
        f"The model was fitted on or chosen by {seen:,} of these {mails}. Its figures below are better than those on "
        "new mails will be."
    )
    return {"text": mails, "warning": warning}


def _and_seen(name: str, found: Mapping[str, Any]) -> str:
    """Another model's name, and what may flatter it."""
    seen = found.get("mails_seen")
    if seen is None:
        return f"{name}, which may have seen these mails before"
    return f"{name}, which saw {seen:,} of these mails before" if seen else name


def _tiles(metrics: Mapping[str, Any], taxonomy: Taxonomy) -> list[dict[str, str]]:
    overall = metrics["overall"]
    tiles = [{"value": f"{overall['mean_macro_f1']:.3f}", "label": "macro-F1, mean over tasks"}]
    tiles += [
        {"value": f"{metrics[task]['macro_f1']:.3f}", "label": f"macro-F1 of {_words(task).lower()}"}
        for task in taxonomy.task_ids
    ]
    tiles.append({"value": f"{100 * overall['exact_match']:.1f} %", "label": "mails with every label right"})
    before, after = overall["invalid_before_decoding"], overall["invalid_after_decoding"]
    label = "impossible combinations, without and with joint decoding"
    tiles.append({"value": f"{100 * before:.1f} → {100 * after:.1f}\u00a0%", "label": label})
    return tiles


def _sections(pictures: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Pictures under the question that they answer; a section without pictures is left out."""
    sections = []
    for prefix, title, text in SECTIONS:
        chosen = [
            {"source": _embedded(file), "alt": _words(name)}
            for name, file in pictures.items()
            if name == prefix or name.startswith(f"{prefix}_")
        ]
        if chosen:
            sections.append({"title": title, "text": text, "pictures": chosen})
    return sections


def _comparison(metrics: Mapping[str, Any], taxonomy: Taxonomy) -> list[dict[str, Any]]:
    baselines = metrics.get("baselines", {})
    if not (baselines or "champion" in metrics or "against" in metrics):
        return []
    own = [metrics[task]["macro_f1"] for task in taxonomy.task_ids] + [metrics["overall"]["mean_macro_f1"]]
    rows = [{"name": "this model", "values": own}]
    if "champion" in metrics:
        found = metrics["champion"]
        values = [found[task]["macro_f1"] for task in taxonomy.task_ids] + [found["mean_macro_f1"]]
        rows.append({"name": _and_seen(f"champion: {_title(found['model'])}", found), "values": values})
    for name, found in metrics.get("against", {}).items():
        values = [found[task]["macro_f1"] for task in taxonomy.task_ids] + [found["mean_macro_f1"]]
        rows.append({"name": _and_seen(name, found), "values": values})
    for name, scores in baselines.items():
        values = [scores[task]["macro_f1"] for task in taxonomy.task_ids] + [scores["mean_macro_f1"]]
        rows.append({"name": BASELINE_NAMES.get(name, _words(name)), "values": values})
    return rows


def _champion(metrics: Mapping[str, Any], taxonomy: Taxonomy) -> dict[str, Any] | None:
    """What changes against the champion, a row a task, and a sentence about luck."""
    found = metrics.get("champion")
    if not found:
        return None
    surely = "more than luck" if found["p_value"] < 0.05 else "within what luck does"
    seen = found.get("mails_seen")
    flattered = f" The champion was fitted on or chosen by {seen:,} of these mails, which flatters it." if seen else ""
    return {
        "name": _title(found["model"]),
        "rows": [{"name": _words(task), **found[task]} for task in taxonomy.task_ids],
        "text": (
            f"Mean macro-F1 changes by {found['difference']:+.3f} (95 % interval {found['interval'][0]:+.3f} to "
            f"{found['interval'][1]:+.3f}, paired bootstrap p = {found['p_value']:.3f}): {surely}.{flattered}"
        ),
    }


def _crossings(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = metrics.get("split", {}).get("groups", {})
    return [{"name": _words(name), **counts} for name, counts in groups.items()]


def _promise(routing: Mapping[str, Any]) -> str:
    """What the thresholds promise, and the work that they leave."""
    promise = routing.get("promise")
    if not promise or not promise["precision"]:
        return ""
    by = f", for each {_words(promise['by']).lower()}" if promise["by"] else ""
    text = (
        f"Compiled so that, with {promise['confidence']:.0%} confidence, at least {promise['precision']:.0%} of the "
        f"{PROMISES[promise['of']]}{by}."
    )
    if routing["expected_coverage"] is not None:
        text += f" Expected from the validation mails: {routing['expected_coverage']:.1%} routed."
    if routing["left_a_day"] is not None:
        text += f" Of {routing['mails_a_day']:,.0f} mails a day, {routing['left_a_day']:,.0f} are left for people."
    return text


def _routing(metrics: Mapping[str, Any], taxonomy: Taxonomy) -> list[dict[str, Any]]:
    rows = [{"name": _words(task), **metrics[task]["routing"]} for task in taxonomy.task_ids]
    threshold = metrics["overall"]["routing"].get("thresholds", {}).get("mail")
    single = None if isinstance(threshold, Mapping) else threshold
    return [*rows, {**metrics["overall"]["routing"], "name": "the whole mail", "threshold": single}]


def _groups(slices: Mapping[str, Any], taxonomy: Taxonomy) -> list[dict[str, Any]]:
    groups = []
    for name, entries in slices.items():
        rows = [
            {"name": value, "mails": entry["mails"], "scores": [entry[task] for task in taxonomy.task_ids]}
            for value, entry in entries.items()
            if entry["mails"] >= SMALLEST_GROUP
        ]
        if name in ("month", "length"):
            rows.sort(key=lambda row: _natural(row["name"]))
        if rows:
            groups.append({"name": _words(name), "rows": rows})
    return groups


def _natural(name: str) -> tuple[int, str]:
    """`under 200` before `200 to 599` before `1,500 and more`."""
    digits = "".join(character for character in name.split(" ", maxsplit=1)[0] if character.isdigit())
    return int(digits or 0), name


def _interval(entry: Mapping[str, Any], name: str) -> str:
    ends = entry.get("intervals", {}).get(name)
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""


def _embedded(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
