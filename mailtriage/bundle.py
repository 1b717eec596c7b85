"""The bundle: the contract between training and serving.

    manifest.json            versions, engines, and the SHA-256 of every other file
    model/                   config.json and model.safetensors, as `transformers` writes them
    tokenizer.json           the encoder's tokenizer
    taxonomy.yaml            tasks, labels, valid combinations
    calibration.json         a temperature a task
    thresholds.json          the confidence a task needs for routing, and the precision wanted when it was compiled
    onnx/                    the exported engines
    cleaning_sample.jsonl.gz what cleaning made of some training mails, without their words (`cleaning_trace`)
    seen_mails.txt           a hash of each mail that the model was fitted on or chosen by (`seen`)
    metrics.json, MODEL_CARD.md

No file holds code or a pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import mailtriage
from mailtriage.cleaning import CLEANING_VERSION, KNOWN_CLEANING_VERSIONS
from mailtriage.code_version import code_version
from mailtriage.decoding import Decoder
from mailtriage.errors import BundleChecksumMismatch, BundleError, BundleFileMissing, UnknownCleaningVersion
from mailtriage.features import MailTokenizer
from mailtriage.taxonomy import Taxonomy

FORMAT = 1
MANIFEST = "manifest.json"
TORCH, TORCH_FP32 = "model", "model:fp32"  # engines: the weights in the device's precision (bf16 on a GPU), or in fp32
REQUIRED = ("tokenizer.json", "taxonomy.yaml", "calibration.json", "thresholds.json")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Use `Bundle.open`, which checks it."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Bundle:
        """Open a bundle and check it; `verify=False` leaves out the checksums, never the versions.

        Raises:
            BundleFileMissing: the manifest, or a file that it names, is not there.
            BundleChecksumMismatch: a file is not the one that was written.
            UnknownCleaningVersion: this code does not have the cleaning that the model was trained with.
            BundleError: the manifest cannot be read, or has another format.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        if manifest["format"] != FORMAT:
            raise BundleError(f"expected bundle format {FORMAT}, found {manifest['format']} in {folder / MANIFEST}")
        if manifest["cleaning_version"] not in KNOWN_CLEANING_VERSIONS:
            raise UnknownCleaningVersion(
                f"the bundle {folder} needs cleaning version '{manifest['cleaning_version']}', "
                f"this code has {', '.join(sorted(KNOWN_CLEANING_VERSIONS))}"
            )
        _check_files(folder, manifest["files"], verify)
        return cls(folder, manifest)

    @property
    def model_version(self) -> str:
        """The registry's version, or a name made from the content where the bundle was never registered."""
        return str(self.manifest.get("model_version") or f"unregistered-{self.digest[:12]}")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and checksums of all files: equal for equal content, whatever its version."""
        lines = [f"{name} {checksum}" for name, checksum in sorted(self.manifest["files"].items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @cached_property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy.load(self.path / "taxonomy.yaml")

    @property
    def tokenizer(self) -> MailTokenizer:
        return MailTokenizer(self.path / "tokenizer.json", int(self.manifest["max_tokens"]))

    @property
    def decoder(self) -> Decoder:
        routing = self.read_json("thresholds.json")
        return Decoder(
            self.taxonomy,
            temperatures=self.read_json("calibration.json")["temperatures"],
            thresholds=routing["thresholds"],
            by=routing.get("by"),
        )

    @property
    def onnx_path(self) -> Path:
        """The ONNX file that this bundle serves from on a CPU."""
        return self.path / self.engine_file("cpu")

    def engine_file(self, device: str) -> str:
        """What this bundle serves from on a device: an ONNX file, `TORCH` or `TORCH_FP32`."""
        return str(self.manifest["engines"].get(device, TORCH))

    def read_json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))


def write_manifest(path: Path, *, name: str, max_tokens: int, engines: Mapping[str, str]) -> Bundle:
    """Seal a folder of model files: write its manifest over everything in it, and open it as a bundle."""
    taxonomy = Taxonomy.load(path / "taxonomy.yaml")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != MANIFEST)
    manifest = {
        "format": FORMAT,
        "name": name,
        "model_version": None,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "mailtriage_version": mailtriage.__version__,
        "code": code_version(),
        "cleaning_version": CLEANING_VERSION,
        "taxonomy_version": taxonomy.version,
        "max_tokens": max_tokens,
        "engines": dict(engines),
        "files": {file.relative_to(path).as_posix(): sha256(file) for file in files},
    }
    _write_json(path / MANIFEST, manifest)
    return Bundle.open(path)


def read_part(path: str | Path, name: str) -> tuple[Mapping[str, Any], bytes]:
    """The manifest and one checked file of a bundle that need not be fit to serve, such as one of an older cleaning.

    Raises:
        BundleFileMissing: the manifest is not there, or the bundle has no such file.
        BundleChecksumMismatch: the file is not the one that was written.
        BundleError: the manifest cannot be read.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    if name not in manifest["files"] or not (folder / name).is_file():
        raise BundleFileMissing(f"the bundle {folder} lacks '{name}'")
    _check_sum(folder, name, manifest["files"][name])
    return manifest, (folder / name).read_bytes()


def stamp_model_version(path: str | Path, version: str) -> None:
    """Write the registry's version into the manifest; no other file changes, so the digest stays."""
    manifest = _read_manifest(Path(path))
    _write_json(Path(path) / MANIFEST, dict(manifest) | {"model_version": version})


def sha256(file: Path) -> str:
    """The SHA-256 of a file as hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise BundleFileMissing(f"expected a bundle at {folder}, found no {MANIFEST} there")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{file} is no JSON: {error}") from None
    wanted = {"format", "cleaning_version", "taxonomy_version", "max_tokens", "engines", "files"}
    if not isinstance(manifest, dict) or not wanted <= manifest.keys():
        raise BundleError(f"{file} lacks {', '.join(sorted(wanted - set(manifest)))}")
    return manifest


def _check_files(folder: Path, files: Mapping[str, str], verify: bool) -> None:
    for name in {*files, *REQUIRED}:
        if not (folder / name).is_file():
            raise BundleFileMissing(f"the bundle {folder} lacks '{name}'")
        if name not in files:
            raise BundleError(f"the manifest of {folder} has no checksum for '{name}'")
    if not verify:
        return
    for name, expected in files.items():
        _check_sum(folder, name, expected)


def _check_sum(folder: Path, name: str, expected: str) -> None:
    found = sha256(folder / name)
    if found != expected:
        raise BundleChecksumMismatch(
            f"'{name}' in the bundle {folder} was changed: expected SHA-256 {expected[:12]}, found {found[:12]}"
        )


def _write_json(file: Path, content: object) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(file)
