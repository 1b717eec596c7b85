"""Step 2: cut each mail down to what the client wrote now, exactly as serving does."""

from kfp import dsl

from components.image import TRAINING_IMAGE


@dsl.component(base_image=TRAINING_IMAGE, install_kfp_package=False)
def clean(
    mails: dsl.Input[dsl.Dataset], taxonomy: str, examples: dsl.Output[dsl.Dataset], ray_address: str = ""
) -> int:
    """Clean mails; returns how many.

    Args:
        mails: what `ingest` read.
        taxonomy: the text of a `taxonomy.yaml`.
        ray_address: a Ray cluster that sees the mails and shall clean them; by default all cores of this machine do.
        examples: cleaned mails with labels, language and the kinds of text that were cut.
    """
    from pathlib import Path

    from components.metadata import describe
    from mailtriage.cleaning import CLEANING_VERSION
    from mailtriage.ingestion import clean_mails
    from mailtriage.taxonomy import Taxonomy

    labels = Taxonomy.parse(taxonomy)
    rows = clean_mails(Path(mails.path), labels.task_ids, Path(examples.path), progress=print, ray_address=ray_address)
    examples.metadata.update(describe(examples.path, rows, labels.version), cleaning_version=CLEANING_VERSION)
    print(f"{rows:,} mails cleaned")
    return rows
