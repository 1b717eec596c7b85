"""What is in the images that run: their own lists of packages are whole and valid; serving has nothing of training."""

import json
import re
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from kube import Namespace, wait_until
from packageurl import PackageURL

FORBIDDEN = ("torch", "ray", "kfp", "mlflow", "nvidia", "triton", "transformers", "sklearn")
INSIDE = f"""
import importlib.metadata, importlib.util, json, os, pathlib, subprocess
query = ["dpkg-query", "--show", "--showformat=${{Package}} ${{Version}}\\n"]
(listing,) = pathlib.Path("/usr/share/sbom").iterdir()
libraries = [str(path) for folder in ("/opt", "/usr") for path in pathlib.Path(folder).rglob("libcud*.so*")]
print(json.dumps({{
    "user": os.getuid(),
    "debian": [line.split() for line in subprocess.check_output(query, text=True).splitlines()],
    "python": [[found.name, found.version] for found in importlib.metadata.distributions()],
    "forbidden": [name for name in {FORBIDDEN} if importlib.util.find_spec(name)] + libraries,
    "sbom": listing.read_text(encoding="utf-8"),
}}))
"""


def inside(namespace: Namespace, image: str, name: str) -> dict[str, Any]:
    """What a pod of the image finds in itself."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    container = {"name": "look", "image": image, "command": ["python", "-c", INSIDE], "securityContext": restricted}
    spec = {
        "restartPolicy": "Never",
        "containers": [container | {"imagePullPolicy": "IfNotPresent"}],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def ended() -> bool:
        return namespace.get("pod", name)["status"]["phase"] in ("Succeeded", "Failed")

    wait_until(f"{name} has looked", ended, 120, namespace.report)
    said: dict[str, Any] = json.loads(namespace.kubectl("logs", name))
    namespace.kubectl("delete", "pod", name)
    return said


def same_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("stage", ["serving", "training", "platform"])
def test_an_image_lists_all_its_packages_and_no_other(
    namespace: Namespace, request: pytest.FixtureRequest, stage: str
) -> None:
    found = inside(namespace, request.getfixturevalue(f"{stage}_image"), f"look-{stage}")

    listing = json.loads(found["sbom"])
    packages = [PackageURL.from_string(item["purl"]) for item in listing["components"] if "purl" in item]
    debian = {(one.name, one.version) for one in packages if one.type == "deb" and one.qualifiers["arch"] != "source"}  # type: ignore[union-attr]
    python = {(same_name(one.name), one.version) for one in packages if one.type == "pypi"}
    assert JsonStrictValidator(SchemaVersion.from_version(listing["specVersion"])).validate_str(found["sbom"]) is None
    assert debian == {(name, version) for name, version in found["debian"]}
    assert python == {(same_name(name), version) for name, version in found["python"]}
    assert listing["metadata"]["component"]["name"] == f"mailtriage-{stage}"
    assert found["user"] == 10001
    assert stage != "serving" or found["forbidden"] == []
