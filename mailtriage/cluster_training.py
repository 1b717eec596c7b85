"""Training as a RayJob: mails, configuration and bundle travel over a volume that step and Ray cluster both mount.

The step calls `train_on_cluster`; the job runs `python -m mailtriage.cluster_training FOLDER`. One folder is one piece
of work, named by its content, so that whoever starts the same again finds the checkpoints of the one before.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml

from mailtriage.bundle import Bundle, sha256
from mailtriage.config import TrainingConfig
from mailtriage.errors import ConfigError, MailtriageError
from mailtriage.ray_jobs import pod_templates, run_ray_job

Object = dict[str, Any]
Say = Callable[[str], None]

SHARED = Path("/mnt/training")  # where step and RayJob mount the claim `mailtriage-shared`
CONFIG, TAXONOMY, TRAIN, VALIDATION = "config.yaml", "taxonomy.yaml", "train.jsonl", "validation.jsonl"
CHECKPOINTS, BUNDLE = "checkpoints", "bundle"
FOLLOWED = "followed"  # touched at each look that the step takes at the job
UNFOLLOWED = 1200.0  # seconds without, after which the job ends; a step waits 600 s for the API server
CONFIG_VOLUME = "config"  # of the manifest: the ConfigMap of a job that is applied by hand


def train_on_cluster(
    config: TrainingConfig,
    taxonomy: str,
    train: Path,
    validation: Path,
    output: Path,
    *,
    template: Object,
    namespace: str,
    run: str = "",
    shared: Path = SHARED,
    say: Say = print,
) -> tuple[Bundle, float]:
    """Train as a RayJob; returns the bundle in `output`, verified, and its validation macro-F1.

    Args:
        taxonomy: the text of a `taxonomy.yaml`.
        train: cleaned mails, as `examples.write_examples` writes them; so is `validation`.
        template: the RayJob to make, as in `manifests/training`: its pods, resources and deadlines count.
        namespace: where the job runs; its claim `mailtriage-shared` holds the files that this process sees in `shared`.
        run: which run asks; the same where a step is started again.

    The bundle that `warm_start` names, also one of the registry, is found here and travels with the mails: the job
    sees neither this process's files nor MLflow.

    Raises:
        ConfigError: the configuration asks for more than the template's workers have, or `warm_start` names nothing.
        RayJobFailed: the job did not succeed.
        BundleError: what it wrote is not what its manifest says; or, as RegistryError, `warm_start` cannot be used.
    """
    config = config.model_copy(update={"workers": max(1, config.workers), "taxonomy": TAXONOMY})
    with ExitStack() as open_bundles:
        start = open_bundles.enter_context(_start_bundle(config.warm_start)) if config.warm_start else None
        if start is not None:  # by its content: an alias such as `champion` may name another bundle tomorrow
            config = config.model_copy(update={"warm_start": f"start-{start.digest[:12]}"})
        name = f"mailtriage-train-{_digest(config, taxonomy, train, validation)}"
        folder = shared / "runs" / name
        settings = config.model_copy(update={"storage": str(folder / CHECKPOINTS)})
        job = ray_job(template, settings, name, folder)
        if start is not None:
            settings = settings.model_copy(update={"warm_start": str(folder / str(config.warm_start))})
            _stage_bundle(start.path, folder / str(config.warm_start))
        _stage(folder, settings, taxonomy, train, validation)
    try:
        run_ray_job(job, namespace, run=run, say=say, alive=(folder / FOLLOWED).touch)
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder / BUNDLE, output)
        bundle = Bundle.open(output)
        score = float(bundle.read_json("metrics.json")["validation_macro_f1"])
        shutil.rmtree(folder)
    except BaseException as error:
        if getattr(error, "reason", "") not in ("Busy", "Unreachable"):  # then a job that still runs reads the mails
            _clear(folder, say)
        raise
    return bundle, score


def ray_job(template: Object, config: TrainingConfig, name: str, folder: Path) -> Object:
    """The template as the job of one folder, with as many workers as the configuration says.

    Raises:
        ConfigError: the template's workers have too few CPUs or no GPU, or it is none of ours.
    """
    job = copy.deepcopy(template)
    try:
        groups, templates = job["spec"]["rayClusterSpec"]["workerGroupSpecs"], pod_templates(job)
        (workers,) = groups
        resources = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    except (KeyError, TypeError, ValueError, IndexError):
        raise ConfigError(
            "expected a RayJob like manifests/training/cpu/rayjob.yaml, with one group of workers"
        ) from None
    if config.worker_cpus > _cpus(resources["cpu"]):
        raise ConfigError(
            f"worker_cpus is {config.worker_cpus:g}, but the RayJob's workers have {resources['cpu']} CPUs"
        )
    if config.gpus and not int(resources.get("nvidia.com/gpu", 0)):
        raise ConfigError("gpus is true, but the RayJob's workers have none (manifests/training/gpu has)")
    workers |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), config.workers)
    job["metadata"]["name"] = name
    job["spec"]["entrypoint"] = f"python -m mailtriage.cluster_training {folder}"
    for pod in (item["spec"] for item in templates.values()):
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != CONFIG_VOLUME]
        for container in pod["containers"]:
            mounts = container.get("volumeMounts", [])
            container["volumeMounts"] = [mount for mount in mounts if mount["name"] != CONFIG_VOLUME]
    return job


def train_in(folder: Path, say: Say = print, unfollowed: float = UNFOLLOWED) -> None:
    """The job's own work, on the Ray head: from the mails in `folder` to the bundle there.

    Ends this process where nobody has followed the job for `unfollowed` seconds: a step that was killed left it behind.
    """
    from mailtriage.examples import read_examples
    from mailtriage.taxonomy import Taxonomy
    from mailtriage.training import train

    threading.Thread(target=_end_unfollowed, args=(folder, unfollowed, say), daemon=True).start()
    taxonomy = (folder / TAXONOMY).read_text(encoding="utf-8")
    train(
        TrainingConfig.parse((folder / CONFIG).read_text(encoding="utf-8"), CONFIG),
        Taxonomy.parse(taxonomy),
        list(read_examples(folder / TRAIN)),
        list(read_examples(folder / VALIDATION)),
        folder / BUNDLE,
        say=say,
        taxonomy_text=taxonomy,
    )


def _end_unfollowed(folder: Path, seconds: float, say: Say) -> None:
    """Compare times of the shared volume with each other only: its clock need not be this machine's."""
    seen, since = 0.0, time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(min(10.0, seconds / 10))
        with suppress(FileNotFoundError):
            now = (folder / FOLLOWED).stat().st_mtime
            if now != seen:
                seen, since = now, time.monotonic()
    _clear(folder, say)
    say(f"error: no step has followed this job for {seconds:.0f} s")
    sys.stdout.flush()
    os._exit(1)  # from a thread, whatever the others do


def _digest(config: TrainingConfig, taxonomy: str, *mails: Path) -> str:
    """Twelve hex digits that name one piece of work."""
    parts = [config.model_dump_json(), taxonomy, *(sha256(file) for file in mails)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _start_bundle(name: str) -> AbstractContextManager[Bundle]:
    from mailtriage.warm_start import start_bundle  # brings torch, which a step needs for nothing else

    return start_bundle(name)


def _stage_bundle(bundle: Path, target: Path) -> None:
    """Whole or not at all; one that is there already has the same content, which its name says."""
    if target.exists():
        return
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(bundle, unfinished)
    unfinished.rename(target)


def _stage(folder: Path, config: TrainingConfig, taxonomy: str, train: Path, validation: Path) -> None:
    """Write what the job reads. A job of a step before may be reading the same files: each is replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True)
    for name, content in (
        (CONFIG, settings.encode()),
        (TAXONOMY, taxonomy.encode()),
        (TRAIN, train),
        (VALIDATION, validation),
    ):
        unfinished = folder / f"{name}.unfinished"
        if isinstance(content, Path):
            shutil.copyfile(content, unfinished)
        else:
            unfinished.write_bytes(content)
        unfinished.replace(folder / name)


def _clear(folder: Path, say: Say) -> None:
    """Leave no mail behind, but the checkpoints: the same run, started again, goes on from them.

    What cannot be removed is said, and hides no error that led here. Step and job may both be clearing.
    """
    try:
        for item in folder.iterdir():
            if item.is_dir() and item.name != CHECKPOINTS:
                shutil.rmtree(item, ignore_errors=True)
            elif item.is_file():
                item.unlink(missing_ok=True)
        if (folder / CHECKPOINTS).exists():
            say(f"checkpoints stay in {folder / CHECKPOINTS}: the same training goes on from them; else delete them")
        else:
            folder.rmdir()
    except FileNotFoundError:  # the other was quicker
        return
    except OSError as error:
        say(f"cannot clear {folder}, which holds mails: {error.strerror}; delete it")


def _cpus(quantity: str | int | float) -> float:
    """CPUs of a Kubernetes quantity, such as 3 or 500m."""
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


if __name__ == "__main__":
    try:
        train_in(Path(sys.argv[1]))
    except MailtriageError as error:
        sys.exit(f"error: {type(error).__name__}: {error}")
