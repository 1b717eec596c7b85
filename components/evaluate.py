"""Step 5: measure the bundle on test mails that it has not seen, and draw."""

from kfp import dsl

from components.image import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def evaluate(
    bundle: dsl.Input[dsl.Model],
    train_mails: dsl.Input[dsl.Dataset],
    validation_mails: dsl.Input[dsl.Dataset],
    test_mails: dsl.Input[dsl.Dataset],
    model_name: str,
    tracking_uri: str,
    evaluation: dsl.Output[dsl.Artifact],
    scores: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    line_of_business: dsl.Output[dsl.ClassificationMetrics],
    queue: dsl.Output[dsl.ClassificationMetrics],
    topic: dsl.Output[dsl.ClassificationMetrics],
) -> float:
    """Measure a bundle as it would answer in production; returns the mean macro-F1 over tasks.

    Args:
        train_mails: what the baselines of the report are fitted on.
        validation_mails: with them the report proves that no group of mails crosses the split.
        model_name: the model whose champion, if it has one, the report compares with.
        tracking_uri: an MLflow server; empty for what `MLFLOW_TRACKING_URI` says, or SQLite on this machine.
        evaluation: a folder with `metrics.json`, `report.html`, pictures and confusion matrices.
        line_of_business, queue, topic: the confusion matrix of the task of that name, for the KFP page.
    """
    import os
    import shutil
    import tempfile
    from pathlib import Path

    from mailtriage import registry
    from mailtriage.evaluation import evaluate as evaluate_bundle
    from mailtriage.evaluation import read_table
    from mailtriage.examples import read_examples

    if tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    folder = Path(evaluation.path)
    train, validation, test = (list(read_examples(m.path)) for m in (train_mails, validation_mails, test_mails))
    with tempfile.TemporaryDirectory() as temporary:
        champion = registry.fetch_champion(Path(temporary) / "champion", model_name, say=print)
        metrics = evaluate_bundle(
            bundle.path,
            test,
            folder,
            baseline_train=train,
            validation=validation,
            champion_path=champion.path if champion else None,
            progress=print,
        )
    overall = metrics["overall"]
    evaluation.metadata.update(rows=len(test), sha256=test_mails.metadata.get("sha256", ""), **metrics["model"])
    shutil.copy(folder / "report.html", report.path)
    for task, artifact in {"line_of_business": line_of_business, "queue": queue, "topic": topic}.items():
        if task in metrics:
            artifact.log_confusion_matrix(*read_table(folder / f"confusion_{task}.csv"))
            scores.log_metric(f"{task}/macro_f1", metrics[task]["macro_f1"])
            scores.log_metric(f"{task}/accuracy", metrics[task]["accuracy"])
            scores.log_metric(f"{task}/ece", metrics[task]["calibration"]["ece_after"])
            for label, entry in metrics[task]["labels"].items():
                if entry["support"]:
                    scores.log_metric(f"{task}/{label}/f1", entry["f1"])
    for name in ("mean_macro_f1", "exact_match"):
        scores.log_metric(name, overall[name])
    scores.log_metric("routed", overall["routing"]["coverage"])
    print(f"mean macro-F1 {overall['mean_macro_f1']:.3f}, every label right {overall['exact_match']:.1%}")
    return overall["mean_macro_f1"]
