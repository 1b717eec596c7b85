"""Writes base/mailtriage.yaml: the Helm chart, rendered with base/values.yaml: python manifests/render.py"""

from pathlib import Path

import helm_python as helm
import yaml

HERE = Path(__file__).parent
CHART = HERE.parent / "charts" / "mailtriage"
RENDERED = HERE / "base" / "mailtriage.yaml"
NAMESPACE = "mailtriage"  # the overlays set their own
HEADER = "# Made from charts/mailtriage by manifests/render.py. Do not edit; patch it in an overlay.\n"


def rendered() -> str:
    """The chart's objects without its test hooks, sorted by kind and name."""
    values = yaml.safe_load((HERE / "base" / "values.yaml").read_text(encoding="utf-8"))
    with helm.Chart.load(CHART) as chart:
        manifests = chart.render(values, name="mailtriage", namespace=NAMESPACE)
    texts = [text for path, text in manifests.items() if path.endswith(".yaml")]
    objects = [item for text in texts for item in yaml.safe_load_all(text) if item]
    kept = [item for item in objects if "helm.sh/hook" not in item["metadata"].get("annotations", {})]
    kept.sort(key=lambda item: (item["kind"], item["metadata"]["name"]))
    for item in kept:
        item["metadata"]["labels"].pop("helm.sh/chart", None)
        if "app.kubernetes.io/managed-by" in item["metadata"]["labels"]:
            item["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "kustomize"
    return HEADER + "---\n".join(yaml.safe_dump(item, sort_keys=False, allow_unicode=True) for item in kept)


if __name__ == "__main__":
    RENDERED.write_text(rendered(), encoding="utf-8")
