"""Step 6: write the run to MLflow and register the bundle as a version. Nobody is asked, and nothing is approved."""

from typing import NamedTuple

from kfp import dsl

from components.image import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def register(
    bundle: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    data_sha256: str,
    experiment: str,
    model_name: str,
    tracking_uri: str,
) -> NamedTuple("Registered", [("version", str), ("run_id", str)]):
    """Record and register.

    Args:
        evaluation: the folder that `evaluate` wrote.
        data_sha256: which raw mails the run started from.
        tracking_uri: an MLflow server; empty for what `MLFLOW_TRACKING_URI` says, or SQLite on this machine.
    """
    import json
    import os
    from pathlib import Path

    from mailtriage import registry, tracking
    from mailtriage.bundle import Bundle
    from mailtriage.evaluation import training_history

    if tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    opened = Bundle.open(bundle.path)
    metrics = json.loads((Path(evaluation.path) / "metrics.json").read_text(encoding="utf-8"))
    run_id = tracking.record(
        params={
            "data_sha256": data_sha256,
            "taxonomy_version": opened.taxonomy.version,
            "cleaning_version": opened.manifest["cleaning_version"],
            **opened.read_json("training.json"),
        },
        metrics=metrics,
        history=training_history(opened),
        files=Path(evaluation.path),
        experiment=experiment,
    )
    version = registry.register(bundle.path, run_id, metrics, model_name)
    print(f"registered {model_name} version {version}; it serves nobody until a person approves it")
    return version, run_id
