"""Speed of the bundle's engines, against the `transformers` text-classification pipeline, in one process.

    python benchmarks/engines.py [--bundle BUNDLE | --config configs/demo.yaml --mails 600 --set key=value,...]
        [--device cpu|cuda] [--requests 1000] [--singles 200] [--repeats 5] [--output FILE]

Both sides get the same cleaned mails, as text, and give labels with probabilities: tokenising counts, cleaning does
not. A pipeline gives one label of three, so there are two of them: `three models` asks a single-task model a task in
turn, which is what replaces ours; `one model` asks the first of them alone, and answers a third of the question. They
have the bundle's encoder and tokenizer under fresh heads: their speed counts, their labels do not.

- single: one mail a call, mail after mail (batch_size=1); milliseconds a mail (p50, p99) and mails a second.
- batches: all mails in one call. Pipelines in batches of 32, in the mails' order, as they do it; ours sorted by length
  in batches of at most --batch-tokens, padding included. Mails a second.

Systems take turns in each repeat, so that a slow minute hits all. Figures are medians over repeats, ratios those of
runs that stood beside each other: (median, lowest, highest). `labels_changed` is the share of labels that are not those
of fp32 torch. GPU memory is a system's weights and the most that it took beside them (of CUDA graphs, what their
recording took too). On a CPU ONNX Runtime is also measured with static int8 (scales of activations fixed by 64 mails,
products of activations left in fp32), and OpenVINO where the package `openvino` is there. Without --bundle it trains a
model for one epoch on synthetic mails, which is enough to be timed, and for labels that are no coin toss. ONNX files
that the bundle lacks are exported where the package `onnx` is there.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from mailtriage.batching import token_batches  # noqa: E402
from mailtriage.bundle import Bundle, write_manifest  # noqa: E402
from mailtriage.engines import OnnxEngine, TorchEngine  # noqa: E402
from mailtriage.features import MailTokenizer, model_text, pad  # noqa: E402
from mailtriage.inference import Engine  # noqa: E402

Segments = Sequence[tuple[str, str]]
BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}
PIPELINE_BATCH = 32
MODES = ("single", "batches")
THREE, ONE = "three models", "one model"


@dataclass(frozen=True)
class Run:
    """One pass over the mails of a mode: seconds of it, and of each call where a call is one mail."""

    mails: int
    seconds: float
    calls: list[float] = field(default_factory=list)

    @property
    def mails_per_second(self) -> float:
        return self.mails / self.seconds


@dataclass
class System:
    """Something that answers mails; `weights` and `peak` are bytes on the GPU."""

    name: str
    answer: Any
    ours: bool
    weights: int = 0
    peak: int = 0
    runs: dict[str, list[Run]] = field(default_factory=lambda: {mode: [] for mode in MODES})

    def single(self, mails: Segments) -> Run:
        calls = []
        for mail in mails:
            started = time.perf_counter()
            self.answer([mail], 1)
            calls.append(time.perf_counter() - started)
        return Run(len(mails), sum(calls), calls)

    def batches(self, mails: Segments) -> Run:
        started = time.perf_counter()
        self.answer(mails, PIPELINE_BATCH)
        return Run(len(mails), time.perf_counter() - started)


@dataclass(frozen=True)
class Ours:
    """Texts to probabilities through one of our engines."""

    tokenizer: MailTokenizer
    engine: Engine
    batch_tokens: int

    def __call__(self, mails: Segments, _batch: int) -> dict[str, Any]:
        """Task -> probabilities of shape (mails, labels)."""
        ids = self.tokenizer.encode(mails)
        batches = token_batches([len(tokens) for tokens in ids], self.batch_tokens, seed=0, epoch=0)
        found = [self.engine.forward(*pad([ids[position] for position in batch])) for batch in batches]
        back = np.argsort(np.concatenate(batches))
        return {task: _softmax(np.concatenate([part[task] for part in found]))[back] for task in found[0]}


@dataclass(frozen=True)
class Pipelines:
    """The same through one pipeline a task, or through the first alone."""

    pipelines: Sequence[Any]
    longest: int

    def __call__(self, mails: Segments, batch: int) -> list[Any]:
        """One list of labels with scores a pipeline."""
        given = [{"text": header, "text_pair": text} for header, text in mails]
        # A call with a list goes through a data loader, which a single mail need not.
        asked = given[0] if len(given) == 1 else given
        settings = {"batch_size": batch, "truncation": True, "max_length": self.longest}
        return [pipeline(asked, **settings) for pipeline in self.pipelines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="by default one is trained for this")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/demo.yaml")
    parser.add_argument("--mails", type=int, default=600, help="to train on, without --bundle")
    parser.add_argument("--set", default="", help="settings that replace those of the configuration: key=value,...")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a GPU where one is")
    parser.add_argument("--threads", type=int, help="of a forward pass on a CPU; by default all cores")
    parser.add_argument("--batch-tokens", type=int, help=f"of our batches; by default {BATCH_TOKENS}")
    parser.add_argument("--requests", type=int, default=1000, help="mails of a pass in batches")
    parser.add_argument("--singles", type=int, default=200, help="mails of a pass mail after mail")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()  # pipelines advise against what is measured here
    transformers.utils.logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    budget = arguments.batch_tokens or BATCH_TOKENS[device]
    before = os.getloadavg()[0]
    mails = [model_text(each.subject, each.text, each.custodian_bank) for each in _examples(arguments.requests, 17)]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(arguments.bundle) if arguments.bundle else _build(arguments, device, Path(folder))
        systems = list(_systems(bundle, device, arguments.threads, budget, Path(folder)))
        reference = Ours(bundle.tokenizer, TorchEngine(bundle, device, arguments.threads, precision="fp32"), budget)
        expected = reference(mails, 0)
        changed = {each.name: _changed(expected, each.answer(mails, 0)) for each in systems if each.ours}
        del reference, expected
        _measure(systems, mails, arguments, device)
        lengths = [len(ids) for ids in bundle.tokenizer.encode(mails)]
        result = _summary(systems, changed) | {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": _hardware(device),
            "load_before": round(before, 2),
            "versions": {"python": platform.python_version(), **_versions()},
            "bundle": {"digest": bundle.digest, "trained_here": not arguments.bundle, "set": arguments.set}
            | _size(bundle),
            "mails": {"requests": len(mails), "singles": min(arguments.singles, len(mails))},
            "tokens_a_mail": {"mean": round(float(np.mean(lengths)), 1), "longest": max(lengths)},
            "batch_tokens": budget,
            "repeats": arguments.repeats,
        }
    print(_table(result["systems"]))
    print(json.dumps({key: value for key, value in result.items() if key != "systems"}, indent=2))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _examples(count: int, seed: int) -> Iterator[Any]:
    from mailtriage.examples import Example
    from mailtriage.sample import generate

    return (Example.from_email(mail) for mail in generate(count, seed=seed))


def _build(arguments: argparse.Namespace, device: str, folder: Path) -> Bundle:
    """A bundle without ONNX files, calibration and thresholds; `mailtriage train` would need more packages."""
    import yaml

    from mailtriage import fitting
    from mailtriage.config import TrainingConfig, load_config
    from mailtriage.taxonomy import Taxonomy
    from mailtriage.training import answer_together

    changed = {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in arguments.set.split(",") if pair)}
    if importlib.util.find_spec("spellchecker") is None:
        print("the package 'pyspellchecker' is missing: the vocabulary is that of the mails alone", file=sys.stderr)
        changed = {"languages": ()} | changed
    settings = load_config(arguments.config).model_dump() | changed
    config = TrainingConfig.build(settings | {"epochs": 1, "workers": 0, "gpus": False})
    examples, path = list(_examples(arguments.mails, 5)), folder / "bundle"
    taxonomy = Taxonomy.load(config.taxonomy)
    model, train, validation = fitting.prepare(config, taxonomy, examples[:-16], examples[-16:], path)
    fitting.fit(model, train, validation, config, worker=fitting.Worker(device=device))
    answer_together(model, train, validation, config)
    model.cpu().save_pretrained(path / "model")
    (path / "taxonomy.yaml").write_text(Path(config.taxonomy).read_text(encoding="utf-8"), encoding="utf-8")
    temperatures = dict.fromkeys(taxonomy.task_ids, 1.0)
    (path / "calibration.json").write_text(json.dumps({"temperatures": temperatures}), encoding="utf-8")
    (path / "thresholds.json").write_text(json.dumps({"thresholds": {}}), encoding="utf-8")
    encoder = next(iter(model.encoder_of_tasks.values())).config
    longest = min(config.max_tokens, getattr(encoder, "max_position_embeddings", config.max_tokens))
    del model
    return write_manifest(path, name="engines", max_tokens=longest, engines={"cpu": "model", "cuda": "model"})


def _systems(bundle: Bundle, device: str, threads: int | None, budget: int, folder: Path) -> Iterator[System]:
    """What runs on this device, each with its own weights."""
    import torch

    def ours(name: str, engine: Engine) -> System:
        return System(f"ours, {name}", Ours(bundle.tokenizer, engine, budget), ours=True)

    if device == "cpu":
        for file in _onnx_files(bundle, folder):
            chosen = Bundle(bundle.path, {**bundle.manifest, "engines": {"cpu": str(file)}})
            kind = file.name.removesuffix(".onnx").removeprefix("model").replace(".", " ") or " fp32"
            yield ours(f"onnx{kind}", OnnxEngine(chosen, threads))
            if importlib.util.find_spec("openvino"):
                yield ours(f"openvino{kind}", OpenVino(file, threads))
        yield ours("torch fp32", TorchEngine(bundle, "cpu", threads))
    else:
        for precision in ("bf16", "fp16"):
            for graphs in (False, True):
                with _weighed(device) as weight:
                    engine = TorchEngine(bundle, "cuda", precision=precision, graphs=graphs)  # type: ignore[arg-type]
                system = ours(f"torch {precision}{', graphs' if graphs else ''}", engine)
                system.weights = weight[0]
                yield system
    precision, dtype = ("bf16", torch.bfloat16) if device == "cuda" else ("fp32", torch.float32)
    pipelines, weights = [], []
    for task in bundle.taxonomy.task_ids:
        with _weighed(device) as weight:
            pipelines.append(_pipeline(bundle, task, device, dtype))
        weights += weight
    longest = bundle.tokenizer.max_tokens
    yield System(f"pipeline {precision}, {THREE}", Pipelines(pipelines, longest), ours=False, weights=sum(weights))
    yield System(f"pipeline {precision}, {ONE}", Pipelines(pipelines[:1], longest), ours=False, weights=weights[0])


class OpenVino:
    """An ONNX file in OpenVINO's runtime for CPUs."""

    def __init__(self, file: Path, threads: int | None) -> None:
        import openvino

        self.name = f"openvino {file.name}"
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or 0}
        self._model = openvino.Core().compile_model(str(file), "CPU", settings)

    def forward(self, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        found = self._model({"input_ids": input_ids, "attention_mask": attention_mask})
        return {output.get_any_name(): found[output] for output in self._model.outputs}


def _onnx_files(bundle: Bundle, folder: Path) -> Iterator[Path]:
    """ONNX files in fp32, int8 and static int8: those of the bundle, others exported into `folder`."""
    if importlib.util.find_spec("onnxruntime") is None:
        print("the package 'onnxruntime' is missing: no figures of ONNX", file=sys.stderr)
        return
    from mailtriage import export

    there = {name: bundle.path / name for name in (export.FP32, export.INT8) if (bundle.path / name).is_file()}
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        from mailtriage.model import MultiTaskClassifier

        (folder / "onnx").mkdir(parents=True, exist_ok=True)
        export._export(MultiTaskClassifier.from_pretrained(str(bundle.path / "model")), folder / export.FP32)
        export._quantise(folder / export.FP32, folder / export.INT8)
        static = folder / "onnx/model.static int8.onnx"
        _quantise_statically(folder / export.FP32, static, bundle.tokenizer)
        there = {name: folder / name for name in (export.FP32, export.INT8)} | there | {static.name: static}
    yield from there.values()


def _quantise_statically(source: Path, target: Path, tokenizer: MailTokenizer) -> None:
    """Int8 with scales of activations fixed beforehand; products of two activations (attention) stay in fp32."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Mails(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            mails = [model_text(each.subject, each.text, each.custodian_bank) for each in _examples(64, 23)]
            ids = tokenizer.encode(mails)
            self._batches = iter([pad(ids[start : start + 8]) for start in range(0, len(ids), 8)])

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else dict(zip(("input_ids", "attention_mask"), batch, strict=True))

    prepared = target.with_suffix(".prepared")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    weights = {each.name for each in graph.initializer}
    products = [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
    quantize_static(
        str(prepared),
        str(target),
        Mails(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=products,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def _pipeline(bundle: Bundle, task: str, device: str, dtype: Any) -> Any:
    """The bundle's encoder under a fresh head."""
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, pipeline

    from mailtriage.model import MultiTaskClassifier

    encoder = MultiTaskClassifier.from_pretrained(str(bundle.path / "model")).encoder_of_tasks[task]
    config = encoder.config
    labels = bundle.taxonomy.task(task).label_ids
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(encoder.state_dict(), strict=False)  # the pooler has none
    # Its own copy of the tokenizer, since it sets padding and truncation on it.
    tokens = bundle.tokenizer._tokenizer
    known = {tokens.id_to_token(index) for index in range(min(16, bundle.tokenizer.vocabulary_size))}
    padding = "<pad>" if "<pad>" in known else "[PAD]"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token=padding, model_max_length=bundle.tokenizer.max_tokens
    )
    return pipeline("text-classification", model=model.eval().to(dtype), tokenizer=tokenizer, device=device)


@contextmanager
def _weighed(device: str) -> Iterator[list[int]]:
    """The bytes that are on the GPU afterwards and were not before."""
    found: list[int] = []
    before = _on_gpu(device)
    yield found
    found.append(_on_gpu(device) - before)


def _on_gpu(device: str) -> int:
    import torch

    if device != "cuda":
        return 0
    gc.collect()
    return int(torch.cuda.memory_allocated())


def _measure(systems: Sequence[System], mails: Segments, arguments: argparse.Namespace, device: str) -> None:
    """Fill `runs` and `peak` of each system."""
    import torch

    singles = mails[: arguments.singles]
    for turn in range(-1, arguments.repeats):  # the first one warms up, and records CUDA graphs
        for mode, given in zip(MODES, (singles, mails), strict=True):
            for system in systems:
                if turn < 0 and device == "cpu":
                    given = given[:PIPELINE_BATCH]  # noqa: PLW2901
                before = _on_gpu(device)
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                run = getattr(system, mode)(given)
                if device == "cuda":
                    system.peak = max(system.peak, torch.cuda.max_memory_allocated() - before)
                if turn >= 0:
                    system.runs[mode].append(run)
        print(f"repeat {turn + 1} of {arguments.repeats} done", file=sys.stderr, flush=True)


def _summary(systems: Sequence[System], changed: dict[str, float]) -> dict[str, Any]:
    """Medians a system, and the ratios of ours to the pipelines."""
    found, ratios = {}, {}
    for system in systems:
        p50, p99 = (
            median(float(np.percentile(run.calls, share)) for run in system.runs["single"]) * 1000 for share in (50, 99)
        )
        found[system.name] = {
            "single_p50_ms": round(p50, 3),
            "single_p99_ms": round(p99, 3),
            "single_mails_per_second": round(median(run.mails_per_second for run in system.runs["single"]), 1),
            "batches_mails_per_second": round(median(run.mails_per_second for run in system.runs["batches"]), 1),
            "gpu_mib": round((system.weights + system.peak) / 2**20, 1),
            "labels_changed": changed.get(system.name),
        }
    for ours in (system for system in systems if system.ours):
        for other in (system for system in systems if not system.ours):
            for mine, theirs in (("single", "single"), ("batches", "batches"), ("batches", "single")):
                pairs = zip(ours.runs[mine], other.runs[theirs], strict=True)
                values = [a.mails_per_second / b.mails_per_second for a, b in pairs]
                ratios[f"{ours.name}, {mine} / {other.name}, {theirs}"] = [
                    round(value, 2) for value in (median(values), min(values), max(values))
                ]
    return {"systems": found, "ratios, mails/s": ratios}


def _table(systems: dict[str, Any]) -> str:
    lines = [f"{'system':<30}{'p50 ms':>9}{'p99 ms':>9}{'single/s':>10}{'batches/s':>11}{'GPU MiB':>9}{'changed':>9}"]
    for name, found in systems.items():
        changed = "-" if found["labels_changed"] is None else f"{found['labels_changed']:.2%}"
        lines.append(
            f"{name:<30}{found['single_p50_ms']:>9.2f}{found['single_p99_ms']:>9.2f}"
            f"{found['single_mails_per_second']:>10.1f}{found['batches_mails_per_second']:>11.1f}"
            f"{found['gpu_mib']:>9.0f}{changed:>9}"
        )
    return "\n".join(lines)


def _changed(expected: dict[str, Any], found: dict[str, Any]) -> float:
    """Share of labels, over all tasks and mails."""
    return round(float(np.mean([expected[task].argmax(1) != found[task].argmax(1) for task in expected])), 5)


def _softmax(logits: Any) -> Any:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _size(bundle: Bundle) -> dict[str, Any]:
    encoder = json.loads((bundle.path / "model/config.json").read_text(encoding="utf-8"))["encoder"]
    kept = ("num_hidden_layers", "hidden_size", "vocab_size")
    return {key: encoder[key] for key in kept if key in encoder} | {"max_tokens": bundle.manifest["max_tokens"]}


def _hardware(device: str) -> str:
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    cores = f"{cpu}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()}, {cores}" if device == "cuda" else cores


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "tokenizers", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


if __name__ == "__main__":
    main()
