"""Bulk cleaning on Ray Data: the same work on the same parts of a file, in order, on the machines of a cluster."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_order_on_ray(work: Callable[[Part], Result], parts: Sequence[Part], address: str) -> Iterator[Result]:
    """Apply `work` to every part as a Ray Data task; results come in the order of the parts, as they are ready.

    Ray runs a task again whose worker was lost. Parts are small, such as offsets into a file that every node sees.

    Args:
        address: of a Ray cluster (`auto` inside of one, `ray://HOST:10001` from outside), or `local` to start one here.
    """

    def one_part(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "result": pickle.dumps(work(parts[row["id"]]))}

    if not parts:
        return
    with _connected(address):
        import ray.data

        # What Ray Data tells about its plan stays in its own files.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        before = context.execution_options.preserve_order, context.enable_progress_bars
        context.execution_options.preserve_order, context.enable_progress_bars = True, False
        try:
            tasks = ray.data.range(len(parts), override_num_blocks=len(parts)).map(one_part)
            for position, row in enumerate(tasks.iter_rows()):
                assert row["id"] == position, "expected Ray Data to keep the order"
                yield pickle.loads(row["result"])
        finally:
            context.execution_options.preserve_order, context.enable_progress_bars = before


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Join a cluster, or start Ray here, for as long as the block runs; a process that has joined one stays in it."""
    import ray

    if ray.is_initialized():
        yield
        return
    here = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, logging_level="error", **here)
    try:
        yield
    finally:
        ray.shutdown()
