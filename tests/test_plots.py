"""Pictures: every one is written, no text of it is cut off, and no two labels of an axis cover each other."""

import itertools

import numpy as np
import pytest

from mailtriage import metrics, plots

LONG = [f"a_rather_long_label_name_{number:02d}" for number in range(26)]
TASKS = {"line_of_business": LONG[:5], "queue": LONG[:9], "topic": LONG}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, for a look at where their texts are."""
    figures = []
    save = plots._save

    def keep(figure, path):
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def answers(labels, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, len(labels), size=600)
    return true, np.where(rng.random(600) < 0.8, true, rng.integers(0, len(labels), size=600)), rng.beta(5, 1, 600)


def assert_readable(figure):
    figure.canvas.draw()
    width, height = figure.bbox.size
    for axes in figure.axes:
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        for text in texts:
            if text.get_text() and text.get_visible():
                box = text.get_window_extent()
                inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
                assert inside, f"'{text.get_text()}' is cut off"
        for one, other in itertools.pairwise(label.get_window_extent() for label in axes.get_yticklabels()):
            assert one.y1 <= other.y0 + 1 or other.y1 <= one.y0 + 1, "two labels cover each other"


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n")


def test_label_distribution(tmp_path, drawn):
    counts = {task: {label: 7 * position for position, label in enumerate(labels)} for task, labels in TASKS.items()}
    assert is_png(plots.label_distribution(tmp_path / "labels.png", counts))
    assert_readable(drawn[0])


@pytest.mark.parametrize("task", TASKS)
def test_confusion_matrix(tmp_path, drawn, task):
    true, predicted, _ = answers(TASKS[task])
    matrix = metrics.confusion_matrix(len(TASKS[task]), true, predicted)
    assert is_png(plots.confusion_matrix(tmp_path / "confusion.png", task, TASKS[task], matrix))
    assert_readable(drawn[0])


def test_confusion_matrix_leaves_out_labels_that_do_not_occur(tmp_path, drawn):
    matrix = np.zeros((3, 3), dtype=np.int64)
    matrix[0, 0], matrix[0, 2] = 4, 1
    plots.confusion_matrix(tmp_path / "confusion.png", "queue", ["a", "b", "c"], matrix)
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["a", "c"]


def test_reliability_diagram(tmp_path, drawn):
    tasks = {}
    for task, labels in TASKS.items():
        true, predicted, confidence = answers(labels)
        rows = metrics.reliability(confidence, true == predicted)
        tasks[task] = {"before": rows, "after": rows, "ece_before": 0.1, "ece_after": 0.02}
    assert is_png(plots.reliability_diagram(tmp_path / "reliability.png", tasks))
    assert_readable(drawn[0])


def test_coverage_curve(tmp_path, drawn):
    curves = {}
    for task, labels in TASKS.items():
        true, predicted, confidence = answers(labels)
        curves[task] = metrics.coverage_curve(confidence, true == predicted)
    assert is_png(plots.coverage_curve(tmp_path / "coverage.png", curves, {"queue": (0.5, 0.9)}))
    assert_readable(drawn[0])


def test_coverage_curve_of_a_handful_of_mails(tmp_path):
    curve = metrics.coverage_curve(np.array([0.9, 0.8]), np.array([True, False]))
    assert is_png(plots.coverage_curve(tmp_path / "coverage.png", {"queue": curve}, {}))


@pytest.mark.parametrize("task", TASKS)
def test_label_f1(tmp_path, drawn, task):
    true, predicted, _ = answers(TASKS[task])
    entry = metrics.classification(TASKS[task], true, predicted)
    assert is_png(plots.label_f1(tmp_path / "f1.png", task, entry["labels"]))
    assert_readable(drawn[0])


def test_training_curve_of_one_epoch(tmp_path, drawn):
    history = [{"epoch": 1, "loss": 2.0, "macro_f1": 0.3, "seconds": 4.0}]
    assert is_png(plots.training_curve(tmp_path / "training.png", history))
    assert_readable(drawn[0])


def test_training_curve_with_lines_for_what_does_not_learn_by_epochs(tmp_path, drawn):
    history = [{"epoch": n, "loss": 2.0 / n, "macro_f1": 0.2 * n, "seconds": 4.0} for n in (1, 2, 3, 4)]
    parts = {"both together": 0.88, "lexical heads alone": 0.85}
    assert is_png(plots.training_curve(tmp_path / "training.png", history, parts))
    assert_readable(drawn[0])
    named = [text.get_text() for text in drawn[0].axes[1].get_legend().get_texts()]
    assert named == ["encoder alone", "both together 0.880", "lexical heads alone 0.850"]
