"""Fine-tuning: `prepare` makes a model and tensors of mails, `fit` is the one loop.

The loop is the same in this process (`mailtriage/training.py`) and in every Ray worker (`mailtriage/ray_training.py`).
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mailtriage.batching import length_batches, token_batches
from mailtriage.config import TrainingConfig
from mailtriage.decoding import Logits
from mailtriage.encoders import load_encoder, set_hidden_dropout
from mailtriage.errors import DataError
from mailtriage.examples import Example
from mailtriage.features import MailTokenizer, TokenIds, model_text, pad
from mailtriage.inference import IdArray
from mailtriage.losses import Objective
from mailtriage.metrics import UNLABELLED, Labels, macro_f1
from mailtriage.model import MultiTaskClassifier
from mailtriage.packing import Packed, is_packing, on_device, packing
from mailtriage.taxonomy import Taxonomy

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

Say = Callable[[str], None]
SAY_EVERY = 5.0  # seconds between two lines of progress
# Of glibc's malloc: an option's number, its value while training, and the default.
KEPT_MEMORY = (("M_MMAP_MAX", -4, 0, 65_536), ("M_TRIM_THRESHOLD", -1, 2**31 - 1, 128 * 1024))


@dataclass(frozen=True)
class Tokenised:
    """Mails as the model sees them: unpadded ids, and label numbers of shape (mails, tasks)."""

    input_ids: list[TokenIds]
    targets: Labels

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.input_ids]


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    epoch: int
    loss: float
    macro_f1: float
    seconds: float
    tokens_per_second: float


@dataclass
class TrainingState:
    """Everything that a stopped run needs to go on exactly where it was, after whole epochs.

    Random numbers need no place in it: each epoch starts its own stream, a worker.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    best: dict[str, Tensor]
    best_scores: dict[str, float]
    history: list[Epoch] = field(default_factory=list)

    def save(self, file: Path, fingerprint: str) -> None:
        """Write the state whole or not at all; `fingerprint` says which run it belongs to."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content |= {"history": [asdict(epoch) for epoch in self.history], "fingerprint": fingerprint}
        temporary = file.with_suffix(".tmp")
        torch.save(content, temporary)
        temporary.replace(file)

    @classmethod
    def load(cls, file: Path, fingerprint: str) -> TrainingState | None:
        """The state that `save` wrote; `None` where there is none or it belongs to another run."""
        if not file.is_file():
            return None
        content = torch.load(file, weights_only=True)
        if content.pop("fingerprint") != fingerprint:
            return None
        content["history"] = [Epoch(**epoch) for epoch in content["history"]]
        return cls(**content)


@dataclass(frozen=True)
class Worker:
    """Where this process stands among the workers; alone by default."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    wrap: Callable[[torch.nn.Module], torch.nn.Module] = lambda model: model
    sum_over_workers: Callable[[float], float] = lambda value: value

    @classmethod
    def alone(cls) -> Worker:
        """One worker, on the GPU where there is one."""
        return cls(device="cuda" if torch.cuda.is_available() else "cpu")


def prepare(
    config: TrainingConfig, taxonomy: Taxonomy, train: Sequence[Example], validation: Sequence[Example], folder: Path
) -> tuple[MultiTaskClassifier, Tokenised, Tokenised]:
    """Load the encoder, put heads on it, and tokenise; writes `tokenizer.json` into `folder`.

    Raises:
        DataError: no mail, or no label of a task.
        EncoderError: the encoder cannot be loaded.
        TaxonomyError: a mail has a label that the taxonomy lacks.
        ConfigError, BundleError, RegistryError: the bundle that `warm_start` names cannot be used.
    """
    if not train or not validation:
        raise DataError(f"expected mails to train and to validate on, found {len(train)} and {len(validation)}")
    torch.manual_seed(config.seed)
    segments = [_segments(part) for part in (train, validation)]
    model, tokenizer = _make_model(config, taxonomy, [text for pair in segments[0] for text in pair])
    if config.encoder_dropout is not None:
        for encoder in model.encoder_of_tasks.values():
            set_hidden_dropout(encoder, config.encoder_dropout)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = next(iter(model.encoder_of_tasks.values())).config
    model.config.dropout_samples = config.dropout_samples
    longest = min(config.max_tokens, getattr(settings, "max_position_embeddings", config.max_tokens))
    mail_tokenizer = MailTokenizer(folder / "tokenizer.json", longest)
    parts = [
        Tokenised(mail_tokenizer.encode(texts), np.asarray([e.indices(taxonomy) for e in part], dtype=np.int64))
        for texts, part in zip(segments, (train, validation), strict=True)
    ]
    for position, task in enumerate(taxonomy.tasks):
        if not (parts[0].targets[:, position] != UNLABELLED).any():
            raise DataError(f"none of the {len(train)} training mails has a label for task '{task.id}'")
    return model, parts[0], parts[1]


def _make_model(
    config: TrainingConfig, taxonomy: Taxonomy, texts: Sequence[str]
) -> tuple[MultiTaskClassifier, Tokenizer]:
    if config.warm_start:
        from mailtriage.warm_start import start_bundle, warm_model

        with start_bundle(config.warm_start) as bundle:
            return warm_model(bundle, config, taxonomy)
    encoder, tokenizer = load_encoder(config, texts)
    labels = {task.id: len(task.labels) for task in taxonomy.tasks}
    separate = config.tasks == "separate"
    return MultiTaskClassifier.from_encoder(encoder, labels, config.pooling, config.dropout, separate), tokenizer


def fit(
    model: MultiTaskClassifier,
    train: Tokenised,
    validation: Tokenised,
    config: TrainingConfig,
    *,
    worker: Worker | None = None,
    resume: TrainingState | None = None,
    after_epoch: Callable[[TrainingState], None] = lambda _state: None,
    say: Say = lambda _line: None,
) -> list[Epoch]:
    """Fine-tune `model` in place; it ends with the weights that `config.keep` names.

    Where each task has an encoder of its own, each task ends with the weights of its own best epoch.

    Args:
        worker: this process among others; each step then covers one batch a worker.
        resume: the state after the last whole epoch of a stopped run.
        after_epoch: gets the state to keep, on every worker.
        say: gets lines of progress.
    """
    worker = worker or Worker()
    plan = [
        token_batches(train.lengths, config.batch_tokens, seed=config.seed, epoch=e, workers=worker.count)
        for e in range(config.epochs)
    ]
    model.to(worker.device)
    _choose_attention(model, worker.device)
    loop = _Loop(model, train, config, worker, steps=sum(map(len, plan)) // worker.count, say=say)
    best, history = _Best(model, _weights(model), {}), []
    if resume is not None:
        loop.restore(resume)
        best, history = _Best(model, resume.best, dict(resume.best_scores)), list(resume.history)

    with _deterministic(config.deterministic), packing(model, config.packed, loop.bf16):
        compiled = _compile(model) if config.compile else {}
        for epoch in range(len(history), config.epochs):
            if _is_done(history, config.patience):
                break
            started = time.monotonic()
            label = f"epoch {epoch + 1}/{config.epochs}"
            torch.manual_seed(((config.seed * 1000 + epoch) * 1000) + worker.rank)
            with _memory_kept(worker.device), _calling(compiled):
                loss, tokens = loop.run_epoch(plan[epoch][worker.rank :: worker.count], label)
            logits = predict_logits(model, validation.input_ids, config, worker.device)
            scores = {
                task: worker.sum_over_workers(score) / worker.count
                for task, score in task_macro_f1(logits, validation.targets).items()
            }
            best.update(scores)
            seconds, score = time.monotonic() - started, float(np.mean(list(scores.values())))
            loss, tokens = worker.sum_over_workers(loss) / worker.count, worker.sum_over_workers(tokens)
            history.append(Epoch(epoch + 1, loss, score, seconds, tokens / seconds))
            say(f"{label}  loss {loss:.3f}  validation macro-F1 {score:.3f}  {seconds:.0f} s")
            after_epoch(loop.state(best, history))
    if config.keep == "best":
        model.load_state_dict(best.weights)
    return history


def _is_done(history: Sequence[Epoch], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing."""
    if patience is None or len(history) <= patience:
        return False
    return max(e.macro_f1 for e in history[-patience:]) <= max(e.macro_f1 for e in history[:-patience])


@dataclass
class _Best:
    """The best weights so far: of the model by its mean score, or of each task that has its encoder by its own."""

    model: MultiTaskClassifier
    weights: dict[str, Tensor]
    scores: dict[str, float]

    def update(self, scores: Mapping[str, float]) -> None:
        separate = self.model.config.separate
        for name, score in scores.items() if separate else [("", float(np.mean(list(scores.values()))))]:
            if score > self.scores.get(name, -1.0):
                self.scores[name] = score
                self.weights |= {
                    key: value
                    for key, value in _weights(self.model).items()
                    if not separate or key.startswith((f"encoders.{name}.", f"heads.{name}."))
                }


class _Loop:
    """Model, optimiser and schedule of one worker."""

    def __init__(
        self, model: MultiTaskClassifier, data: Tokenised, config: TrainingConfig, worker: Worker, steps: int, say: Say
    ) -> None:
        if config.freeze_embeddings:
            for encoder in model.encoder_of_tasks.values():
                encoder.get_input_embeddings().requires_grad_(False)
        self.model, self.data, self.config, self.worker, self.say = model, data, config, worker, say
        self.wrapped = worker.wrap(model)
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, config), fused=True)
        self.scheduler = LambdaLR(self.optimizer, lambda step: _rate(step, steps, config.warmup))
        self.objective = Objective.of(config, model.config.labels, data.targets, worker.device)
        self.clipped = _clipped_together(model)
        self.bf16 = _computes_bf16(config.precision, worker.device)

    def run_epoch(self, batches: Sequence[Sequence[int]], label: str) -> tuple[float, float]:
        """One pass over this worker's batches: (mean loss, tokens)."""
        started = said = time.monotonic()
        loss_sum, tokens = torch.zeros((), dtype=torch.float64, device=self.worker.device), 0  # no step waits for a GPU
        self.wrapped.train()
        for step, positions in enumerate(batches, start=1):
            loss_sum += self._step(positions)
            tokens += sum(len(self.data.input_ids[position]) for position in positions)
            if time.monotonic() - said > SAY_EVERY:
                loss, said = float(loss_sum) / step, time.monotonic()
                rate = tokens / (said - started)
                self.say(f"{label}  step {step}/{len(batches)}  loss {loss:.3f}  {rate:,.0f} tokens/s")
        return float(loss_sum) / len(batches), float(tokens)

    def _step(self, positions: Sequence[int]) -> Tensor:
        mails = [self.data.input_ids[position] for position in positions]
        if self.config.r_drop:
            mails = mails * 2  # under other dropout
        targets = on_device(self.data.targets[positions], self.worker.device)
        with torch.autocast(_kind(self.worker.device), torch.bfloat16, enabled=self.bf16):
            logits = self.wrapped(**_read(self.model, mails, self.worker.device))
        loss = self.objective(logits, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameters in self.clipped:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        self.optimizer.step()
        self.scheduler.step()
        return loss.detach()

    def state(self, best: _Best, history: list[Epoch]) -> TrainingState:
        return TrainingState(
            _weights(self.model),
            self.optimizer.state_dict(),
            self.scheduler.state_dict(),
            best.weights,
            dict(best.scores),
            list(history),
        )

    def restore(self, state: TrainingState) -> None:
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.scheduler.load_state_dict(state.scheduler)


def predict_logits(
    model: MultiTaskClassifier, input_ids: Sequence[TokenIds], config: TrainingConfig, device: str = "cpu"
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Logits in the order of `input_ids`: task -> (mails, labels)."""
    batches = list(length_batches([len(ids) for ids in input_ids], config.batch_tokens * 2))
    parts: dict[str, list[Tensor]] = {task: [] for task in model.heads}
    bf16 = _computes_bf16(config.precision, device)
    model.eval()
    for positions in batches:
        batch = _read(model, [input_ids[p] for p in positions], device)
        with torch.inference_mode(), torch.autocast(_kind(device), torch.bfloat16, enabled=bf16):
            for task, values in model(**batch).items():
                parts[task].append(values.float())  # on the device, so that no batch waits for the one before
    back = np.argsort(np.concatenate(batches))
    return {task: torch.cat(values).cpu().numpy()[back] for task, values in parts.items()}


def forward_pass(model: MultiTaskClassifier) -> Callable[[IdArray, IdArray], dict[str, Logits]]:
    """The model as it is served, for `forward_in_batches`: ids and mask in, logits out, on the device where it is."""
    model.eval()

    def forward(input_ids: IdArray, attention_mask: IdArray) -> dict[str, Logits]:
        with torch.inference_mode():
            found = model(on_device(input_ids, model.device.type), on_device(attention_mask, model.device.type))
        return {task: values.float().cpu().numpy() for task, values in found.items()}

    return forward


def mean_macro_f1(logits: Mapping[str, np.ndarray[Any, Any]], targets: Labels) -> float:
    """Mean over the tasks of macro-F1, each task decoded alone; what model selection watches."""
    return float(np.mean(list(task_macro_f1(logits, targets).values())))


def task_macro_f1(logits: Mapping[str, np.ndarray[Any, Any]], targets: Labels) -> dict[str, float]:
    """Macro-F1 a task, decoded alone."""
    return {
        task: macro_f1(values.shape[1], targets[:, position], values.argmax(axis=1))
        for position, (task, values) in enumerate(logits.items())
    }


def _segments(examples: Sequence[Example]) -> list[tuple[str, str]]:
    return [model_text(example.subject, example.text, example.custodian_bank) for example in examples]


def _read(model: MultiTaskClassifier, mails: Sequence[TokenIds], device: str) -> dict[str, Any]:
    """What the model's forward pass takes: mails packed where it can read them so, else padded."""
    if is_packing(model):
        return {"packed": Packed.of(mails, device)}
    ids, mask = (on_device(array, device) for array in pad(mails))
    return {"input_ids": ids, "attention_mask": mask}


def _parameter_groups(model: MultiTaskClassifier, config: TrainingConfig) -> list[dict[str, Any]]:
    """Heads at their own rate; encoder layers at a rate that falls with depth; no decay for biases and norms."""
    settings = next(iter(model.encoder_of_tasks.values())).config
    layers = int(getattr(settings, "num_hidden_layers", 0))
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("heads."):
            rate = config.head_learning_rate
        else:
            rate = config.learning_rate * config.layer_decay ** (layers - _depth(name))
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def _depth(name: str) -> int:
    """0 for embeddings, n + 1 for layer n: the number after `layer` or `layers` in a parameter's name."""
    parts = name.split(".")
    for word, number in pairwise(parts):
        if word in ("layer", "layers", "h") and number.isdigit():
            return int(number) + 1
    return 0


def _rate(step: int, total: int, warmup: float) -> float:
    rising = max(1, int(total * warmup))
    return (step + 1) / rising if step < rising else max(0.0, (total - step) / max(1, total - rising))


def _clipped_together(model: MultiTaskClassifier) -> list[list[Tensor]]:
    """Parameters whose gradients are clipped by their common norm: all, or those of each task that has its encoder."""
    if not model.config.separate:
        return [list(model.parameters())]
    return [[*model.encoders[task].parameters(), *model.head(task).parameters()] for task in model.heads]


def _choose_attention(model: MultiTaskClassifier, device: str) -> None:
    """On a CPU the plain products train faster than PyTorch's fused attention, whose backward pass is slow there."""
    if _kind(device) == "cpu":
        for encoder in model.encoder_of_tasks.values():
            encoder.set_attn_implementation("eager")


def _compile(model: MultiTaskClassifier) -> dict[torch.nn.Module, Any]:
    """The encoders' calls, compiled for any number of mails and tokens, for `_calling`."""
    calls: dict[torch.nn.Module, Any] = {}
    for encoder in dict.fromkeys(model.encoder_of_tasks.values()):
        encoder.compile(dynamic=True)
        calls[encoder], encoder._compiled_call_impl = encoder._compiled_call_impl, None
    return calls


@contextmanager
def _calling(compiled: Mapping[torch.nn.Module, Any]) -> Iterator[None]:
    """Call these modules compiled meanwhile: while training alone, since validation would be compiled once more.

    Modules stay what they are, and so do the names of their weights.
    """
    try:
        for module, call in compiled.items():
            module._compiled_call_impl = call
        yield
    finally:
        for module in compiled:
            module._compiled_call_impl = None


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Let PyTorch take kernels alone that add up in the same order each time; one that has none raises."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _memory_kept(device: str) -> Iterator[None]:
    """On a CPU with glibc: gradients of word vectors, freed and asked for again each step, keep their pages meanwhile.

    Otherwise each step returns them to the system, which fills them with zeros again: 5 to 30 % of a step's time in
    two runs of `benchmarks/training.py`.
    """
    libc: Any = ctypes.CDLL(None) if _kind(device) == "cpu" and sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    try:
        for _name, option, value, _default in KEPT_MEMORY:
            libc.mallopt(option, value)
        yield
    finally:
        for _name, option, _value, default in KEPT_MEMORY:
            libc.mallopt(option, default)
        libc.malloc_trim(0)


def _kind(device: str) -> str:
    """`cuda` of `cuda:0`."""
    return device.partition(":")[0]


def _computes_bf16(precision: str, device: str) -> bool:
    """`auto` takes bf16 only where the hardware computes in it; elsewhere it is slower than fp32."""
    if precision != "auto":
        return precision == "bf16"
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _weights(model: MultiTaskClassifier) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
