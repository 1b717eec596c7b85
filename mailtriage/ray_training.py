"""The training loop on Ray Train: N workers, on this machine or on a cluster, each running `fitting.fit`.

The same mails and configuration give the same run name, so a run that was stopped goes on from its last checkpoint,
and Ray starts a lost worker again by itself.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mailtriage.config import TrainingConfig
from mailtriage.fitting import Epoch, Say, Tokenised, TrainingState, Worker, fit
from mailtriage.model import MultiTaskClassifier, MultiTaskConfig

STATE = "state.pt"
RESTARTS = 3  # of a run whose worker was lost


def fit_on_ray(
    model: MultiTaskClassifier,
    train: Tokenised,
    validation: Tokenised,
    config: TrainingConfig,
    *,
    storage: str,
    fingerprint: str,
    say: Say,
) -> list[Epoch]:
    """As `fitting.fit`, on `config.workers` Ray workers; `model` gets the best weights.

    Args:
        storage: a folder that all nodes share, or a bucket, for checkpoints.
        fingerprint: the same for the same run; names its folder in `storage`.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with connected(), messages(say) as send:
        trainer = TorchTrainer(
            _train_on_worker,
            train_loop_config={
                "model": model.config.to_dict(),
                "state": ray.put({name: value.numpy() for name, value in model.state_dict().items()}),
                "train": ray.put(train),
                "validation": ray.put(validation),
                "config": config.model_dump(),
                "fingerprint": fingerprint,
                "say": send,
            },
            scaling_config=ScalingConfig(
                num_workers=config.workers,
                use_gpu=config.gpus,
                resources_per_worker={"CPU": config.worker_cpus} | ({"GPU": 1} if config.gpus else {}),
            ),
            run_config=RunConfig(
                name=f"mailtriage-{fingerprint[:16]}",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=RESTARTS),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        )
        say(f"Ray Train: {config.workers} worker(s), checkpoints in {storage}")
        result = trainer.fit()
        with result.checkpoint.as_directory() as folder:
            state = TrainingState.load(Path(folder) / STATE, fingerprint)
    assert state is not None
    model.load_state_dict(state.best)
    return state.history


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster that this process belongs to, or have Ray in this process while the block runs."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"include_dashboard": False}
    # Workers say what matters through `messages`; the rest of their logs stays in Ray's own files.
    start = partial(ray.init, address=address, log_to_driver=False, logging_level="error", **local)
    try:
        start()
    except Exception:  # nothing narrower is raised where a busy machine takes more than Ray's 30 seconds to start
        ray.shutdown()
        start()
    try:
        yield
    finally:
        ray.shutdown()


class _Messages:
    """A Ray actor that carries what workers send to the process that waits for them."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []

    def put(self, message: Any) -> None:
        self._waiting.append(message)

    def take(self) -> list[Any]:
        taken, self._waiting = self._waiting, []
        return taken


class _Sender:
    """Gives a message to the carrier, from any worker."""

    def __init__(self, carrier: Any) -> None:
        self._carrier = carrier

    def __call__(self, message: Any) -> None:
        self._carrier.put.remote(message)


@contextmanager
def messages(hear: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """While the block runs, what workers give to the yielded function comes to `hear`, in a thread of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    carrier = ray.remote(num_cpus=0, scheduling_strategy=here)(_Messages).remote()  # a worker's node may go
    done = threading.Event()

    def relay() -> None:
        last = False
        while not last:
            last = done.wait(0.5)
            for message in ray.get(carrier.take.remote()):
                hear(message)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield _Sender(carrier)
    finally:
        done.set()
        thread.join(timeout=5)


def _train_on_worker(settings: dict[str, Any]) -> None:
    import ray
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank = context.get_world_rank()
    model = MultiTaskClassifier(MultiTaskConfig(**settings["model"]))
    weights = ray.get(settings["state"])
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})

    def keep(state: TrainingState) -> None:
        last = state.history[-1]
        metrics = {"epoch": last.epoch, "loss": last.loss, "macro_f1": last.macro_f1}
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                state.save(Path(folder) / STATE, settings["fingerprint"])
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint)

    fit(
        model,
        ray.get(settings["train"]),
        ray.get(settings["validation"]),
        TrainingConfig(**settings["config"]),
        worker=Worker(
            rank=rank,
            count=context.get_world_size(),
            device=str(ray.train.torch.get_device()),
            wrap=ray.train.torch.prepare_model,
            sum_over_workers=_sum_over_workers,
        ),
        resume=_resume(settings["fingerprint"]),
        after_epoch=keep,
        say=settings["say"] if rank == 0 else (lambda _line: None),
    )


def _resume(fingerprint: str) -> TrainingState | None:
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return TrainingState.load(Path(folder) / STATE, fingerprint)


def _sum_over_workers(value: float) -> float:
    from torch import distributed

    if not distributed.is_initialized():
        return value
    backend_is_nccl = distributed.get_backend() == "nccl"
    total = torch.tensor(value, dtype=torch.float64, device="cuda" if backend_is_nccl else "cpu")
    distributed.all_reduce(total)
    return float(total)
