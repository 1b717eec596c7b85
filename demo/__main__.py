"""`python -m demo`: sample mails, train, register, approve, serve, sort a batch of raw mails; then stop everything."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.rule import Rule

from demo.table import answers_table
from mailtriage import registry, tracking
from mailtriage.mail import Email
from mailtriage.readers import read_mails
from mailtriage.sample import write_sample
from mailtriage.taxonomy import Taxonomy
from pipelines import catalogue, local_runs
from serving.supervisor import Stack, StackSettings, stop_on_signals

HERE = Path(__file__).parent
ROOT = HERE.parent
CONFIG, TAXONOMY = ROOT / "configs" / "demo.yaml", ROOT / "taxonomy.yaml"
APPROVER = "the demo, in place of a person"
console = Console(highlight=False)


def main(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers up until Ctrl-C.")] = False,
    rows: Annotated[int, typer.Option(help="Synthetic mails to learn from.")] = 2400,
    seed: Annotated[int, typer.Option(help="Of the synthetic mails.")] = 7,
    config: Annotated[Path, typer.Option(help="Training configuration.")] = CONFIG,
    work: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("work/demo"),
) -> None:
    """Run the whole line once."""
    started = time.monotonic()
    data = work / "mails.jsonl"
    _step(f"1. {rows:,} synthetic mails of a brokerage's clients, with labels")
    write_sample(rows, seed, data)
    console.print(f"written to {data}")

    _step("2. The training pipeline, run on this machine by Kubeflow's local runner")
    outputs = local_runs.run(catalogue.load("training"), _arguments(data, config), work / "pipeline")
    version = outputs["version"]
    report = Path(outputs["evaluation"].path) / "report.html"
    console.print(
        f"registered in MLflow: version {version}, mean macro-F1 {outputs['mean_macro_f1']:.3f} on test mails"
    )

    _step(f"3. Approval of version {version}")
    console.print("A person decides this: they read the report and set the alias. Here the demo plays that person.")
    registry.approve(version, APPROVER)
    bundle = registry.fetch("mailtriage@champion", work / "champion")

    _step(f"4. Predictor, transformer and gateway, serving version {bundle.model_version}")
    settings = StackSettings(work / "champion", port=0, work=work / "serving")
    with stop_on_signals(), ExitStack() as cleanup:
        stack = cleanup.enter_context(Stack(settings, say=console.print))
        _step("5. A batch of raw mails through the gateway, with an API key")
        mails = [mail for mail in read_mails(HERE / "mails") if isinstance(mail, Email)]
        answers = _ask(stack, mails)
        console.print(answers_table(mails, answers, Taxonomy.load(TAXONOMY)))
        console.print(f"model version {bundle.model_version}, taxonomy {bundle.taxonomy.version}; ", end="")
        console.print(f"{time.monotonic() - started:.0f} s in all")
        console.print(f"the evaluation report: {report}")
        if keep:
            page = cleanup.enter_context(tracking.page())
            _step("Left running; Ctrl-C stops everything")
            console.print(stack.summary(), soft_wrap=True, markup=False)
            console.print(f"MLflow       {page}\nreport       {report.resolve().as_uri()}", soft_wrap=True)
            stack.watch()
    console.print("stopped everything that was started")


def _arguments(data: Path, config: Path) -> dict[str, Any]:
    return {
        "data": str(data.resolve()),
        "taxonomy": TAXONOMY.read_text(encoding="utf-8"),
        "config": config.read_text(encoding="utf-8"),
    }


def _ask(stack: Stack, mails: list[Email]) -> list[dict[str, Any]]:
    body = json.dumps({"instances": [mail.to_record() for mail in mails]}).encode()
    headers = {"content-type": "application/json", "x-api-key": stack.api_key}
    began = time.monotonic()
    request = urllib.request.Request(stack.predict_url, body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answers: list[dict[str, Any]] = json.load(response)["predictions"]
    console.print(f"POST {stack.predict_url}: {len(mails)} mails in {(time.monotonic() - began) * 1000:.0f} ms\n")
    return answers


def _step(title: str) -> None:
    console.print()
    console.print(Rule(title, align="left", style="bold"))


if __name__ == "__main__":
    typer.run(main)
