"""Step 4: train the model and seal the bundle."""

from kfp import dsl

from components.image import TRAINING_IMAGE


@dsl.component(base_image=TRAINING_IMAGE, install_kfp_package=False)
def train(
    train_mails: dsl.Input[dsl.Dataset],
    validation_mails: dsl.Input[dsl.Dataset],
    config: str,
    taxonomy: str,
    bundle: dsl.Output[dsl.Model],
) -> float:
    """Train on one machine, or on Ray where the configuration asks for workers; returns validation macro-F1.

    Args:
        config: the text of a training configuration (`configs/*.yaml`).
        taxonomy: the text of a `taxonomy.yaml`; it goes into the bundle.
        bundle: the sealed bundle: weights, tokenizer, calibration, thresholds, ONNX.
    """
    from pathlib import Path

    from mailtriage.config import TrainingConfig
    from mailtriage.examples import read_examples
    from mailtriage.taxonomy import Taxonomy
    from mailtriage.training import train as train_model

    result = train_model(
        TrainingConfig.parse(config),
        Taxonomy.parse(taxonomy),
        list(read_examples(train_mails.path)),
        list(read_examples(validation_mails.path)),
        Path(bundle.path),
        say=print,
        taxonomy_text=taxonomy,
    )
    bundle.metadata.update(
        digest=result.bundle.digest,
        taxonomy_version=result.bundle.taxonomy.version,
        cleaning_version=result.bundle.manifest["cleaning_version"],
        train_sha256=train_mails.metadata.get("sha256", ""),
        train_rows=train_mails.metadata.get("rows", 0),
    )
    return result.validation_macro_f1
