"""A namespace of a live cluster, by kubectl: apply, wait, read, and say what went wrong."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import yaml

Object = dict[str, Any]


class KubectlFailed(AssertionError):
    """kubectl refused; the message is what it said."""


def kubectl(*arguments: str, text: str = "", timeout: float = 120) -> str:
    """Output of a kubectl command.

    Raises:
        KubectlFailed: it exited with another code than 0.
    """
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise KubectlFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], Any], seconds: float, report: Callable[[], str] = str) -> Any:
    """The condition's first true value.

    Raises:
        AssertionError: it did not become true in time; the message ends with the report.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(1)
    raise AssertionError(f"{what}: not within {seconds:.0f} s\n{report()}")


class Namespace:
    """One namespace, which the tests own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: str, text: str = "", timeout: float = 120) -> str:
        return kubectl("--namespace", self.name, *arguments, text=text, timeout=timeout)

    def apply(self, *objects: Object, dry_run: bool = False) -> None:
        """Apply objects; an unknown field is an error. With `dry_run` the API server only checks them."""
        options = ["--validate=strict", *(["--dry-run=server"] if dry_run else [])]
        self.kubectl("apply", *options, "--filename=-", text=yaml.safe_dump_all(objects))

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def list(self, kind: str, selector: str = "") -> list[Object]:
        options = [f"--selector={selector}"] if selector else []
        items: list[Object] = json.loads(self.kubectl("get", kind, *options, "--output=json"))["items"]
        return items

    def exists(self, kind: str, name: str) -> bool:
        return bool(self.kubectl("get", kind, name, "--ignore-not-found", "--output=name").strip())

    def conditions(self, kind: str, name: str) -> dict[str, str]:
        """Type and status of the conditions of an object, of a route's parents or of a policy's ancestors."""
        status = self.get(kind, name).get("status", {})
        holders = [status, *status.get("parents", []), *status.get("ancestors", [])]
        return {item["type"]: item["status"] for holder in holders for item in holder.get("conditions", [])}

    def report(self) -> str:
        """Pods, their events and the ends of their logs: what a failed test needs to be understood."""
        parts = [self.kubectl("get", "pods", "--output=wide")]
        parts.append(self.kubectl("get", "events", "--sort-by=.lastTimestamp")[-4000:])
        for pod in self.list("pods"):
            name = pod["metadata"]["name"]
            try:
                parts.append(f"--- {name}\n" + self.kubectl("logs", name, "--all-containers", "--tail=30"))
            except KubectlFailed as failure:
                parts.append(f"--- {name}\n{failure}")
        return "\n".join(parts)

    def wait_for_deployments(self, *names: str, seconds: float = 180) -> None:
        """Wait until each deployment exists and all its pods are ready."""

        def ready(name: str) -> bool:
            if not self.exists("deployment", name):
                return False
            deployment = self.get("deployment", name)
            status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
            current = status.get("observedGeneration") == deployment["metadata"]["generation"]
            return current and status.get("updatedReplicas") == status.get("readyReplicas") == wanted

        for name in names:
            wait_until(f"deployment {name} is ready", lambda name=name: ready(name), seconds, self.report)
