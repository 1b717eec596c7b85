"""Requests made up from serving/openapi.yaml, good and bad: answers that it documents, and no error of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig

ROOT = Path(__file__).resolve().parents[2]
WANTED = (
    "response_schema_conformance",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
)
TEXTS = ("subject", "body", "custodian_bank", "data")  # fields of a mail, and the elements of a tensor
SECRET = "Geheimwort"  # the shared stack looks for it in all that its processes wrote

schema = schemathesis.openapi.from_path(
    str(ROOT / "serving/openapi.yaml"),
    config=SchemathesisConfig(
        projects=ProjectsConfig(default=ProjectConfig(generation=GenerationConfig(modes=list(GenerationMode))))
    ),
)


@pytest.fixture(scope="module")
def session():
    """One connection, whatever proxy the environment names."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def with_secret(body: Any, name: str = "") -> Any:
    """The same body with the secret word in each text of it, but for ids, which are for logs."""
    if isinstance(body, dict):
        inner = "id" if body.get("name") == "id" else ""
        return {key: with_secret(value, inner or key) for key, value in body.items()}
    if isinstance(body, list):
        return [with_secret(value, name) for value in body]
    return f"{body} {SECRET}" if isinstance(body, str) and name in TEXTS else body


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_documented(case, stack, session):
    case.body = with_secret(case.body)
    response = case.call(base_url=stack.gateway, session=session, headers={"x-api-key": stack.api_key})

    assert response.status_code < 500 or (response.status_code == 503 and "retry-after" in response.headers)
    case.validate_response(response, checks=CHECKS.get_by_names(WANTED))


@pytest.mark.parametrize("path", [path for path, methods in schema.raw_schema["paths"].items() if "post" in methods])
def test_what_does_not_fit_the_document_is_answered_as_it_says(path, stack, session):
    statuses = set()

    @given(case=schema[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def ask(case):
        case.body = with_secret(case.body)
        response = case.call(base_url=stack.gateway, session=session, headers={"x-api-key": stack.api_key})
        statuses.add(response.status_code)
        assert response.status_code < 500
        assert response.status_code == 200 or SECRET not in response.text
        case.validate_response(response, checks=CHECKS.get_by_names(WANTED))

    ask()

    assert 400 in statuses
    assert SECRET in stack.secrets
