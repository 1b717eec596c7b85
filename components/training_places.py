"""Where the train step trains: in its own process, or as a RayJob of `manifests/training`."""

import os
from pathlib import Path
from typing import Any

import yaml

from mailtriage.bundle import Bundle
from mailtriage.config import TrainingConfig

MANIFESTS = Path(__file__).parent.parent / "manifests" / "training"
RUN_ID = "KFP_RUN_ID"  # set by the pipeline from the label that KFP puts on the step's pod


def as_process(
    config: TrainingConfig, taxonomy: str, train: Path, validation: Path, output: Path
) -> tuple[Bundle, float]:
    """Train here; with Ray in this process where the configuration asks for workers."""
    from mailtriage.examples import read_examples
    from mailtriage.taxonomy import Taxonomy
    from mailtriage.training import train as train_model

    mails = list(read_examples(train)), list(read_examples(validation))
    result = train_model(config, Taxonomy.parse(taxonomy), *mails, output, say=print, taxonomy_text=taxonomy)
    return result.bundle, result.validation_macro_f1


def as_ray_job(
    config: TrainingConfig, taxonomy: str, train: Path, validation: Path, output: Path, job: str, namespace: str
) -> tuple[Bundle, float]:
    """Train as a RayJob over the claim that is mounted here and in the job."""
    from mailtriage.cluster_training import train_on_cluster
    from mailtriage.kubernetes_api import own_namespace

    return train_on_cluster(
        config,
        taxonomy,
        train,
        validation,
        output,
        template=yaml.safe_load(job) if job.strip() else manifest("gpu" if config.gpus else "cpu"),
        namespace=namespace or own_namespace(),
        run=os.environ.get(RUN_ID, ""),
    )


def manifest(variant: str) -> dict[str, Any]:
    """The RayJob of `manifests/training/VARIANT`, as `kubectl apply -k` makes it."""
    import jsonpatch

    job = yaml.safe_load((MANIFESTS / "cpu" / "rayjob.yaml").read_text(encoding="utf-8"))
    if variant == "gpu":
        patch = yaml.safe_load((MANIFESTS / "gpu" / "workers.yaml").read_text(encoding="utf-8"))
        job = jsonpatch.apply_patch(job, patch)
    return dict(job)
