"""Finds the pre-trained encoder that a configuration names, with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mailtriage.config import TrainingConfig
from mailtriage.errors import EncoderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

EMBEDDED = "embedded"


def load_encoder(config: TrainingConfig, texts: Iterable[str]) -> tuple[PreTrainedModel, Tokenizer]:
    """The encoder and its fast tokenizer.

    Args:
        config: `encoder` is `embedded`, a Hugging Face name, or a folder that `save_pretrained` wrote.
        texts: training mails, for the vocabulary of the embedded encoder.

    Raises:
        EncoderError: nothing can be loaded under that name, or it has no fast tokenizer.
    """
    if config.encoder == EMBEDDED:
        from mailtriage.embedded_encoder import load_embedded

        return load_embedded(texts, config.languages, config.encoder_layers)
    return _load_pretrained(config)


def _load_pretrained(config: TrainingConfig) -> tuple[PreTrainedModel, Tokenizer]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        with quiet_transformers():
            settings = AutoConfig.from_pretrained(config.encoder)
            if config.encoder_layers is not None:
                settings.num_hidden_layers = config.encoder_layers
            model = AutoModel.from_pretrained(config.encoder, config=settings)
            tokenizer = AutoTokenizer.from_pretrained(config.encoder, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(
            f"cannot load the encoder '{config.encoder}': expected '{EMBEDDED}', the name of a model that this machine "
            f"can reach, or a folder; {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise EncoderError(f"the encoder '{config.encoder}' has no fast tokenizer, which serving needs")
    return model, tokenizer.backend_tokenizer


def set_hidden_dropout(encoder: PreTrainedModel, share: float) -> None:
    """Let training drop `share` of what each part of a layer adds; what attention drops of its weights stays."""
    from torch import nn

    for name, module in encoder.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith(("self.dropout", "attention.dropout")):
            module.p = share


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back progress bars and notes of `transformers`; its errors still come."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
