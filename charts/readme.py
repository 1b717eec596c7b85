"""Writes the table of values in the chart's README from the `# --` comments of values.yaml: python charts/readme.py"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "mailtriage"
START, END = "<!-- values: made by charts/readme.py -->", "<!-- end of values -->"
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]\w*):")


def documented_values(text: str) -> Iterator[tuple[str, object, str]]:
    """Dotted key, default and description of each value that a `# --` line describes, in the file's order.

    Raises:
        ValueError: a leaf has no description.
    """
    defaults = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    description = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            description = stripped.removeprefix("# -- ")
            described_at = len(line) - len(line.lstrip())
            described = None
            continue
        match = _KEY.match(line)
        if match is None:
            continue
        indent = len(match["indent"])
        path = [step for step in path if step[0] < indent] + [(indent, match["key"])]
        key = ".".join(name for _, name in path)
        if description and described is None and indent == described_at:
            described = key
            yield key, _lookup(defaults, key), description
        elif description and described is not None and key.startswith(f"{described}."):
            continue  # inside a value that is described as a whole
        elif not isinstance(_lookup(defaults, key), dict):
            raise ValueError(f"values.yaml: '{key}' has no `# --` line above it")
        else:
            description = ""


def _lookup(values: object, key: str) -> object:
    for name in key.split("."):
        values = values[name]  # type: ignore[index]
    return values


def values_table(text: str) -> str:
    """The Markdown table of all documented values."""
    rows = [f"| `{key}` | `{json.dumps(default)}` | {text} |" for key, default, text in documented_values(text)]
    return "\n".join(["| key | default | what it is |", "|---|---|---|", *rows])


def readme() -> str:
    """The chart's README with the table as values.yaml has it now."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    table = values_table((CHART / "values.yaml").read_text(encoding="utf-8"))
    return f"{before}{START}\n{table}\n{END}{after}"


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme(), encoding="utf-8")
