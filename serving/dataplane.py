"""KServe's data plane with strict reading, binary tensors that stay binary, and readiness that means it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kserve import InferRequest, InferResponse
from kserve.errors import ModelNotFound
from kserve.model import BaseKServeModel, InferenceVerb
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_datamodels import InferenceRequest

from serving.json_body import read_json_object
from serving.tensors import read_binary_request


class StrictDataPlane(DataPlane):
    """What KServe's own does, except that

    - a body that cannot be read is refused with 400 and never quoted;
    - `Content-Type: application/json; charset=utf-8` is JSON too;
    - CloudEvents are not read, so that no field of a mail can turn a request into one;
    - binary tensors are not turned into Python lists on the way;
    - an explanation's answer does not hold the headers of its request;
    - readiness asks the models, and a request to a model that is not ready does not load it again.
    """

    def decode(
        self, body: Any, headers: Mapping[str, str], protocol_version: str = "v1", model_name: str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if isinstance(body, InferRequest):
            return body, {}
        if isinstance(body, InferenceRequest):
            return InferRequest.from_inference_request(body, model_name), {}
        if protocol_version == "v2":
            return read_binary_request(body, headers, model_name or ""), {}
        return read_json_object(body), {}

    async def explain(
        self, model_name: str, request: Any, headers: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any] | InferResponse, dict[str, str]]:
        model: Any = await self.get_model(model_name)
        answer, _ = await model(request, headers=headers, verb=InferenceVerb.EXPLAIN)
        return answer, {}

    async def ready(self) -> bool:
        models = self.model_registry.get_models().values()
        return bool(models) and all([await model.healthy() for model in models])

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """For a request (`disable_predictor_health_check`) a loaded model is enough: its answer says the rest."""
        model = self.get_model_from_registry(model_name)
        return bool(model.ready) if disable_predictor_health_check else await model.healthy()

    async def get_model(self, name: str) -> BaseKServeModel:
        model: BaseKServeModel | None = self.model_registry.get_model(name)
        if model is None:
            raise ModelNotFound(name)
        return model

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        model = self.get_model_from_registry(model_name)
        return metadata | {"versions": [model.model_version], "platform": model.platform}
