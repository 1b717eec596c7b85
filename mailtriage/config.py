"""What a training run can be told, each setting with its rule beside it.

A configuration is a YAML file (`configs/*.yaml`). An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mailtriage.errors import ConfigError, nearest


class TrainingConfig(BaseModel):
    """Settings of a training run; the defaults are those of production, on a GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taxonomy: str = Field("taxonomy.yaml", description="path of the taxonomy, relative to the configuration")
    name: str = Field("mailtriage", pattern=r"^[a-z0-9][a-z0-9-]*$", description="name of the model in the registry")

    encoder: str = Field("distilbert-base-german-cased", description="`embedded`, a Hugging Face name, or a folder")
    warm_start: str | None = Field(
        None, description="start from this bundle (a folder, or such as mailtriage@champion) instead of `encoder` alone"
    )
    tasks: Literal["together", "separate"] = Field(
        "together", description="one encoder for all tasks, or one a task: three single-task models in one bundle"
    )
    encoder_layers: int | None = Field(None, ge=1, description="keep the first layers only; null keeps all")
    languages: tuple[str, ...] = Field(("de", "en"), description="which vocabulary the embedded encoder keeps")
    max_tokens: int = Field(256, ge=16, le=8192, description="longer mails are cut, special tokens included")
    pooling: Literal["mean", "cls"] = Field("mean", description="how token vectors become one vector a mail")
    lexical: bool = Field(
        True, description="a linear model of tokens and pairs of tokens answers beside the encoder: `lexical.py`"
    )
    encoder_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share dropped after each part of a layer inside the encoder; null keeps the encoder's own, which "
        "is 0 for the embedded one",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the mail vector dropped before the heads")
    dropout_samples: int = Field(
        1, ge=1, description="masks of that dropout a mail, whose losses are averaged; costs next to nothing"
    )
    r_drop: float = Field(
        0.0, ge=0, description="weight of R-Drop, which reads each mail twice: about twice the time a step; 0 is off"
    )

    epochs: int = Field(4, ge=1, description="passes over the training mails")
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs that bring nothing; null never does"
    )
    keep: Literal["best", "last"] = Field(
        "best", description="the weights of the epoch that validated best, or of the last one"
    )
    refit: bool = Field(
        False,
        description="once calibrated, fit anew on training and validation mails together and serve that model: twice "
        "the time. Confidence and thresholds stay those that unseen mails gave the first one; the export is compared "
        "on mails that it knows",
    )
    batch_tokens: int = Field(8192, ge=64, description="most tokens a forward pass, padding included")
    packed: bool = Field(
        False,
        description="mails end to end without padding, attention inside each alone: for BERT and DistilBERT in "
        "bf16 on a GPU. Attention then drops none of its weights",
    )
    compile: bool = Field(
        False, description="let torch.compile fuse the encoder's kernels, which costs time before the first step"
    )
    learning_rate: float = Field(5e-5, gt=0, description="peak rate of the last encoder layer")
    head_learning_rate: float = Field(1e-3, gt=0, description="peak rate of the heads")
    layer_decay: float = Field(0.9, gt=0, le=1, description="each layer below learns at this share of the rate above")
    freeze_embeddings: bool = Field(False, description="keep word vectors as they are: less to train on a CPU")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises; then it falls to 0")
    weight_decay: float = Field(0.01, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    imbalance: Literal["none", "logit_adjustment", "class_weights", "focal"] = Field(
        "none", description="how rare labels are helped: `losses.Objective`"
    )
    task_weighting: Literal["equal", "uncertainty"] = Field("equal", description="of the tasks' losses: as above")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of a step's gradient")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware computes in it"
    )
    seed: int = 7
    deterministic: bool = Field(
        False, description="the same weights from the same seed on the same hardware, to the bit; slower on a GPU"
    )

    split: Literal["random", "time"] = Field("random", description="of the mails: `time` tests on the newest ones")
    route_precision: float = Field(0.95, gt=0, lt=1, description="share of what is routed that must be right")
    route_confidence: float = Field(0.9, gt=0, lt=1, description="how sure the thresholds are to hold that precision")
    route_promise: Literal["mail", "task", "label"] = Field(
        "mail",
        description="what is right: every label of a mail, or each task or each label alone",
    )
    route_by: str | None = Field(None, description="a task, such as queue: the promise holds for each of its labels")
    mails_a_day: float | None = Field(None, gt=0, description="how many come in; the report says how many people see")
    export_tolerance: float = Field(0.005, ge=0, description="largest loss of mean macro-F1 that an export may cost")

    workers: int = Field(0, ge=0, description="Ray Train workers; 0 trains in this process without Ray")
    worker_cpus: float = Field(1, gt=0)
    gpus: bool = Field(False, description="one GPU a Ray worker")
    storage: str | None = Field(None, description="shared folder or bucket for checkpoints; needed with several nodes")

    @classmethod
    def parse(cls, text: str, source: str = "the configuration") -> TrainingConfig:
        """Read the text of a configuration.

        Raises:
            ConfigError: it is no YAML, or a key or value is not allowed; names the key and the nearest known one.
        """
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{source} is no YAML: {error}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"expected {source} to map settings to values, found {type(content).__name__}")
        return cls.build(content, source)

    @classmethod
    def build(cls, settings: dict[str, Any], source: str = "the configuration") -> TrainingConfig:
        """As `parse`, from a mapping."""
        for key in settings:
            if key not in cls.model_fields:
                raise ConfigError(f"{source} has an unknown key '{key}'{nearest(str(key), cls.model_fields)}")
        try:
            return cls(**settings)
        except ValidationError as error:
            problems = "; ".join(f"'{'.'.join(map(str, e['loc']))}': {e['msg']}" for e in error.errors())
            raise ConfigError(f"{source}: {problems}") from None


def load_config(path: str | Path) -> TrainingConfig:
    """Read a configuration file; its `taxonomy` comes back as a path that works from here.

    Raises:
        ConfigError: the file cannot be read, or as `TrainingConfig.parse`.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    config = TrainingConfig.parse(text, str(file))
    return config.model_copy(update={"taxonomy": str((file.parent / config.taxonomy).resolve())})
