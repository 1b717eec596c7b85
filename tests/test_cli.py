"""The command line: the contracts that others script against, as processes with files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mailtriage.mail import Email

ROOT = Path(__file__).parent.parent


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailtriage.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == code, done.stderr
    return done


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, mails: list[Email]) -> Path:
    path = tmp_path_factory.mktemp("data") / "mails.jsonl"
    path.write_text("".join(json.dumps(mail.to_record()) + "\n" for mail in mails[:60]), encoding="utf-8")
    return path


def test_sample_writes_the_same_mails_for_the_same_seed(tmp_path: Path) -> None:
    run("sample", "--rows", 30, "--seed", 4, "--output", tmp_path / "a.jsonl")
    run("sample", "--rows", 30, "--seed", 4, "--output", tmp_path / "b.jsonl")

    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert len(rows(tmp_path / "a.jsonl")) == 30
    assert {"id", "subject", "body", "line_of_business", "queue", "topic"} <= rows(tmp_path / "a.jsonl")[0].keys()


def test_clean_writes_text_and_spans_and_quarantines_bad_rows(tmp_path: Path) -> None:
    body = "Wann kommt mein Geld?\n\nVon meinem iPhone gesendet"
    mails = tmp_path / "in.jsonl"
    mails.write_text(json.dumps({"id": "1", "subject": "AW: Frage", "body": body}) + "\n{broken\n", encoding="utf-8")

    run("clean", mails, tmp_path / "out.jsonl", "--quarantine", tmp_path / "bad.jsonl")

    (cleaned,) = rows(tmp_path / "out.jsonl")
    assert (cleaned["id"], cleaned["subject"], cleaned["text"]) == ("1", "Frage", "Wann kommt mein Geld?")
    footer = next(span for span in cleaned["removed"] if span["kind"] == "client_footer")
    assert body[footer["start"] : footer["end"]].strip() == "Von meinem iPhone gesendet"
    (bad,) = rows(tmp_path / "bad.jsonl")
    assert bad["row"] == 2
    assert "broken" not in bad["reason"]


def test_clean_shows_one_mail_as_a_page(tmp_path: Path) -> None:
    mails = tmp_path / "in.jsonl"
    records = [{"id": n, "body": f"Frage {n}\n\nVon meinem iPhone gesendet"} for n in ("a", "b")]
    mails.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    run("clean", mails, "--show", "--id", "b", "--html", tmp_path / "page.html")

    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 1
    assert "Frage b" in page
    assert "DataError: expected the mail 'c'" in run("clean", mails, "--show", "--id", "c", code=1).stderr


def test_clean_compares_with_what_a_bundle_was_trained_on(bundle_path: Path, data: Path) -> None:
    done = run("clean", data, "--diff", bundle_path)

    assert "60 unchanged, 0 changed" in done.stdout


def test_taxonomy_check_says_what_is_there_and_what_is_wrong(tmp_path: Path) -> None:
    assert "is sound" in run("taxonomy", "check", ROOT / "taxonomy.yaml").stdout

    (tmp_path / "bad.yaml").write_text("version: 1\ntaskz: {}\n")
    assert (
        "unknown key 'taskz', did you mean 'tasks'?" in run("taxonomy", "check", tmp_path / "bad.yaml", code=1).stderr
    )


def test_predict_answers_every_mail_in_order_as_the_rest_route_does(
    bundle_path: Path, data: Path, mails: list[Email], tmp_path: Path
) -> None:
    run("predict", bundle_path, data, tmp_path / "answers.jsonl")

    answers = rows(tmp_path / "answers.jsonl")
    assert [answer["id"] for answer in answers] == [mail.id for mail in mails[:60]]
    assert set(answers[0]) == {"id", "labels", "decision", "alternatives", "model_version", "taxonomy_version"}


def test_predict_keeps_the_place_of_a_row_that_cannot_be_used(bundle_path: Path, tmp_path: Path) -> None:
    with (tmp_path / "mails.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [["id", "subject", "body"], ["1", "Depot", "Hallo"], ["2", "", ""], ["3", "TAN", "x"]]
        )

    run("predict", bundle_path, tmp_path / "mails.csv", tmp_path / "answers.jsonl")

    answers = rows(tmp_path / "answers.jsonl")
    assert [answer.get("id") for answer in answers] == ["1", None, "3"]
    assert answers[1]["error"]["code"] == "no_text"


def test_evaluate_writes_metrics_report_and_pictures(bundle_path: Path, data: Path, tmp_path: Path) -> None:
    run("evaluate", bundle_path, data, "--output", tmp_path)

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    scores = metrics["queue"]
    assert {"accuracy", "macro_f1", "weighted_f1", "precision", "recall"} <= scores.keys()
    assert {"precision", "recall", "f1", "support"} <= next(iter(scores["labels"].values())).keys()
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert list(tmp_path.glob("*.png"))


def test_explore_writes_a_page_figures_and_labels_to_check_and_quarantines_bad_rows(
    mails: list[Email], tmp_path: Path
) -> None:
    records = [mail.to_record() for mail in mails[:60]]
    records[7]["topic"] = "nonsense"
    (tmp_path / "mails.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    done = run("explore", tmp_path / "mails.jsonl", "--output", tmp_path / "explore")

    figures = json.loads((tmp_path / "explore" / "explore.json").read_text())
    dated = sum(sum(month.values()) for month in figures["labels_by_month"]["queue"].values())
    assert figures["mails"] == dated + figures["missing"]["queue"] == 59
    assert "59 labelled mails" in (tmp_path / "explore" / "explore.html").read_text(encoding="utf-8")
    with (tmp_path / "explore" / "suspicious_labels.csv").open(encoding="utf-8", newline="") as stream:
        assert next(csv.reader(stream)) == ["id", "task", "given label", "suggested label", "confidence"]
    (bad,) = rows(tmp_path / "explore.quarantine.jsonl")
    assert (bad["row"], bad["code"]) == (8, "unknown_label")
    assert "1 rows cannot be used" in done.stderr


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, mails: list[Email], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mails.jsonl`, 199 mails and a row that cannot be used, and the `bundle` trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {"taxonomy": str(ROOT / "taxonomy.yaml"), "encoder": str(tiny_encoder), "max_tokens": 64, "epochs": 1}
    (folder / "config.yaml").write_text(json.dumps(settings | {"export_tolerance": 0.5, "seed": 3}))
    records = [mail.to_record() for mail in mails[:200]]
    records[3]["queue"] = "nonsense"
    (folder / "mails.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    run("train", "--config", folder / "config.yaml", "--data", folder / "mails.jsonl", "--output", folder / "bundle")
    return folder


def test_train_writes_a_bundle_that_verifies_and_quarantines_unknown_labels(trained: Path) -> None:
    assert "is whole" in run("bundle", "verify", trained / "bundle").stdout
    (bad,) = rows(trained / "bundle.quarantine.jsonl")
    assert (bad["row"], bad["code"]) == (4, "unknown_label")


def test_evaluate_on_its_training_file_measures_the_part_that_training_left_out(trained: Path, tmp_path: Path) -> None:
    done = run("evaluate", trained / "bundle", trained / "mails.jsonl", "--output", tmp_path / "evaluation")

    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    parts = {name: part["mails"] for name, part in metrics["split"]["parts"].items()}
    assert sum(parts.values()) == 199
    assert parts["test"] == metrics["overall"]["mails"] < 30
    assert metrics["overall"]["mails_seen"] == 0
    assert all(counts["crossing"] == 0 for counts in metrics["split"]["groups"].values())
    assert set(metrics["baselines"]) == {"majority", "tfidf_svm"}
    assert f"{parts['test']} mails that the model has not seen" in _page(tmp_path / "evaluation")
    assert f"measuring on the {parts['test']}" in done.stderr
    (bad,) = rows(tmp_path / "evaluation.quarantine.jsonl")
    assert (bad["row"], bad["code"]) == (4, "unknown_label")


def test_evaluate_never_calls_a_mail_unseen_that_the_model_or_another_was_trained_on(
    trained: Path, bundle_path: Path, mails: list[Email], tmp_path: Path
) -> None:
    """180 mails of the training file, and 20 mails that came later."""
    renamed = [mail.to_record() | {"id": f"again-{mail.id}"} for mail in [*mails[10:190], *mails[380:]]]
    (tmp_path / "mails.jsonl").write_text("".join(json.dumps(record) + "\n" for record in renamed), encoding="utf-8")

    done = run(
        "evaluate", trained / "bundle", tmp_path / "mails.jsonl", "--output", tmp_path,
        "--champion", bundle_path, "--against", f"the other={bundle_path}",
    )  # fmt: skip

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    left_out = 199 - len(read_hashes(trained / "bundle"))
    assert metrics["overall"]["mails"] == 200
    assert 180 - left_out <= metrics["overall"]["mails_seen"] <= 190
    assert metrics["champion"]["mails_seen"] == metrics["against"]["the other"]["mails_seen"] == 200
    for task in ("line_of_business", "queue", "topic"):
        assert metrics["against"]["the other"][task]["macro_f1"] == metrics["champion"][task]["macro_f1"] > 0
    page = _page(tmp_path)
    assert "that the model has not seen" not in page
    assert f"fitted on or chosen by {metrics['overall']['mails_seen']} of these 200 mails" in page
    assert "the other, which saw 200 of these mails before" in page
    assert f"has seen {metrics['overall']['mails_seen']} of 200 mails" in done.stderr


def read_hashes(bundle: Path) -> set[str]:
    return set((bundle / "seen_mails.txt").read_text(encoding="utf-8").split())


def _page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_against_wants_a_name_and_a_bundle(bundle_path: Path, data: Path, tmp_path: Path) -> None:
    done = run("evaluate", bundle_path, data, "--output", tmp_path, "--against", bundle_path, code=1)

    assert "ConfigError: expected --against NAME=BUNDLE" in done.stderr


def test_verify_names_the_damaged_file(bundle_path: Path, tmp_path: Path) -> None:
    import shutil

    broken = Path(shutil.copytree(bundle_path, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{}")

    assert "'tokenizer.json'" in run("bundle", "verify", broken, code=1).stderr


def test_an_unknown_setting_ends_with_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epoch: 3\n")

    done = run("train", "--config", tmp_path / "config.yaml", "--data", data, "--output", tmp_path / "b", code=1)

    assert "unknown key 'epoch', did you mean 'epochs'?" in done.stderr
    assert "Traceback" not in done.stderr
