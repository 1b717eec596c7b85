"""Step 2: cut each mail down to what the client wrote now, exactly as serving does."""

from kfp import dsl

from components.image import TRAINING_IMAGE


@dsl.component(base_image=TRAINING_IMAGE, install_kfp_package=False)
def clean(mails: dsl.Input[dsl.Dataset], taxonomy: str, examples: dsl.Output[dsl.Dataset]) -> int:
    """Clean mails; returns how many.

    Args:
        mails: what `ingest` read.
        taxonomy: the text of a `taxonomy.yaml`.
        examples: cleaned mails with labels, language and the kinds of text that were cut.
    """
    from pathlib import Path

    from components.metadata import describe
    from mailtriage.cleaning import CLEANING_VERSION
    from mailtriage.examples import write_examples
    from mailtriage.ingestion import clean_mails
    from mailtriage.taxonomy import Taxonomy

    labels = Taxonomy.parse(taxonomy)
    rows = write_examples(Path(examples.path), clean_mails(Path(mails.path), labels.task_ids, progress=print))
    examples.metadata.update(describe(examples.path, rows, labels.version), cleaning_version=CLEANING_VERSION)
    print(f"{rows:,} mails cleaned")
    return rows
