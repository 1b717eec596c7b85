"""The model registry in MLflow: training registers a version, a person approves it, serving fetches that one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailtriage import tracking
from mailtriage.bundle import MANIFEST, Bundle, sha256, stamp_model_version
from mailtriage.errors import BundleChecksumMismatch, RegistryError, UnknownCleaningVersion

MODEL = "mailtriage"
CHAMPION = "champion"  # the alias of the approved version
FOLDER = "bundle"  # of the run's artifacts


def register(
    bundle: str | Path,
    run_id: str,
    metrics: Mapping[str, Any] | None = None,
    name: str = MODEL,
    folder: Path = tracking.DEFAULT_FOLDER,
) -> str:
    """Make a version of a bundle and return it; nothing is approved.

    The version is made first and written into the manifest of the copy that is uploaded, so that a prediction names
    it. A run has one version: asked again (a step that is tried again), its version comes back.

    Args:
        metrics: the content of `metrics.json`; the version carries the mean macro-F1 as a tag.

    Raises:
        BundleError: the bundle is damaged.
        RegistryError: the run has a version made from other content, or the registry refuses.
    """
    opened = Bundle.open(bundle)
    mlflow = tracking.client(folder)
    with _readable_errors(f"register model '{name}'"):
        for known in mlflow.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            return _same_version(known, opened)
        _make_model(mlflow, name)
        run = mlflow.get_run(run_id)
        version = mlflow.create_model_version(name, f"{run.info.artifact_uri}/{FOLDER}", run_id)
        try:
            manifest = _upload(mlflow, run_id, opened.path, str(version.version))
            for key, value in (_tags(opened, metrics) | {"manifest_sha256": manifest}).items():
                mlflow.set_model_version_tag(name, str(version.version), key, value)
        except BaseException:
            mlflow.delete_model_version(name, str(version.version))  # no version without its files
            raise
    return str(version.version)


def approve(version: str, approver: str, name: str = MODEL, folder: Path = tracking.DEFAULT_FOLDER) -> None:
    """Make a version the champion, and write down who approved it, when, and which version it replaces.

    Raises:
        RegistryError: no approver is named, or there is no such version.
    """
    if not approver.strip():
        raise RegistryError(f"expected the name of the person who approves version {version}, found none")
    mlflow = tracking.client(folder)
    with _readable_errors(f"approve version {version} of model '{name}'"):
        mlflow.get_model_version(name, version)
        before = _champion(mlflow, name)
        tags = {"approved_by": approver.strip(), "approved_at": datetime.now(UTC).isoformat(timespec="seconds")}
        if before is not None and before != version:
            tags["replaced_version"] = before
        for key, value in tags.items():
            mlflow.set_model_version_tag(name, version, key, value)
        mlflow.set_registered_model_alias(name, CHAMPION, version)


def fetch(model: str, destination: Path, folder: Path = tracking.DEFAULT_FOLDER) -> Bundle:
    """Download a version, check it, and only then put it at `destination`.

    Args:
        model: `NAME@ALIAS` or `NAME/VERSION`, such as `mailtriage@champion` or `mailtriage/3`.
        destination: a folder that does not exist, is empty, or is a bundle, which is replaced.

    Raises:
        RegistryError: there is no such version, or `destination` holds something else.
        BundleError: what was downloaded is not what was registered.
    """
    if destination.exists() and any(destination.iterdir()) and not (destination / MANIFEST).is_file():
        raise RegistryError(f"{destination} is neither empty nor a bundle; name another folder")
    mlflow = tracking.client(folder)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=destination.parent) as temporary:
        with _readable_errors(f"fetch '{model}'"):
            version = _resolve(mlflow, model)
            downloaded = Path(mlflow.download_artifacts(version.run_id, FOLDER, temporary))
        Bundle.open(downloaded)
        _check_manifest(downloaded, version)
        if destination.exists():
            shutil.rmtree(destination)
        shutil.move(downloaded, destination)
    return Bundle.open(destination, verify=False)


def fetch_champion(
    destination: Path,
    name: str = MODEL,
    folder: Path = tracking.DEFAULT_FOLDER,
    say: Callable[[str], object] = lambda line: None,
) -> Bundle | None:
    """As `fetch`, of the champion that a new model is compared with; `say` is told which, or why there is none.

    There is none before the first approval, and none if it was trained on text that this code cleans otherwise.
    """
    found = tracking.client(folder).search_registered_models(f"name = '{name}'")
    if not found or CHAMPION not in found[0].aliases:
        say("there is no champion yet")
        return None
    try:
        champion = fetch(f"{name}@{CHAMPION}", destination, folder)
    except UnknownCleaningVersion as error:
        say(f"not compared with champion version {found[0].aliases[CHAMPION]}: {error}")
        return None
    say(f"compared with champion version {champion.model_version}")
    return champion


def _upload(mlflow: Any, run_id: str, bundle: Path, version: str) -> str:
    """Upload a copy that carries its version; returns the SHA-256 of its manifest."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / FOLDER
        shutil.copytree(bundle, copy)
        stamp_model_version(copy, version)
        mlflow.log_artifacts(run_id, str(copy), FOLDER)
        return sha256(copy / MANIFEST)


def _tags(bundle: Bundle, metrics: Mapping[str, Any] | None) -> dict[str, str]:
    tags = {
        "bundle_digest": bundle.digest,
        "taxonomy_version": bundle.taxonomy.version,
        "cleaning_version": str(bundle.manifest["cleaning_version"]),
    }
    score = (metrics or {}).get("overall", {}).get("mean_macro_f1")
    return tags | ({"mean_macro_f1": f"{score:.4f}"} if score is not None else {})


def _same_version(known: Any, bundle: Bundle) -> str:
    if known.tags.get("bundle_digest") != bundle.digest:
        raise RegistryError(
            f"run {known.run_id} already has version {known.version} of '{known.name}', made from another bundle; "
            "record a new run for this one"
        )
    return str(known.version)


def _check_manifest(folder: Path, version: Any) -> None:
    """The manifest vouches for every other file; the registry vouches for the manifest."""
    expected, found = version.tags.get("manifest_sha256"), sha256(folder / MANIFEST)
    if expected != found:
        raise BundleChecksumMismatch(
            f"'{MANIFEST}' of {version.name} version {version.version} is not the one that was registered: "
            f"expected SHA-256 {str(expected)[:12]}..., found {found[:12]}..."
        )


def _resolve(mlflow: Any, model: str) -> Any:
    name, at, alias = model.partition("@")
    if at:
        return mlflow.get_model_version_by_alias(name, alias)
    name, slash, number = model.partition("/")
    if slash and number.isdigit():
        return mlflow.get_model_version(name, number)
    raise RegistryError(f"expected a model such as '{MODEL}@{CHAMPION}' or '{MODEL}/3', found '{model}'")


def _make_model(mlflow: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _champion(mlflow: Any, name: str) -> str | None:
    version = mlflow.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else str(version)


@contextmanager
def _readable_errors(intent: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RegistryError(f"could not {intent}: {error.message}") from None
