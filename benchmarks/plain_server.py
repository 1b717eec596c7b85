"""What serving is compared with: KServe model servers around plain `transformers`, one mail after the other.

    python benchmarks/plain_server.py --bundle BUNDLE --port 9000 [--tasks topic] [--clean] [--onnx] [--padded]

Run by `benchmarks/serving.py`. With one task it serves one of the three single-task models: an encoder with one of the
bundle's heads. With `--padded` it is our predictor, but a round of mails is one forward pass, padded to the longest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kserve import Model, ModelServer  # noqa: E402

LONGEST = 512


class PlainModel(Model):
    """Raw mails in, a label and its probability a task out."""

    def __init__(self, bundle: Path, tasks: list[str], clean: bool, onnx: bool, device: str) -> None:
        super().__init__("plain")
        from mailtriage.bundle import Bundle
        from mailtriage.engines import OnnxEngine
        from mailtriage.features import MailTokenizer

        opened = Bundle.open(bundle)
        self._taxonomy = opened.taxonomy
        self._tasks = tasks or list(opened.taxonomy.task_ids)
        positions = opened.read_json("model/config.json")["encoder"].get("max_position_embeddings", LONGEST)
        # Without cleaning what the client wrote may stand anywhere, so a mail is read as far as the encoder can.
        longest = int(opened.manifest["max_tokens"]) if clean else min(LONGEST, positions)
        self._tokenizer = MailTokenizer(bundle / "tokenizer.json", longest)
        self._clean = clean
        self._onnx = OnnxEngine(opened) if onnx else None
        self._torch = None if onnx else _torch_model(bundle / "model", self._tasks, device)
        self._device = device
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        return {"predictions": [self._answer(record) for record in payload["instances"]]}

    def _answer(self, record: dict[str, Any]) -> dict[str, Any]:
        from mailtriage.cleaning import clean
        from mailtriage.features import model_text, pad

        subject, body = record.get("subject", ""), record.get("body", "")
        if self._clean:
            cleaned = clean(body, subject)
            subject, body = cleaned.subject, cleaned.text
        ids, mask = pad(self._tokenizer.encode([model_text(subject, body, record.get("custodian_bank"))]))
        logits = self._onnx.forward(ids, mask) if self._onnx else self._forward(ids, mask)
        labels = {}
        for task in self._tasks:
            number = int(logits[task][0].argmax())
            labels[task] = {"label": self._taxonomy.task(task).labels[number].id}
        return {"id": record["id"], "labels": labels}

    def _forward(self, ids: Any, mask: Any) -> Any:
        import torch

        with torch.inference_mode():
            tensors = (torch.from_numpy(array).to(self._device) for array in (ids, mask))
            return {task: values.float().cpu().numpy() for task, values in self._torch(*tensors).items()}


def _torch_model(folder: Path, tasks: list[str], device: str) -> Any:
    import torch

    from mailtriage.model import MultiTaskClassifier

    model = MultiTaskClassifier.from_pretrained(str(folder)).eval()
    for task in set(model.heads) - set(tasks):
        del model.heads[task]
        if model.config.separate:
            del model.encoders[task]
    return model.to(device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--onnx", action="store_true", help="the bundle's ONNX export instead of torch")
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if given.padded:
        import serving.batching
        from serving.__main__ import predictor

        serving.batching.split_by_length = lambda rows, key: [list(rows)]
        predictor(given.bundle, http_port=given.port)
        return
    model = PlainModel(given.bundle, given.tasks, given.clean, given.onnx, given.device)
    ModelServer(http_port=given.port, enable_grpc=False, enable_latency_logging=False).start([model])


if __name__ == "__main__":
    main()
