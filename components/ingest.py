"""Step 1: read raw mails of any supported format; what cannot be read goes to the quarantine, with its reason."""

from typing import NamedTuple

from kfp import dsl

from components.image import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def ingest(data: str, taxonomy: str, mails: dsl.Output[dsl.Dataset], quarantine: dsl.Output[dsl.Dataset]) -> NamedTuple(
    "Ingested", [("rows", int), ("rejected", int), ("sha256", str)]
):
    """Read raw mails.

    Args:
        data: a file or folder that this step can see, or an `s3://` or `gs://` address.
        taxonomy: the text of a `taxonomy.yaml`; its tasks name the label columns.
        mails: raw mails, one JSON object a line.
        quarantine: rows that could not be read, one JSON object a line, with the reason.
    """
    from pathlib import Path

    from components.metadata import describe
    from mailtriage.ingestion import ingest_mails
    from mailtriage.taxonomy import Taxonomy

    labels = Taxonomy.parse(taxonomy)
    counts = ingest_mails(data, labels, Path(mails.path), Path(quarantine.path))
    mails.metadata.update(describe(mails.path, counts.rows, labels.version))
    quarantine.metadata.update(describe(quarantine.path, counts.rejected, labels.version))
    print(f"{counts.rows:,} mails read, {counts.rejected:,} rejected")
    return counts.rows, counts.rejected, mails.metadata["sha256"]
