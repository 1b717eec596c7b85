"""Evaluation of a bundle that really was trained: the figures are those of the answers that production would give."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from mailtriage import champion, evaluation
from mailtriage.baselines import majority, tfidf_svm
from mailtriage.bundle import Bundle
from mailtriage.engines import OnnxEngine
from mailtriage.errors import DataError, TaxonomyError
from mailtriage.examples import Example
from mailtriage.inference import Triage, predict
from mailtriage.metrics import UNLABELLED
from mailtriage.taxonomy import Taxonomy
from mailtriage.training import train

PICTURES = {
    "coverage.png",
    "reliability.png",
    "labels.png",
    "training.png",
    *(f"{kind}_{task}.png" for kind in ("label_f1", "confusion") for task in ("line_of_business", "queue", "topic")),
}


@pytest.fixture(scope="module")
def output(tmp_path_factory, bundle_path, examples):
    folder = tmp_path_factory.mktemp("evaluation")
    returned = evaluation.evaluate(bundle_path, examples[320:], folder, baseline_train=examples[:320])
    assert returned == json.loads((folder / "metrics.json").read_text())
    return folder


@pytest.fixture(scope="module")
def against(tmp_path_factory, tiny_config, taxonomy, bundle_path, examples):
    """The bundle of the tests against one that hardly learnt."""
    folder = tmp_path_factory.mktemp("champion")
    poor = train(tiny_config.model_copy(update={"epochs": 1}), taxonomy, examples[:100], examples[300:], folder / "old")
    result = evaluation.evaluate(bundle_path, examples[320:], folder / "out", champion_path=poor.bundle.path)
    return result, folder / "out"


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "metrics.json").read_text())


def test_writes_metrics_report_and_pictures(output):
    names = {file.name for file in output.iterdir()}
    assert names >= {"metrics.json", "report.html", *PICTURES}


def test_metrics_hold_the_contract_for_every_task_and_label(result, taxonomy):
    for task in taxonomy.tasks:
        entry = result[task.id]
        assert entry.keys() >= {"accuracy", "macro_f1", "weighted_f1", "precision", "recall", "labels"}
        assert tuple(entry["labels"]) == task.label_ids
        for label in entry["labels"].values():
            assert label.keys() >= {"precision", "recall", "f1", "support"}
        assert sum(label["support"] for label in entry["labels"].values()) == entry["support"] <= 80


def test_answers_are_those_of_production(bundle_path, mails, taxonomy):
    bundle = Bundle.open(bundle_path)
    triage, engine = Triage.from_bundle(bundle), OnnxEngine(bundle)
    expected = predict(triage, engine, mails[:40])
    answers = evaluation.answer(triage, engine, taxonomy, [Example.from_email(mail) for mail in mails[:40]])
    for task in taxonomy.tasks:
        labels = [task.label_ids[number] for number in answers.chosen[task.id]]
        assert labels == [prediction.decoded.labels[task.id].label for prediction in expected]
    assert answers.routed.tolist() == [prediction.decoded.decision == "route" for prediction in expected]


def test_joint_decoding_leaves_no_invalid_combination(result):
    assert result["overall"]["invalid_after_decoding"] == 0.0


def test_report_compares_with_baselines(result):
    assert set(result["baselines"]) == {"majority", "tfidf_svm"}
    assert result["baselines"]["tfidf_svm"]["mean_macro_f1"] > result["baselines"]["majority"]["mean_macro_f1"]


def test_slices_cover_every_mail(result):
    assert set(result["slices"]) == {"language", "custodian_bank", "length", "month", "attachment", "quoted_mail"}
    for groups in result["slices"].values():
        assert sum(group["mails"] for group in groups.values()) == 80


def test_mails_are_grouped_by_the_files_they_brought_and_by_their_words_only_where_nobody_counted():
    mails = [
        Example("0", "", "Anbei mein Ausweis.", attachments=0),
        Example("1", "", "Wo bleibt mein Geld?", attachments=2),
        Example("2", "", "Der Beleg ist im Anhang."),
        Example("3", "", "Bitte rufen Sie mich an."),
    ]
    groups = evaluation.slices(mails)["attachment"]
    assert groups == ["without a file", "with a file", "not known, speaks of one", "not known, speaks of none"]


def test_confusion_table_agrees_with_the_metrics(output, result, taxonomy):
    for task in taxonomy.tasks:
        labels, matrix = evaluation.read_table(output / f"confusion_{task.id}.csv")
        assert tuple(labels) == task.label_ids
        assert np.trace(matrix) / np.sum(matrix) == pytest.approx(result[task.id]["accuracy"], abs=1e-4)


def test_a_mail_without_text_is_left_for_a_person(bundle_path, taxonomy, examples):
    bundle = Bundle.open(bundle_path)
    blank = dataclasses.replace(examples[0], subject="", text="", custodian_bank=None)
    answers = evaluation.answer(Triage.from_bundle(bundle), OnnxEngine(bundle), taxonomy, [blank, examples[1]])
    assert answers.answerable.tolist() == [False, True]
    assert not answers.routed[0]
    counted = evaluation.measure(taxonomy, bundle.decoder, answers, [blank, examples[1]])
    assert counted["overall"]["mails_without_text"] == 1


def test_mails_that_are_all_empty_are_measured_without_the_model(bundle_path, examples, tmp_path):
    blank = dataclasses.replace(examples[0], subject="", text="", custodian_bank=None)
    result = evaluation.evaluate(bundle_path, [blank], tmp_path)
    assert result["overall"]["routing"]["routed"] == 0


def test_mails_without_any_label_give_a_report_without_figures(bundle_path, examples, tmp_path):
    unlabelled = [dataclasses.replace(mail, labels={}) for mail in examples[:3]]
    result = evaluation.evaluate(bundle_path, unlabelled, tmp_path)
    assert result["queue"]["support"] == 0
    assert (tmp_path / "report.html").is_file()


def test_missing_labels_are_masked(taxonomy, examples):
    half = dataclasses.replace(examples[0], labels={"queue": examples[0].labels["queue"], "topic": None})
    true = evaluation.true_labels(taxonomy, [half])
    assert true["topic"].tolist() == true["line_of_business"].tolist() == [UNLABELLED]


def test_no_mails_is_an_error(bundle_path, tmp_path):
    with pytest.raises(DataError, match="found none"):
        evaluation.evaluate(bundle_path, [], tmp_path)


def test_a_label_that_the_bundle_does_not_have_is_an_error(bundle_path, examples, tmp_path):
    strange = dataclasses.replace(examples[0], labels={"queue": "no_such_queue"})
    with pytest.raises(TaxonomyError, match="no_such_queue"):
        evaluation.evaluate(bundle_path, [strange], tmp_path)


def test_majority_gives_the_commonest_label():
    true = {"queue": np.array([2, 2, 1, UNLABELLED]), "topic": np.full(4, UNLABELLED)}
    assert majority(true, 2)["queue"].tolist() == [2, 2]
    assert majority(true, 2)["topic"].tolist() == [0, 0]


def test_svm_learns_from_labelled_mails_only():
    words = ["dividend", "transfer"]
    train = [Example(str(n), "", f"please check my {words[n % 2]} today {n}") for n in range(40)]
    true = {"topic": np.array([UNLABELLED if n < 4 else n % 2 for n in range(40)])}
    test = [Example("a", "", "where is my dividend"), Example("b", "", "when is the transfer")]
    assert tfidf_svm(train, true, test)["topic"].tolist() == [0, 1]


def test_a_champion_that_hardly_learnt_loses_by_more_than_luck(against, taxonomy, examples):
    result, folder = against
    found = result["champion"]
    assert found["difference"] > 0.1
    assert found["p_value"] < 0.01
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    gained = result["overall"]["mean_macro_f1"] - found["mean_macro_f1"]
    assert found["difference"] == pytest.approx(gained, abs=2e-4)
    with (folder / "flips.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for task in taxonomy.task_ids:
        verdicts = [row["verdict"] for row in rows if row["task"] == task]
        assert verdicts.count("better") == found[task]["better"] > found[task]["worse"] == verdicts.count("worse")
    assert {row["id"] for row in rows} <= {mail.id for mail in examples[320:]}
    assert "What changes against the champion" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_model_against_itself_changes_nothing(bundle_path, examples, tmp_path):
    found = evaluation.evaluate(bundle_path, examples[360:], tmp_path, champion_path=bundle_path)["champion"]
    assert found["difference"] == 0
    assert found["p_value"] == 1.0
    assert found["queue"]["changed"] == 0
    assert (tmp_path / "flips.csv").read_text().splitlines() == ["id,task,true,champion,new,verdict"]


def test_labels_of_an_older_taxonomy_are_translated():
    old = Taxonomy.parse("{version: 1, tasks: {topic: {labels: {fees: , login: , tax: }}}}")
    new = Taxonomy.parse(
        "{version: 2, tasks: {topic: {labels: {tax: , costs: , locked: , error: }}}, history: ["
        "{version: 2, task: topic, change: renamed, from: fees, to: costs},"
        "{version: 2, task: topic, change: split, from: login, to: [locked, error]}]}"
    )
    assert champion._translations(old, new) == {"topic": {"fees": 1, "tax": 0}}


def test_the_split_is_proven_by_counting(result, examples, bundle_path, tmp_path):
    assert set(result["split"]["groups"]) == {"ids", "identical_texts", "near_duplicates", "threads"}
    assert result["split"]["parts"]["test"]["mails"] == 80
    leaky = evaluation.evaluate(bundle_path, examples[380:], tmp_path, baseline_train=examples[300:])
    assert leaky["split"]["groups"]["ids"]["crossing"] == 20


def test_the_promise_of_the_thresholds_is_in_the_metrics(result):
    routing = result["overall"]["routing"]
    assert routing["promise"] == {"of": "mail", "by": None, "precision": 0.95, "confidence": 0.9}
    assert 0 <= routing["expected_coverage"] <= 1
