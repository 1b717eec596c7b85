"""The pipeline `training`: from raw mails to a registered version that a person may approve."""

from typing import NamedTuple

from kfp import dsl, kubernetes

from components.clean import clean
from components.evaluate import evaluate
from components.ingest import ingest
from components.register import register
from components.split import split
from components.train import train
from components.training_places import RUN_ID
from mailtriage.cluster_training import SHARED

STEP_LIMIT = 3600  # seconds, also for a pod that cannot start
TRAIN_LIMIT = 24 * 3600  # the RayJob has its own, shorter deadlines
SHARED_CLAIM = "mailtriage-shared"  # manifests/base/shared-storage.yaml; the RayJob mounts it, too


class Outputs(NamedTuple):
    """What a run leaves behind."""

    version: str
    run_id: str
    mean_macro_f1: float
    bundle: dsl.Model
    evaluation: dsl.Artifact


@dsl.pipeline(
    name="training",
    description="Reads, cleans and splits labelled mails, trains and evaluates a model, and registers it in MLflow.",
)
def training(
    data: str,
    taxonomy: str,
    config: str,
    experiment: str = "mailtriage",
    model_name: str = "mailtriage",
    tracking_uri: str = "",
    seed: int = 7,
    ray_address: str = "",
    train_as: str = "ray-job",
    ray_job: str = "",
    ray_namespace: str = "",
) -> Outputs:
    """Train a model.

    Args:
        data: raw labelled mails: a file or folder that the steps can see, or an `s3://` or `gs://` address.
        taxonomy: the text of a `taxonomy.yaml`.
        config: the text of a training configuration (`configs/*.yaml`).
        experiment: the MLflow experiment that the run is written to.
        model_name: the name in the MLflow registry.
        tracking_uri: an MLflow server; empty on one machine, where SQLite and a folder do.
        seed: of the split.
        ray_address: a Ray cluster that cleans the mails, for more of them than one machine should take.
        train_as: `ray-job`, which the train step makes and follows; on one machine `process`.
        ray_job: the text of a RayJob in place of that in manifests/training: other images, resources, nodes, deadlines.
        ray_namespace: where the RayJob runs; by default where the step does. The claim `mailtriage-shared` of both must
            lead to the same files.
    """
    ingested = ingest(data=data, taxonomy=taxonomy)
    ingested.set_caching_options(False)  # the address says nothing about what lies there today
    cleaned = clean(mails=ingested.outputs["mails"], taxonomy=taxonomy, ray_address=ray_address)
    parts = split(examples=cleaned.outputs["examples"], taxonomy=taxonomy, config=config, seed=seed)
    trained = train(
        train_mails=parts.outputs["train"],
        validation_mails=parts.outputs["validation"],
        config=config,
        taxonomy=taxonomy,
        train_as=train_as,
        ray_job=ray_job,
        ray_namespace=ray_namespace,
    )
    measured = evaluate(
        bundle=trained.outputs["bundle"],
        train_mails=parts.outputs["train"],
        validation_mails=parts.outputs["validation"],
        test_mails=parts.outputs["test"],
        model_name=model_name,
        tracking_uri=tracking_uri,
    )
    measured.set_caching_options(False)  # the champion may be another one today
    registered = register(
        bundle=trained.outputs["bundle"],
        evaluation=measured.outputs["evaluation"],
        data_sha256=ingested.outputs["sha256"],
        experiment=experiment,
        model_name=model_name,
        tracking_uri=tracking_uri,
    )
    registered.set_caching_options(False)  # MLflow's registry knows whether this run has a version, the cache does not
    for step in (ingested, cleaned, parts, measured, registered):
        kubernetes.set_timeout(step, seconds=STEP_LIMIT)
    kubernetes.set_timeout(trained, seconds=TRAIN_LIMIT)
    kubernetes.mount_pvc(trained, pvc_name=SHARED_CLAIM, mount_path=str(SHARED))
    kubernetes.use_field_path_as_env(trained, env_name=RUN_ID, field_path="metadata.labels['pipeline/runid']")
    return Outputs(
        registered.outputs["version"],
        registered.outputs["run_id"],
        measured.outputs["Output"],
        trained.outputs["bundle"],
        measured.outputs["evaluation"],
    )
