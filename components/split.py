"""Step 3: train, validation and test mails, such that no near-duplicate stands on two sides."""

from kfp import dsl

from components.image import PLATFORM_IMAGE


@dsl.component(base_image=PLATFORM_IMAGE, install_kfp_package=False)
def split(
    examples: dsl.Input[dsl.Dataset],
    taxonomy: str,
    config: str,
    seed: int,
    train: dsl.Output[dsl.Dataset],
    validation: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
):
    """Split cleaned mails 80 : 10 : 10 by group of near-duplicates and threads; the same seed gives the same split.

    Args:
        config: the text of a training configuration; `split` says whether by chance or by time.
    """
    from pathlib import Path

    from components.metadata import describe
    from mailtriage.config import TrainingConfig
    from mailtriage.examples import read_examples, write_examples
    from mailtriage.splitting import split as split_examples
    from mailtriage.taxonomy import Taxonomy

    version = Taxonomy.parse(taxonomy).version
    parts = split_examples(list(read_examples(examples.path)), seed=seed, method=TrainingConfig.parse(config).split)
    for output, part in ((train, parts.train), (validation, parts.validation), (test, parts.test)):
        rows = write_examples(Path(output.path), part)
        output.metadata.update(describe(output.path, rows, version), seed=seed, groups=parts.groups)
        print(f"{output.name.split('/')[-1]}: {rows:,} mails")
