"""Pictures of data, training and evaluation. Each function takes plain values, writes one PNG and returns its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DPI = 130
WIDTH = 9.4  # inches; one width for most pictures, so that letters are equally large in a report
STEADY_BIN = 10  # mails; the share of fewer says little
INK, MUTED, GRID = "#1f2933", "#6b7280", "#d9dee3"
COLOURS = ("#1f6f9f", "#d9722e", "#3a8f5c", "#8a5aa8", "#b8475a", "#8a7a3d")  # apart for the colour-blind, too


def label_distribution(path: Path, counts: Mapping[str, Mapping[str, int]]) -> Path:
    """How many mails carry each label: task -> label -> mails, one panel a task, the largest on top."""
    rows = max(len(labels) for labels in counts.values())
    figure = _figure(max(WIDTH, 3.6 * len(counts)), 1.2 + 0.25 * rows)
    for axes, colour, (task, labels) in zip(_panels(figure, len(counts)), COLOURS, counts.items(), strict=False):
        ordered = sorted(labels.items(), key=lambda item: item[1])
        bars = axes.barh([name for name, _ in ordered], [count for _, count in ordered], color=colour, height=0.72)
        axes.bar_label(bars, padding=3, fontsize=9, color=MUTED)
        axes.set_title(_words(task))
        axes.set_ylim(len(ordered) - rows - 0.6, len(ordered) - 0.4)  # bars are equally thick in every panel
        axes.margins(x=0.14)
        axes.set_xticks([])  # the bars carry their counts
        _bare(axes, grid=None)
    return _save(figure, path)


def confusion_matrix(path: Path, task: str, labels: Sequence[str], matrix: NDArray[np.int64]) -> Path:
    """Counts of true against predicted labels, shape (labels, labels); the shade is the share of the true label."""
    occurs = [i for i in range(len(labels)) if matrix[i].sum() or matrix[:, i].sum()] or list(range(len(labels)))
    counts, names = matrix[np.ix_(occurs, occurs)], [labels[i] for i in occurs]
    size = 3.0 + 0.32 * len(names)
    figure = _figure(size + 0.9, size)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1.2)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    centres = np.arange(len(names)) + 0.5
    axes.set_xticks(centres, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(centres, names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{_words(task)}: where mails went (counts)")
    axes.tick_params(length=0)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else INK
        axes.text(column + 0.5, row + 0.5, str(counts[row, column]), ha="center", va="center", fontsize=9, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("share of the true label")
    bar.outline.set_visible(False)
    return _save(figure, path)


def reliability_diagram(path: Path, tasks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Confidence against accuracy, before and after calibration; bins of fewer than `STEADY_BIN` mails are faint.

    `tasks` maps a task to `before` and `after` (rows of `metrics.reliability`), `ece_before` and `ece_after`.
    """
    figure = _figure(WIDTH, 0.8 + WIDTH / len(tasks))
    for axes, (task, values) in zip(_panels(figure, len(tasks)), tasks.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for which, colour, marker in (("before", COLOURS[1], "s"), ("after", COLOURS[0], "o")):
            if not values[which]:
                continue
            x, y, mails = (np.array([row[key] for row in values[which]]) for key in ("confidence", "accuracy", "mails"))
            label = f"{which} (ECE {values[f'ece_{which}']:.3f})"
            steady = mails >= STEADY_BIN
            axes.plot(x[steady], y[steady], color=colour, linewidth=1.4, alpha=0.6)
            sizes = 14 + 160 * mails / max(mails.sum(), 1)
            axes.scatter(x, y, s=sizes, color=colour, marker=marker, alpha=np.where(steady, 0.9, 0.35), zorder=3)
            axes.scatter([], [], s=36, color=colour, marker=marker, label=label)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=_words(task), xlabel="confidence", ylabel="share right")
        axes.set_aspect("equal")
        if values["before"]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, handletextpad=0.2)
        _bare(axes, grid="both")
    return _save(figure, path)


def coverage_curve(
    path: Path,
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    points: Mapping[str, tuple[float, float]],
) -> Path:
    """Precision against coverage if the most confident answers go out without a person.

    `curves` maps a name to (coverage, precision) arrays; `points` maps a name to where the thresholds put it.
    """
    figure = _figure(WIDTH, 4.9)
    axes = figure.subplots()
    lowest = 1.0
    for colour, (name, (coverage, precision)) in zip(COLOURS, curves.items(), strict=False):
        settled = slice(min(STEADY_BIN, len(coverage)) - 1, None)  # the first few mails jump about
        axes.plot(coverage[settled], precision[settled], color=colour, linewidth=2, label=_words(name))
        lowest = min(lowest, float(precision[settled].min()))
        if name in points:
            axes.scatter(*points[name], s=70, color=colour, edgecolor="white", linewidth=1.5, zorder=4)
            lowest = min(lowest, points[name][1])
    bottom = max(0.0, np.floor((lowest - 0.02) * 20) / 20)
    axes.set(xlim=(0, 1.01), ylim=(bottom, 1.0 + 0.02 * (1 - bottom)), xlabel="coverage: share of mails answered")
    axes.set_ylabel("precision: share of those right")
    axes.set_title("Precision against coverage (dot: at the bundle's threshold)")
    if curves:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=len(curves), frameon=False)
    _percent(axes)
    _bare(axes, grid="both")
    return _save(figure, path)


def label_f1(path: Path, task: str, labels: Mapping[str, Mapping[str, Any]]) -> Path:
    """F1 of each label with its interval: label -> entry of `metrics.json`; labels without mails are left out."""
    shown = sorted(
        ((name, entry) for name, entry in labels.items() if entry["support"]), key=lambda item: item[1]["f1"]
    )
    figure = _figure(WIDTH, 1.3 + 0.3 * len(shown))
    axes = figure.subplots()
    f1 = np.array([entry["f1"] for _, entry in shown])
    ends = np.array([entry.get("intervals", {}).get("f1", (entry["f1"],) * 2) for _, entry in shown]).reshape(-1, 2)
    axes.barh(range(len(shown)), f1, color="#6ea8cb", height=0.68)
    spread = np.abs(ends.T - f1)
    axes.errorbar(f1, range(len(shown)), xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    for row, (_, entry) in enumerate(shown):
        axes.text(1.02, row, f"{entry['f1']:.2f}", va="center", fontsize=9.5, color=INK)
        axes.text(1.16, row, f"{entry['support']:,}", va="center", ha="right", fontsize=9.5, color=MUTED)
    axes.text(1.02, len(shown) - 0.3, "F1", fontsize=9.5, color=INK)
    axes.text(1.16, len(shown) - 0.3, "mails", fontsize=9.5, color=MUTED, ha="right")
    axes.set(xlim=(0, 1.17), ylim=(-0.6, len(shown) + 0.3), xlabel="F1, with 95 % bootstrap interval")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_title(f"{_words(task)}: F1 of each label")
    _bare(axes, grid="x")
    return _save(figure, path)


def training_curve(path: Path, history: Sequence[Mapping[str, Any]], parts: Mapping[str, float] | None = None) -> Path:
    """Training loss and validation macro-F1 over epochs; a row of `history` has `epoch`, `loss` and `macro_f1`.

    `parts` (name -> macro-F1) become lines beside it: what does not learn by epochs.
    """
    figure = _figure(WIDTH, 3.6)
    epochs = [row["epoch"] for row in history]
    panels = (("loss", "Training loss"), ("macro_f1", "Validation macro-F1, mean over tasks"))
    parts = parts or {}
    for axes, colour, (key, title) in zip(_panels(figure, 2), COLOURS, panels, strict=False):
        values = [row[key] for row in history]
        axes.plot(epochs, values, color=colour, marker="o", markersize=5, linewidth=1.8)
        axes.annotate(f"{values[-1]:.3f}", (epochs[-1], values[-1]), (6, 0), textcoords="offset points", va="center")
        axes.set(title=title, xlabel="epoch")
        for style, (name, score) in zip(("--", ":"), parts.items() if key == "macro_f1" else (), strict=False):
            axes.axhline(score, color="#555555", linestyle=style, linewidth=1.2, label=f"{name} {score:.3f}")
        if key == "macro_f1" and parts:
            axes.lines[0].set_label("encoder alone")
            axes.legend(loc="lower right", frameon=False, fontsize=8)
        axes.margins(y=0.12)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5 + 0.08 * len(epochs))  # room for the last figure
        axes.xaxis.set_major_locator(_whole_numbers())
        _bare(axes, grid="both")
    return _save(figure, path)


def labels_over_time(path: Path, task: str, months: Sequence[str], shares: Mapping[str, Sequence[float]]) -> Path:
    """Share of a task's mails that carry a label, month by month: label -> one share a month."""
    figure = _figure(WIDTH, 3.8)
    axes = figure.subplots()
    for colour, (label, values) in zip(COLOURS, shares.items(), strict=False):
        axes.plot(range(len(months)), values, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=label)
    step = -(-len(months) // 9)  # nine names fit side by side
    axes.set_xticks(range(0, len(months), step), months[::step])
    axes.set_title(f"{_words(task)}: share of mails, the largest labels")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_percent_format())
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)
    _bare(axes, grid="y")
    return _save(figure, path)


def lengths(path: Path, characters: Mapping[str, Sequence[int]]) -> Path:
    """How long mails are after cleaning, a curve a language; logarithmic."""
    figure = _figure(WIDTH, 3.4)
    axes = figure.subplots()
    longest = max(max(values) for values in characters.values())
    bins = np.logspace(1, np.log10(max(longest, 100)), 40)
    for colour, (language, values) in zip(COLOURS, characters.items(), strict=False):
        counts, edges = np.histogram(np.clip(values, 10, None), bins)
        axes.stairs(counts, edges, color=colour, linewidth=1.8, label=f"{language} ({len(values):,})")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="characters after cleaning", ylabel="mails", title="How long mails are, by language")
    axes.legend(frameon=False)
    _bare(axes, grid="y")
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches. It knows nothing of pyplot, so that there is no global state and no display."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def _panels(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _bare(axes: Any, grid: str | None) -> None:
    if grid:
        axes.set_axisbelow(True)
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _percent(axes: Any) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percent_format())


def _percent_format() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=0)


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, min_n_ticks=1)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _save(figure: Any, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI)
    return path
