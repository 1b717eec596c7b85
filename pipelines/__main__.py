"""`python -m pipelines`: compile the pipelines, run one on this machine, or submit it to a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from mailtriage.errors import ConfigError, MailtriageError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

SAMPLE_ROWS, SAMPLE_SEED = 2000, 7


@app.command("compile")
def compile_command(
    output: Annotated[Path, typer.Option(help="folder of the compiled files")] = Path("manifests/pipelines"),
) -> None:
    """Write each pipeline as YAML, and as objects for `kubectl apply`."""
    from pipelines.compiling import compile_all

    for file in compile_all(output):
        typer.echo(file)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="a pipeline, such as `training`")],
    local: Annotated[bool, typer.Option("--local", help="run the steps on this machine")] = False,
    endpoint: Annotated[str, typer.Option(help="address of a KFP API, such as http://localhost:8888")] = "",
    data: Annotated[str, typer.Option(help="labelled mails: file, folder or s3:// address; default: a sample")] = "",
    config: Annotated[Path, typer.Option(help="training configuration")] = Path("configs/demo.yaml"),
    taxonomy: Annotated[Path | None, typer.Option(help="default: the one that the configuration names")] = None,
    experiment: Annotated[str, typer.Option(help="MLflow experiment")] = "mailtriage",
    model_name: Annotated[str, typer.Option(help="name in the model registry")] = "mailtriage",
    tracking_uri: Annotated[str, typer.Option(help="MLflow server; default: MLFLOW_TRACKING_URI, or SQLite")] = "",
    seed: Annotated[int, typer.Option(help="of the split")] = 7,
    ray_address: Annotated[str, typer.Option(help="Ray cluster that cleans, for more than one machine should")] = "",
    ray_job: Annotated[Path | None, typer.Option(help="a RayJob to train as, in place of manifests/training")] = None,
    ray_namespace: Annotated[str, typer.Option(help="where the RayJob runs; default: where the steps do")] = "",
    timeout: Annotated[int, typer.Option(help="seconds after which a run on a cluster is stopped")] = 6 * 3600,
    namespace: Annotated[str, typer.Option(help="where the pods of a run on a cluster are")] = "kubeflow",
) -> None:
    """Run a pipeline, here or on a cluster: the same definition."""
    from mailtriage.config import load_config
    from pipelines import catalogue

    if local == bool(endpoint):
        raise ConfigError("say where to run: --local, or --endpoint URL")
    pipeline = catalogue.load(name)
    settings = load_config(config)
    arguments = {
        "data": _data(data, local),
        "taxonomy": (taxonomy or Path(settings.taxonomy)).read_text(encoding="utf-8"),
        "config": config.read_text(encoding="utf-8"),
        "experiment": experiment,
        "model_name": model_name,
        "tracking_uri": tracking_uri,
        "seed": seed,
        "ray_address": ray_address,
        "ray_job": ray_job.read_text(encoding="utf-8") if ray_job else "",
        "ray_namespace": ray_namespace,
    }
    if endpoint:
        from pipelines import cluster_runs

        cluster_runs.run(pipeline, arguments, endpoint, timeout=timeout, namespace=namespace, say=typer.echo)
        return
    from pipelines import local_runs

    outputs = local_runs.run(pipeline, arguments)
    typer.echo(f"\nversion {outputs['version']} of '{model_name}', mean macro-F1 {outputs['mean_macro_f1']:.3f}")
    typer.echo(f"report  {outputs['evaluation'].path}/report.html")
    typer.echo(f"bundle  {outputs['bundle'].path}")
    typer.echo(f"MLflow  run {outputs['run_id']}")


def _data(data: str, local: bool) -> str:
    """The address of the mails as the steps see it; sample mails are made where none is named."""
    if data:
        return data if "://" in data or not local else str(Path(data).resolve())
    if not local:
        raise ConfigError("name the mails with --data: an s3:// address, or a path that the pods see")
    from mailtriage.sample import write_sample

    file = Path("work/sample/mails.jsonl").resolve()
    typer.echo(f"no --data: making {SAMPLE_ROWS:,} synthetic mails in {file}")
    write_sample(SAMPLE_ROWS, SAMPLE_SEED, file)
    return str(file)


def main() -> None:
    """Run the command; an error that we foresaw is one line, not a traceback."""
    try:
        app()
    except MailtriageError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
