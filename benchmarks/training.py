"""Speed of our training loop, against `transformers.Trainer` with the same recipe, and of Ray Train against the loop.

    python benchmarks/training.py [--config configs/demo.yaml] [--mails 1200] [--epochs 2] [--repeats 3]
        [--device cpu|cuda] [--systems loop,loop-packed,...] [--random-encoder 768,6,12] [--output FILE]

All train the same model on the same synthetic mails, with the same optimiser, parameter groups, schedule, clipping,
precision and number of steps. Trainer takes a fixed number of mails a step: in random order, or of like length
(`trainer-grouped`); it keeps the attention that `transformers` chooses. `loop-plain-memory` is our loop without
`fitting.KEPT_MEMORY`. `loop` packs and compiles as the configuration says; on a GPU `loop-padded` does neither,
`loop-packed` reads mails without padding, `loop-padded-compiled` compiles the encoder, and `loop-compiled` does both
(the first steps, in which it compiles, count). `ray` runs where Ray is installed. `--random-encoder` measures a BERT of
that width, layers and heads with fresh weights, where no hub can be reached. Each run is a process of its own, so that
its peak memory is its own, and systems take turns, so that a slow minute hits all. Figures:

- tokens/s: tokens of mails, padding not counted, a second of training; loading is left out, the first steps are not.
- last epoch tokens/s: the same of the last epoch, its validation included: what a long run comes to.
- cpu_seconds: the same without the time in which other processes had the cores; with one thread the fairer figure. It
  says nothing of a GPU, and is 0 there.
- MFU: 6 operations a parameter outside the embeddings and token, and 12 a layer, width and token of attention, against
  the peak of large products of matrices on the same device, in the same precision, with the same threads: the best
  that any run saw. On a CPU it is of `cpu_seconds`, and means something with one thread only.
- peak memory: of the process while it trains (what it loads first is counted as far as it keeps it).
- padding: share of what the model read that is no token of a mail.
- Ray: seconds of its epochs against those of the loop; start-up and checkpoints are counted apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

LOOPS = {  # what each changes of the configuration
    "loop-padded": {"packed": False, "compile": False},
    "loop-packed": {"packed": True, "compile": False},
    "loop-padded-compiled": {"packed": False, "compile": True},
    "loop-compiled": {"packed": True, "compile": True},
}
SYSTEMS = ("loop", "loop-plain-memory", *LOOPS, "trainer", "trainer-grouped", "ray")
ONLY_ON = {"cuda": tuple(LOOPS), "cpu": ("loop-plain-memory",)}
VOCABULARY = 30_000  # word vectors of a random encoder
MATRIX = {"cpu": 1536, "cuda": 8192}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--mails", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a GPU where one is")
    parser.add_argument("--systems", help="by default all that this device runs")
    parser.add_argument("--set", default="", help="settings that replace those of the configuration: key=value,...")
    parser.add_argument("--random-encoder", metavar="WIDTH,LAYERS,HEADS", help="instead of the configured encoder")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", choices=SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_run(arguments.child, arguments)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _systems(arguments)}
    for _ in range(arguments.repeats):
        for system, found in runs.items():
            found.append(_in_a_process(system))
            print(system, json.dumps(found[-1]), flush=True)
    result = _summary(runs) | _circumstances(arguments)
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result | {"runs": runs}, indent=2) + "\n", encoding="utf-8")


def _systems(arguments: argparse.Namespace) -> list[str]:
    if arguments.systems:
        return list(arguments.systems.split(","))
    left_out = set(ONLY_ON["cpu" if _device(arguments) == "cuda" else "cuda"])
    if importlib.util.find_spec("ray") is None:
        left_out.add("ray")
    return [name for name in SYSTEMS if name not in left_out]


def _in_a_process(system: str) -> dict[str, Any]:
    command = [sys.executable, *sys.argv, "--child", system]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians a system, and (median, lowest, highest) of the ratios of runs that stood beside each other."""
    peak = max(run["peak"] for found in runs.values() for run in found)
    for run in (run for found in runs.values() for run in found):
        run["mfu"] = round(run["operations"] / (run["cpu_seconds"] or run["seconds"]) / peak, 4)
    result: dict[str, Any] = {
        name: {key: round(median(run[key] for run in found), 4) for key in found[0]} for name, found in runs.items()
    }
    for name, found in runs.items():
        for key in ("seconds", "cpu_seconds"):
            if name != "loop" and "loop" in runs and found[0][key]:
                ratios = [b[key] / a[key] for a, b in zip(runs["loop"], found, strict=True)]
                values = median(ratios), min(ratios), max(ratios)
                result[f"{name} / loop, {key}"] = [round(value, 3) for value in values]
    return result


def _circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if _device(arguments) == "cuda" else platform.processor() or "CPU"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "load_at_the_end": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def _device(arguments: argparse.Namespace) -> str:
    import torch

    return str(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _run(system: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import yaml

    from mailtriage import fitting
    from mailtriage.config import TrainingConfig, load_config
    from mailtriage.taxonomy import Taxonomy

    changed = {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in arguments.set.split(",") if pair)}
    settings = load_config(arguments.config).model_dump() | changed
    config = TrainingConfig.build(settings | {"epochs": arguments.epochs, "workers": 0, "gpus": False})
    device = _device(arguments)
    examples = list(_examples(arguments.mails))
    with tempfile.TemporaryDirectory() as folder:
        taxonomy = Taxonomy.load(config.taxonomy)
        if arguments.random_encoder:
            encoder = _random_encoder(arguments.random_encoder, examples, Path(folder) / "encoder")
            config = config.model_copy(update={"encoder": str(encoder), "encoder_layers": None, "warm_start": None})
        model, train, validation = fitting.prepare(config, taxonomy, examples[:-16], examples[-16:], Path(folder))
        if system == "loop-plain-memory":
            fitting.KEPT_MEMORY = ()
        config = config.model_copy(update=LOOPS.get(system, {}))
        run = {"trainer": _trainer, "trainer-grouped": _trainer, "ray": _ray}.get(system, _loop)
        _forget_peak_memory(device)
        found = run(system, model, train, validation, config, device, Path(folder))
        peak_memory = _peak_memory(device)
    if device == "cuda":
        found["cpu_seconds"] = 0.0
    found["tokens_per_second"] = sum(train.lengths) * config.epochs / found["seconds"]
    found["peak_memory_mib"] = peak_memory / 2**20
    found["operations"] = _operations(model, train.lengths) * config.epochs
    found["peak"] = _peak(device, config.precision)
    return {key: round(value, 4) for key, value in found.items()}


def _examples(mails: int) -> Iterator[Any]:
    from mailtriage.examples import Example
    from mailtriage.sample import generate

    for mail in generate(mails, seed=5):
        yield Example.from_email(mail)


def _random_encoder(size: str, examples: list[Any], folder: Path) -> Path:
    """A BERT with fresh weights and word pieces of the mails; `size` is its width, layers and heads, as `768,6,12`."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    width, layers, heads = map(int, size.split(","))
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([f"{example.subject} {example.text}" for example in examples], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(3)
    settings = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    BertModel(settings, add_pooling_layer=False).save_pretrained(folder)
    return folder


def _loop(
    _system: str, model: Any, train: Any, validation: Any, config: Any, device: str, folder: Path
) -> dict[str, float]:
    from mailtriage.fitting import Worker, fit

    saving = 0.0

    def save(state: Any) -> None:
        nonlocal saving
        since = time.process_time()
        state.save(folder / "state.pt", "benchmark")
        saving += time.process_time() - since

    _wait_for(device)
    started, before = time.perf_counter(), time.process_time()
    history = fit(
        model,
        train,
        validation,
        config,
        worker=Worker(device=device),
        after_epoch=save,
    )
    _wait_for(device)
    wall, cpu = time.perf_counter() - started, time.process_time() - before
    epochs = sum(epoch.seconds for epoch in history)
    found = _figures(epochs, wall - epochs, cpu - saving, train, config)
    padding = 0.0 if config.packed else found["padding"]
    return found | {"padding": padding, "last_epoch_tokens_per_second": history[-1].tokens_per_second}


def _ray(
    _system: str, model: Any, train: Any, validation: Any, config: Any, device: str, folder: Path
) -> dict[str, float]:
    from mailtriage.ray_training import fit_on_ray

    on_ray = config.model_copy(update={"workers": 1, "gpus": device == "cuda"})
    started = time.perf_counter()
    history = fit_on_ray(
        model, train, validation, on_ray, storage=str(folder / "ray"), fingerprint="benchmark", say=lambda _line: None
    )
    wall = time.perf_counter() - started
    epochs = sum(epoch.seconds for epoch in history)
    return _figures(epochs, wall - epochs, 0.0, train, config)


def _figures(seconds: float, beside: float, cpu: float, train: Any, config: Any) -> dict[str, float]:
    steps, padding = _steps(train, config), _padding(train, config)
    return {"seconds": seconds, "beside_epochs": beside, "cpu_seconds": cpu, "steps": steps, "padding": padding}


def _trainer(
    system: str, model: Any, train: Any, _validation: Any, config: Any, device: str, folder: Path
) -> dict[str, float]:
    """`transformers.Trainer` with our optimiser and schedule, and as many steps as our batches take."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import Trainer, TrainingArguments

    from mailtriage.features import pad
    from mailtriage.fitting import _computes_bf16, _parameter_groups, _rate
    from mailtriage.losses import Objective

    steps = int(_steps(train, config))
    mails = math.ceil(len(train.lengths) * config.epochs / steps)
    read = [0]
    objective = Objective.of(config, model.config.labels, train.targets, device)

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> dict[str, Any]:
            return {"loss": objective(self.model(input_ids, attention_mask), labels)}

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids, mask = pad([row["input_ids"] for row in rows])
        read[0] += ids.size
        labels = torch.tensor([row["labels"].tolist() for row in rows])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "labels": labels}

    rows = [{"input_ids": ids, "labels": target} for ids, target in zip(train.input_ids, train.targets, strict=True)]
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), fused=True)
    model.train()
    trainer = Trainer(
        WithLoss(),
        TrainingArguments(
            output_dir=str(folder / "trainer"),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=mails,
            train_sampling_strategy="group_by_length" if system == "trainer-grouped" else "random",
            max_grad_norm=config.gradient_clip,
            bf16=_computes_bf16(config.precision, device),
            use_cpu=device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=config.seed,
        ),
        train_dataset=rows,
        data_collator=collate,
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: _rate(step, steps, config.warmup))),
    )
    _wait_for(device)
    started, before = time.perf_counter(), time.process_time()
    trainer.train()
    _wait_for(device)
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    found = _figures(seconds, 0.0, cpu, train, config)
    padding = 1 - sum(train.lengths) * config.epochs / read[0]
    return found | {"steps": trainer.state.global_step, "padding": padding}


def _batches(train: Any, config: Any) -> list[list[int]]:
    from mailtriage.batching import token_batches

    return [
        batch
        for epoch in range(config.epochs)
        for batch in token_batches(train.lengths, config.batch_tokens, seed=config.seed, epoch=epoch)
    ]


def _steps(train: Any, config: Any) -> float:
    return float(len(_batches(train, config)))


def _padding(train: Any, config: Any) -> float:
    read = sum(max(train.lengths[i] for i in batch) * len(batch) for batch in _batches(train, config))
    return 1 - sum(train.lengths) * config.epochs / read


def _operations(model: Any, lengths: list[int]) -> float:
    """Of one epoch, forward and backward (Narayanan et al. 2021, arXiv:2104.04473)."""
    encoders = list({id(encoder): encoder for encoder in model.encoder_of_tasks.values()}.values())
    inside = sum(p.numel() for encoder in encoders for n, p in encoder.named_parameters() if "embeddings" not in n)
    settings = encoders[0].config
    attention = 12 * settings.num_hidden_layers * settings.hidden_size * len(encoders)
    return float(sum(6 * inside * length + attention * length**2 for length in lengths))


def _peak(device: str, precision: str) -> float:
    """Operations a second of the best of ten products of large matrices."""
    import torch

    from mailtriage.fitting import _computes_bf16

    size, kind = MATRIX[device], torch.bfloat16 if _computes_bf16(precision, device) else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = math.inf
    for _ in range(10):
        _wait_for(device)
        started = time.perf_counter()
        a @ b
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _peak_memory(device: str) -> float:
    """Bytes: of the GPU, or of this process (under Ray, its worker has its own)."""
    import torch

    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    rows = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return float(next(row[1] for row in rows if row[0] == "VmHWM:")) * 1024


def _wait_for(device: str) -> None:
    """A GPU is given work ahead: no clock may be read before it is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _forget_peak_memory(device: str) -> None:
    """Let `_peak_memory` count from now on (Linux)."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
