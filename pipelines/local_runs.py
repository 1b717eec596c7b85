"""Runs a pipeline on this machine: the steps of the compiled definition, each in a subprocess of this interpreter."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from kfp import local

from mailtriage.errors import MailtriageError

DEFAULT_ROOT = Path("work/pipeline")
ON_THIS_MACHINE = {"train_as": "process"}  # where no cluster makes a RayJob


class RunFailed(MailtriageError):
    """A step of a run failed; the message names it and says where its output is."""


def run(
    pipeline: Any, arguments: Mapping[str, Any], root: Path = DEFAULT_ROOT, console: TextIO | None = None
) -> dict[str, Any]:
    """Run a KFP pipeline and return its outputs: parameters as values, artifacts with their `.path`.

    The train step trains in its own process. Everything that steps and runner print goes to a log file in `root`;
    `console` gets what a person wants to see.

    Raises:
        RunFailed: a step failed.
    """
    root.mkdir(parents=True, exist_ok=True)
    log_file = root / f"{pipeline.name}-{datetime.now():%Y-%m-%d-%H-%M-%S}.log"
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    steps = len(pipeline.pipeline_spec.root.dag.tasks)
    with log_file.open("w", encoding="utf-8") as log, _step_environment(), _steps_end_with_us(), _warm_tracking():
        display = StepDisplay(console or sys.stdout, log, steps)
        try:
            with contextlib.redirect_stdout(display):
                return dict(pipeline(**{**arguments, **ON_THIS_MACHINE}).outputs)
        except RuntimeError as error:
            if display.running is None:  # nothing of ours: a fault of the runner
                raise
            raise RunFailed(
                f"step '{display.running}' of pipeline '{pipeline.name}' failed; "
                f"its output is above, and whole in {log_file}"
            ) from error


class StepDisplay(TextIO):
    """A text stream between KFP's local runner and a person: steps and what they say, no machinery.

    `running` is the name of the step that runs, or that failed.
    """

    def __init__(self, console: TextIO, log: TextIO, steps: int) -> None:
        self.running: str | None = None
        self._console, self._log, self._steps = console, log, steps
        self._started = 0.0
        self._count = 0
        self._rest = ""
        self._inside_input = False

    def write(self, text: str) -> int:
        """Take any piece of text; whole lines are shown or left out."""
        self._log.write(text)
        self._log.flush()
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            shown = self._shown(re.sub(r"\x1b\[[0-9;]*m", "", line))
            if shown:
                self._console.write(shown + "\n")
                self._console.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing waits here but the rest of a line."""

    def isatty(self) -> bool:
        """Steps print lines, not bars that move."""
        return False

    def _shown(self, line: str) -> str | None:
        if started := re.search(r"Executing task '([^']+)'", line):
            self.running, self._started, self._count = started[1], time.monotonic(), self._count + 1
            return f"[{self._count}/{self._steps}] {self.running}"
        if re.search(r"Task '[^']+' finished with status SUCCESS", line):
            self.running = None
            return f"      done in {time.monotonic() - self._started:.1f} s"
        return self._step_line(line[4:].rstrip()) if line.startswith("    ") and self.running else None

    def _step_line(self, line: str) -> str | None:
        """A line that a step printed, unless KFP's executor did."""
        if self._inside_input:
            self._inside_input = line != "}"
            return None
        if line.startswith("[KFP Executor"):
            self._inside_input = line.endswith("Got executor_input:")
            return None
        return f"      {line}" if line else None


@contextlib.contextmanager
def _step_environment() -> Iterator[None]:
    """Steps print as they go and find this repository; KFP's warnings that only matter on a cluster are left out."""
    repository = str(Path(__file__).resolve().parent.parent)
    paths = [repository, *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You may be attemp", category=RuntimeWarning)  # image's name
            warnings.filterwarnings("ignore", message="Task '.*settings", category=UserWarning)  # resource requests
            yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


@contextlib.contextmanager
def _steps_end_with_us() -> Iterator[None]:
    """End the running step, too, when this process is told to terminate; Ctrl-C reaches it anyway."""

    def terminate(*_: object) -> None:
        for process in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def descendants(ancestor: int) -> list[int]:
    """Processes that a process started, and those that they started; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(file.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found = [ancestor]
    for process in found:
        found += children.get(process, [])
    return found[1:]


@contextlib.contextmanager
def _warm_tracking() -> Iterator[None]:
    """Let MLflow make its database while the first steps, which use one core, run: its migrations take seconds."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        yield
        return
    code = "from mailtriage import tracking; tracking.client().search_experiments(max_results=1)"
    quiet = subprocess.DEVNULL
    with subprocess.Popen([sys.executable, "-c", code], stdin=quiet, stdout=quiet, stderr=quiet) as warming:
        try:
            yield
        finally:
            warming.terminate()
