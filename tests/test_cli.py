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


def test_train_writes_a_bundle_that_verifies_and_quarantines_unknown_labels(
    tiny_encoder: Path, mails: list[Email], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    settings = {"taxonomy": str(ROOT / "taxonomy.yaml"), "encoder": str(tiny_encoder), "max_tokens": 64, "epochs": 1}
    config.write_text(json.dumps(settings | {"export_tolerance": 0.5}))
    records = [mail.to_record() for mail in mails[:200]]
    records[3]["queue"] = "nonsense"
    (tmp_path / "mails.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    run("train", "--config", config, "--data", tmp_path / "mails.jsonl", "--output", tmp_path / "bundle")

    assert "is whole" in run("bundle", "verify", tmp_path / "bundle").stdout
    (bad,) = rows(tmp_path / "bundle.quarantine.jsonl")
    assert (bad["row"], bad["code"]) == (4, "unknown_label")


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
