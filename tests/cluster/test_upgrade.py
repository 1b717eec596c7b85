"""A release changes and goes back while clients send mails: none of their requests fails."""

from typing import Any

import helm_python as helm
from installation import CHART, Release, chart_values
from kube import Namespace, wait_until
from traffic import Traffic

COMPONENTS = ("predictor", "transformer")


def memory_limits(namespace: Namespace) -> set[str]:
    """The memory limits of the pods that run, going ones included."""
    pods = [pod for component in COMPONENTS for pod in namespace.list("pods", f"app=isvc.mailtriage-{component}")]
    return {pod["spec"]["containers"][0]["resources"]["limits"]["memory"] for pod in pods}


def wait_for_roll(namespace: Namespace, memory: str) -> None:
    wait_until(f"all pods have {memory}", lambda: memory_limits(namespace) == {memory}, 240, namespace.report)
    namespace.wait_for_deployments(*(f"mailtriage-{component}" for component in COMPONENTS))


def test_upgrade_and_rollback_lose_no_request(release: Release, helm_config: helm.Config, serving_image: str) -> None:
    values: dict[str, Any] = chart_values(serving_image, "current")
    before = values["predictor"]["resources"]["limits"]["memory"]
    changed = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1100Mi"}}
    upgraded = values | {component: {"resources": changed} for component in COMPONENTS}

    with Traffic(f"{release.gateway.base_url}/v1/models/mailtriage:predict", release.key) as traffic:
        helm_config.upgrade(CHART, release.name, upgraded)
        wait_for_roll(release.namespace, "1100Mi")
        helm_config.rollback(release.name)
        wait_for_roll(release.namespace, before)

    assert traffic.outcomes.keys() == {"200"}, traffic.outcomes
    assert traffic.outcomes["200"] > 50
