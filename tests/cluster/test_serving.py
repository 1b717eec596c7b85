"""The installed chart answers mails through its Gateway, to clients with a key, on the declared paths only."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python as helm
import httpx
import pytest
from installation import API_KEY, Release, token
from kube import kubectl

PREDICT = "/v1/models/mailtriage:predict"
INFER = "/v2/models/mailtriage/infer"

# As clients send them: HTML with style and signature, a quoted thread, ae for ä, a phone's footer, nothing but a quote.
MAILS: list[dict[str, Any]] = [
    {
        "id": "m-1",
        "subject": "Depotübertrag",
        "body": "<html><style>p{color:red}</style><p>Guten Tag,</p>"
        "<p>bitte &uuml;bertragen Sie mein Depot zu Ihnen.</p>"
        "<p>Mit freundlichen Gr&uuml;&szlig;en<br>Eva Muster</p></html>",
        "custodian_bank": "Musterbank AG",
    },
    {
        "id": "m-2",
        "subject": "AW: Freistellungsauftrag",
        "body": "Hallo,\n\nwie aendere ich meinen Freistellungsauftrag?\n\n"
        "Am 03.11.2026 schrieb Service:\n> Ihre Anfrage",
    },
    {"id": "m-3", "subject": "crypto", "body": "I cannot see my bitcoin purchase.\n\nSent from my iPhone"},
    {"id": "m-4", "subject": "", "body": "Zinsen für mein Tagesgeld fehlen. Was ist da los?"},
    {"id": "m-5", "subject": "AW:", "body": "> nur zitiert\n> sonst nichts"},
]


def send(release: Release, mails: list[dict[str, Any]]) -> httpx.Response:
    return release.gateway.post(PREDICT, json={"instances": mails}, headers=release.key)


def predicted_locally(bundle: Path, mails: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    source, target = folder / "mails.jsonl", folder / "predictions.jsonl"
    source.write_text("".join(json.dumps(mail) + "\n" for mail in mails), encoding="utf-8")
    command = [sys.executable, "-m", "mailtriage.cli", "predict", str(bundle), str(source), str(target)]
    subprocess.run(command, check=True, timeout=120)
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_mails_come_back_as_mailtriage_predict_labels_them(release: Release, bundle_path: Path, tmp_path: Path) -> None:
    expected = predicted_locally(bundle_path, MAILS, tmp_path)

    answer = send(release, MAILS)

    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert [item["id"] for item in predictions] == [mail["id"] for mail in MAILS]
    assert all(len(item["labels"]) == 3 for item in predictions[:4])
    for item, local in zip(predictions, expected, strict=True):
        assert {task: score["label"] for task, score in item["labels"].items()} == {
            task: score["label"] for task, score in local["labels"].items()
        }
        for task, score in item["labels"].items():
            assert score["confidence"] == pytest.approx(local["labels"][task]["confidence"], abs=0.002)
        assert (item["decision"], item["model_version"], item["taxonomy_version"]) == (
            local["decision"],
            local["model_version"],
            local["taxonomy_version"],
        )


def test_v2_gives_the_labels_of_v1(release: Release) -> None:
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [len(MAILS)], "data": [mail[name] for mail in MAILS]}
        for name in ("id", "subject", "body")
    ]
    without_bank = [{key: mail[key] for key in ("id", "subject", "body")} for mail in MAILS]

    answer = release.gateway.post(INFER, json={"inputs": tensors}, headers=release.key)

    assert answer.status_code == 200
    (column,) = [output["data"] for output in answer.json()["outputs"] if output["name"] == "prediction"]
    assert [json.loads(item)["labels"] for item in column] == [
        item["labels"] for item in send(release, without_bank).json()["predictions"]
    ]


def test_a_record_that_cannot_be_used_gets_an_error_and_the_others_their_labels(release: Release) -> None:
    answer = send(release, [MAILS[0], {"id": "empty", "subject": " ", "body": ""}, MAILS[2]])

    assert answer.status_code == 200
    first, broken, last = answer.json()["predictions"]
    assert broken["id"] == "empty"
    assert "error" in broken
    assert len(first["labels"]) == len(last["labels"]) == 3


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": f"Bearer {API_KEY}"}])
def test_without_the_right_key_there_is_no_answer(release: Release, headers: dict[str, str]) -> None:
    answer = release.gateway.post(PREDICT, json={"instances": MAILS}, headers=headers)

    assert answer.status_code == 401
    assert "predictions" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/v1/models",
        f"{PREDICT}/",
        "/v1/models/other:predict",
        "/v2/models/mailtriage/infer/x",
        "/v2/repository/index",
        "/docs",
    ],
)
def test_undeclared_paths_do_not_exist_even_with_a_key(release: Release, path: str) -> None:
    assert release.gateway.post(path, json={"instances": MAILS}, headers=release.key).status_code == 404
    assert release.gateway.get(path, headers=release.key).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v1/models/mailtriage", "/v2/models/mailtriage"]
)
def test_health_and_status_are_there_for_clients_with_a_key(release: Release, path: str) -> None:
    assert release.gateway.get(path, headers=release.key).status_code == 200
    assert release.gateway.get(path).status_code == 401


def test_a_body_over_the_limit_is_413(release: Release) -> None:
    mail = {"id": "big", "subject": "", "body": "x" * (8 * 2**20 + 1)}

    assert send(release, [mail]).status_code == 413


def test_a_batch_over_the_limit_is_413_and_says_the_limit(release: Release) -> None:
    answer = send(release, [{"id": str(number), "body": "Guten Tag"} for number in range(257)])

    assert answer.status_code == 413
    assert "256" in answer.text


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"instances": []', "application/json", 400),
        (b'{"mails": []}', "application/json", 400),
        (b"instances", "text/plain", 415),
    ],
)
def test_bad_requests_keep_their_status_through_the_gateway(
    release: Release, body: bytes, content_type: str, status: int
) -> None:
    answer = release.gateway.post(PREDICT, content=body, headers={**release.key, "content-type": content_type})

    assert answer.status_code == status


@pytest.mark.parametrize(
    ("claims", "status", "code"),
    [
        ({}, 200, ""),
        ({"exp": 1}, 401, "unauthorized"),
        ({"iss": "https://elsewhere.example.com"}, 401, "unauthorized"),
        ({"aud": "billing"}, 403, "forbidden"),
        ({"exp": None}, 401, "unauthorized"),
        ({"sub": None}, 401, "unauthorized"),
        ({"sub": "no name of one word"}, 401, "unauthorized"),
    ],
)
def test_a_token_of_the_issuer_opens_in_the_place_of_a_key(
    release: Release, claims: dict[str, Any], status: int, code: str
) -> None:
    answer = release.gateway.post(PREDICT, json={"instances": MAILS}, headers=token(**claims))

    assert answer.status_code == status
    assert not code or answer.json()["error"]["code"] == code


def test_a_wrong_token_is_not_made_up_for_by_a_key(release: Release) -> None:
    headers = token(exp=1) | release.key

    assert release.gateway.post(PREDICT, json={"instances": MAILS}, headers=headers).status_code == 401


def test_servers_know_clients_by_key_or_token_and_not_by_what_they_call_themselves(release: Release) -> None:
    given = {"crm": release.key, "archive": token()}
    for client, headers in given.items():
        named = headers | {"x-client-id": "forged", "x-request-id": f"client-is-{client}"}
        assert release.gateway.post(PREDICT, json={"instances": MAILS[:1]}, headers=named).status_code == 200

    logs = release.namespace.kubectl("logs", "--selector=app=isvc.mailtriage-transformer", "--tail=-1")
    lines = [json.loads(line) for line in logs.splitlines() if "client-is-" in line]
    assert {(line["request_id"], line["client"]) for line in lines} == {
        (f"client-is-{client}", client) for client in given
    }
    assert "forged" not in logs


def test_refusals_of_the_gateway_have_the_shape_of_all_others(release: Release) -> None:
    nobody = release.gateway.post(PREDICT, json={"instances": MAILS})
    large = send(release, [{"id": "big", "subject": "", "body": "x" * (8 * 2**20 + 1)}])

    assert nobody.json()["error"]["code"] == "unauthorized"
    assert large.json()["error"] == {
        "code": "body_too_large",
        "message": "a request may have 8388608 bytes; send the mails in several requests",
        "limit": 8388608,
    }


def test_a_service_monitor_would_find_both_services_and_their_metrics(release: Release) -> None:
    selector = "app.kubernetes.io/name=mailtriage,app.kubernetes.io/instance=mailtriage"
    found = {service["metadata"]["name"] for service in release.namespace.list("services", selector)}
    assert {"mailtriage-predictor", "mailtriage-transformer"} <= found

    for component in ("predictor", "transformer"):
        pod = release.namespace.list("pods", f"app=isvc.mailtriage-{component}")[0]["metadata"]["name"]
        path = f"/api/v1/namespaces/{release.namespace.name}/pods/{pod}:8080/proxy/metrics"
        assert "\nmailtriage_bundle{" in kubectl("get", "--raw", path)


def test_predictor_has_no_route_from_outside(release: Release) -> None:
    routes = release.namespace.list("httproutes")

    assert {route["metadata"]["name"] for route in routes} == {"mailtriage-api", "mailtriage-api-token"}
    backends = {
        ref["name"] for route in routes for rule in route["spec"]["rules"] for ref in rule.get("backendRefs", [])
    }
    assert backends == {"mailtriage-transformer"}
    assert release.namespace.list("ingresses") == []
    services = release.namespace.list("services")
    assert {item["spec"]["type"] for item in services} <= {"ClusterIP", "ExternalName"}


def test_route_and_policies_are_accepted(release: Release) -> None:
    namespace = release.namespace

    assert (
        namespace.conditions("httproute", "mailtriage-api").items()
        >= {"Accepted": "True", "ResolvedRefs": "True"}.items()
    )
    assert namespace.conditions("gateway", "mailtriage").items() >= {"Accepted": "True", "Programmed": "True"}.items()
    for policy in ("securitypolicy", "backendtrafficpolicy", "clienttrafficpolicy"):
        assert namespace.conditions(policy, "mailtriage")["Accepted"] == "True"
    assert namespace.conditions("securitypolicy", "mailtriage-token")["Accepted"] == "True"
    assert namespace.conditions("httproute", "mailtriage-api-token")["Accepted"] == "True"


def test_kserve_keeps_what_the_chart_says_about_the_pods(release: Release) -> None:
    for component in ("predictor", "transformer"):
        deployment = release.namespace.get("deployment", f"mailtriage-{component}")
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]

        assert container["args"][0] == component
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
        assert container["resources"]["requests"]["cpu"] == "50m"
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 5
        assert spec["automountServiceAccountToken"] is False
        assert deployment["spec"]["replicas"] == 2
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_policies_and_budgets_select_the_pods_that_kserve_makes(release: Release) -> None:
    """A selector that matches nothing would protect nothing, and say nothing."""
    for kind, name, selector in [
        ("poddisruptionbudget", "mailtriage-predictor", "selector"),
        ("poddisruptionbudget", "mailtriage-transformer", "selector"),
        ("networkpolicy", "mailtriage-predictor", "podSelector"),
        ("networkpolicy", "mailtriage-transformer", "podSelector"),
    ]:
        labels = release.namespace.get(kind, name)["spec"][selector]["matchLabels"]
        pods = release.namespace.list("pods", ",".join(f"{key}={value}" for key, value in labels.items()))
        component = name.removeprefix("mailtriage-")
        assert [pod["metadata"]["labels"]["component"] for pod in pods] == [component] * 2


def test_network_policy_names_the_labels_that_the_gateways_proxies_have(release: Release) -> None:
    (rule,) = release.namespace.get("networkpolicy", "mailtriage-transformer")["spec"]["ingress"]
    (source,) = rule["from"]
    (where,) = source["namespaceSelector"]["matchLabels"].values()
    labels = source["podSelector"]["matchLabels"]

    proxies = type(release.namespace)(where).list("pods", ",".join(f"{key}={value}" for key, value in labels.items()))

    assert proxies


def test_service_accounts_may_do_nothing_at_the_api_server(release: Release) -> None:
    who = f"--as=system:serviceaccount:{release.namespace.name}:mailtriage"

    said = release.namespace.kubectl("auth", "can-i", "--list", "--no-headers", who)

    rights = {line.split()[0] for line in said.splitlines() if not line.startswith(" ")}
    everyone = {"selfsubjectreviews.authentication.k8s.io", "selfsubjectaccessreviews.authorization.k8s.io"}
    assert rights == everyone | {"selfsubjectrulesreviews.authorization.k8s.io"}


def test_serving_image_runs_as_nobody_without_training_libraries(release: Release) -> None:
    script = (
        "import importlib.util, os; "
        "names = ('ray', 'kfp', 'mlflow', 'torch', 'nvidia', 'triton', 'transformers'); "
        "print(os.getuid(), [name for name in names if importlib.util.find_spec(name)])"
    )

    said = release.namespace.kubectl("exec", "deployment/mailtriage-predictor", "--", "python", "-c", script)

    assert said.split(maxsplit=1) == ["10001", "[]\n"]


def test_logs_hold_no_text_of_a_mail(release: Release) -> None:
    send(release, [{"id": "private", "subject": "Geheimnisvoll", "body": "Mein Zugangswort lautet Quastenflosser."}])

    for component in ("predictor", "transformer"):
        logs = release.namespace.kubectl("logs", f"--selector=app=isvc.mailtriage-{component}", "--tail=-1")
        assert logs
        assert "Quastenflosser" not in logs
        assert "Geheimnisvoll" not in logs
        assert API_KEY not in logs


def test_helm_test_sends_a_mail_through_the_gateway(release: Release, helm_config: helm.Config) -> None:
    said = helm_config.test(release.name, timeout=120, logs=True)["logs"]

    assert "without a key: 401" in said
    assert "with a key:" in said
