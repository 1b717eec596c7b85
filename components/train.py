"""Step 4: train the model and seal the bundle, in this process or as a RayJob that this step makes and follows."""

from kfp import dsl

from components.image import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def train(
    train_mails: dsl.Input[dsl.Dataset],
    validation_mails: dsl.Input[dsl.Dataset],
    config: str,
    taxonomy: str,
    train_as: str,
    ray_job: str,
    ray_namespace: str,
    bundle: dsl.Output[dsl.Model],
) -> float:
    """Train; returns validation macro-F1.

    Args:
        config: the text of a training configuration (`configs/*.yaml`).
        taxonomy: the text of a `taxonomy.yaml`; it goes into the bundle.
        train_as: `ray-job`, or `process` where this process has torch.
        ray_job: the text of a RayJob; empty for that of `manifests/training`, with GPUs if the configuration has them.
        ray_namespace: where the RayJob runs; empty for this step's namespace.
        bundle: the sealed bundle: weights, tokenizer, calibration, thresholds, ONNX.
    """
    from pathlib import Path

    from components.training_places import as_process, as_ray_job
    from mailtriage.config import TrainingConfig
    from mailtriage.errors import ConfigError

    settings = TrainingConfig.parse(config)
    paths = Path(train_mails.path), Path(validation_mails.path), Path(bundle.path)
    if train_as == "process":
        sealed, score = as_process(settings, taxonomy, *paths)
    elif train_as == "ray-job":
        sealed, score = as_ray_job(settings, taxonomy, *paths, ray_job, ray_namespace)
    else:
        raise ConfigError(f"expected train_as to be 'ray-job' or 'process', found '{train_as}'")
    bundle.metadata.update(
        digest=sealed.digest,
        taxonomy_version=sealed.taxonomy.version,
        cleaning_version=sealed.manifest["cleaning_version"],
        train_sha256=train_mails.metadata.get("sha256", ""),
        train_rows=train_mails.metadata.get("rows", 0),
    )
    return score
