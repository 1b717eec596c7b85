"""How the transformer should talk to the predictor: V2 with binary tensors over REST, or over gRPC.

    python benchmarks/serving_transport.py

Starts a KServe model server whose engine costs nothing, so that only the transport is measured, and sends it the same
token ids both ways in turns. Prints microseconds a request and the ratio.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ROUNDS, REQUESTS = 11, 64
SHAPES = ((1, 64), (16, 128))
TASKS = {"line_of_business": 5, "queue": 9, "topic": 26}

SERVER = """
import sys
import numpy as np
from kserve import InferRequest, Model
from serving.logs import configure_logging
from serving.server import MailModelServer, ServerSettings
from serving.tensors import read_numbers, tensor_answer

class Free(Model):
    platform, model_version = "none", "1"
    def validate(self, payload):
        return payload
    async def predict(self, request, headers=None, response_headers=None):
        mails = len(read_numbers(request.get_input_by_name("input_ids"), "INT64"))
        logits = {task: np.zeros((mails, labels), dtype=np.float32) for task, labels in %r.items()}
        return tensor_answer(request, logits, "benchmark", {"model_version": "1"})

configure_logging("predictor", "WARNING")
model = Free("mailtriage")
model.ready = True
settings = ServerSettings("127.0.0.1", int(sys.argv[1]), int(sys.argv[2]), answer_headers={"x-bundle-digest": "d"})
MailModelServer(settings).start([model])
"""


async def measure(rest_port: int, grpc_port: int) -> None:
    """Time both ways in turns, so that whatever else the machine does meets both alike."""
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    from serving.predictor_client import PredictorClient

    rest = PredictorClient(f"127.0.0.1:{rest_port}", "mailtriage", "1", "d")
    async with InferenceGRPCClient(f"127.0.0.1:{grpc_port}", timeout=60) as grpc:
        for mails, tokens in SHAPES:
            ids = np.ones((mails, tokens), dtype=np.int64)

            async def over_rest(ids: np.ndarray = ids) -> None:
                await rest.forward(ids, ids, 30, "benchmark")

            async def over_grpc(ids: np.ndarray = ids) -> None:
                inputs = [InferInput(name, list(ids.shape), "INT64") for name in ("input_ids", "attention_mask")]
                for tensor in inputs:
                    tensor.set_data_from_numpy(ids)
                answer = await grpc.infer(InferRequest("mailtriage", inputs))
                for output in answer.outputs:
                    output.as_numpy()

            for clients in (1, 8):
                await over_rest()
                await over_grpc()
                times: dict[str, list[float]] = {"REST": [], "gRPC": []}
                for _ in range(ROUNDS):
                    times["REST"].append(await microseconds(over_rest, clients))
                    times["gRPC"].append(await microseconds(over_grpc, clients))
                rest_time, grpc_time = (statistics.median(values) for values in times.values())
                print(
                    f"{mails:>3} mails of {tokens:>3} tokens, {clients} clients: REST {rest_time:7.0f} us, "
                    f"gRPC {grpc_time:7.0f} us a request, REST / gRPC {rest_time / grpc_time:.2f}"
                )
    await rest.close()


async def microseconds(send: Callable[[], Awaitable[None]], clients: int) -> float:
    """Time of one request where so many clients send one after the other."""

    async def client() -> None:
        for _ in range(REQUESTS // clients):
            await send()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return (time.perf_counter() - started) / REQUESTS * 1e6


def main() -> None:
    """Start the server, measure, stop it."""
    from serving.supervisor import answers, free_port

    rest_port, grpc_port = free_port("127.0.0.1"), free_port("127.0.0.1")
    command = [sys.executable, "-c", SERVER % TASKS, str(rest_port), str(grpc_port)]
    with subprocess.Popen(command, cwd=ROOT) as server:
        try:
            while not answers(f"http://127.0.0.1:{rest_port}/v2/health/ready", ""):
                if server.poll() is not None:
                    sys.exit("the server did not start")
                time.sleep(0.2)
            asyncio.run(measure(rest_port, grpc_port))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
