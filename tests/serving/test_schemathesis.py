"""Requests made up from serving/openapi.yaml, good and bad: answers that it documents, and no error of the server."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig

ROOT = Path(__file__).resolve().parents[2]
WANTED = ("response_schema_conformance", "status_code_conformance", "content_type_conformance")

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
    response = case.call(base_url=stack.gateway, session=session, headers={"x-api-key": stack.api_key})

    assert response.status_code < 500 or (response.status_code == 503 and "retry-after" in response.headers)
    case.validate_response(response, checks=CHECKS.get_by_names(WANTED))


@pytest.mark.parametrize("path", ["/v1/models/mailtriage:predict", "/v1/models/mailtriage:explain"])
def test_what_does_not_fit_the_document_is_answered_as_it_says(path, stack, session):
    statuses = set()

    @given(case=schema[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def ask(case):
        response = case.call(base_url=stack.gateway, session=session, headers={"x-api-key": stack.api_key})
        statuses.add(response.status_code)
        assert response.status_code < 500
        case.validate_response(response, checks=CHECKS.get_by_names(WANTED))

    ask()

    assert 400 in statuses
