"""The Helm chart: lint, values schema, what it renders, and its README. No cluster and no helm binary is needed."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import helm_python as helm
import promql_parser
import pytest
import typer
import yaml
from prometheus_client import REGISTRY

import mailtriage
from serving import metrics  # noqa: F401 - registers them
from serving.__main__ import app as serving_app
from serving.gateway import KEYS, GatewaySettings, envoy_config, envoy_path, resource_file
from serving.gateway_files import TOKEN_SUBJECT
from serving.routes import CLIENT, public_routes

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "mailtriage"
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
MINIMAL: dict[str, Any] = {"bundle": {"storageUri": "pvc://bundles/current"}}

Object = dict[str, Any]


def rendered(values: Object, name: str = "mailtriage", namespace: str = "mail") -> list[Object]:
    with helm.Chart.load(CHART) as chart:
        manifests = chart.render(values, name=name, namespace=namespace)
    texts = (text for path, text in manifests.items() if not path.endswith("NOTES.txt"))
    return [item for text in texts for item in yaml.safe_load_all(text) if item]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def one(objects: list[Object], kind: str) -> Object:
    (found,) = of_kind(objects, kind)
    return found


def components(objects: list[Object]) -> dict[str, Object]:
    spec = one(objects, "InferenceService")["spec"]
    return {name: spec[name] for name in ("predictor", "transformer")}


def pod_specs(objects: list[Object]) -> list[Object]:
    return [*components(objects).values(), *(pod["spec"] for pod in of_kind(objects, "Pod"))]


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=CI_VALUES, ids=lambda path: path.stem)
def ci_values(request: pytest.FixtureRequest) -> Object:
    values: Object = yaml.safe_load(request.param.read_text(encoding="utf-8"))
    return values


def test_chart_passes_strict_lint(ci_values: Object) -> None:
    report = helm.lint(CHART, ci_values, strict=True)

    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_chart_version_follows_the_package() -> None:
    with helm.Chart.load(CHART) as chart:
        assert chart.metadata["appVersion"] == mailtriage.__version__


def test_readme_is_made_from_values() -> None:
    script = load_script(ROOT / "charts" / "readme.py")

    assert (CHART / "README.md").read_text(encoding="utf-8") == script.readme(), "run: python charts/readme.py"


def test_a_value_without_description_is_refused() -> None:
    script = load_script(ROOT / "charts" / "readme.py")

    with pytest.raises(ValueError, match=r"'image\.tag' has no"):
        list(script.documented_values('image:\n  # -- Image\n  repository: a\n  tag: ""\n'))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"bundel": {"storageUri": "s3://models/3"}}, "bundel"),
        ({"bundle": {"storageUri": "s3://models/3", "uri": "x"}}, "uri"),
        ({"bundle": {"storageUri": "/srv/bundle"}}, "storageUri"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"predictor": {"replicas": 0}}, "replicas"),
        ({"predictor": {"resources": {"limits": {"cpu": "much"}}}}, "cpu"),
        ({"limits": {"maxBatch": "256"}}, "maxBatch"),
        ({"gateway": {"port": 70000}}, "port"),
        ({"apiKeys": {"secretName": ""}}, "secretName"),
        ({"apiKeys": {"crm": "a-key-in-values"}}, "crm"),
        ({"gateway": {"provider": "nginx"}}, "provider"),
        ({"jwt": {"jwksUri": "login.example.com"}}, "jwksUri"),
        ({"limits": {"requestsPerSecond": -1}}, "requestsPerSecond"),
    ],
)
def test_schema_names_the_wrong_value(values: Object, complaint: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError, match=complaint):
        chart.validate_schema({**MINIMAL, **values})


def test_schema_knows_every_value_and_no_other() -> None:
    def keys(schema: Object, definitions: Object) -> Object:
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
        return {name: keys(part, definitions) for name, part in schema.get("properties", {}).items()}

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    known = keys(schema, schema["definitions"])
    known.pop("global")  # Helm's own

    assert known.keys() == defaults.keys()
    for name, parts in known.items():
        if parts:
            assert parts.keys() == defaults[name].keys(), name


def test_rendering_without_a_bundle_says_what_is_missing() -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmError, match=r"bundle\.storageUri is needed"):
        chart.render({}, name="mailtriage", namespace="mail")


def test_pods_are_as_restricted_as_pod_security_asks(ci_values: Object) -> None:
    for spec in pod_specs(rendered(ci_values)):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            asked, limits = container["resources"]["requests"].keys(), container["resources"]["limits"].keys()
            assert asked == limits >= {"cpu", "memory"}
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


def test_servers_get_no_token_of_the_api_server(ci_values: Object) -> None:
    objects = rendered(ci_values)

    assert all(spec["automountServiceAccountToken"] is False for spec in components(objects).values())
    assert all(account["automountServiceAccountToken"] is False for account in of_kind(objects, "ServiceAccount"))


def test_role_of_helm_test_reads_one_gateway_and_nothing_else(ci_values: Object) -> None:
    objects = rendered(ci_values)

    (rule,) = one(objects, "Role")["rules"]

    assert rule == {
        "apiGroups": ["gateway.networking.k8s.io"],
        "resources": ["gateways"],
        "resourceNames": [one(objects, "Gateway")["metadata"]["name"]],
        "verbs": ["get"],
    }
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []


def test_inference_service_is_cluster_local_in_standard_mode(ci_values: Object) -> None:
    metadata = one(rendered(ci_values), "InferenceService")["metadata"]

    assert metadata["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert metadata["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"


def test_both_servers_get_the_bundle() -> None:
    for component in components(rendered(MINIMAL)).values():
        (container,) = component["containers"]
        assert {"name": "STORAGE_URI", "value": "pvc://bundles/current"} in container["env"]
        assert "--bundle=/mnt/models" in container["args"]


def test_a_release_with_another_name_keeps_its_url_and_finds_its_own_predictor() -> None:
    objects = rendered(MINIMAL, name="blue", namespace="mail")

    transformer = components(objects)["transformer"]["containers"][0]
    paths = [match["path"] for rule in one(objects, "HTTPRoute")["spec"]["rules"] for match in rule["matches"]]
    backends = {ref["name"] for rule in one(objects, "HTTPRoute")["spec"]["rules"] for ref in rule["backendRefs"]}

    assert "--model_name=mailtriage" in transformer["args"]
    assert "--predictor_host=blue-predictor" in transformer["args"]
    assert {"type": "Exact", "value": "/v1/models/mailtriage:predict"} in paths
    assert {path["type"] for path in paths} == {"Exact"}
    assert backends == {"blue-transformer"}


def test_gateway_lets_through_what_the_servers_declare_public() -> None:
    rules = one(rendered(MINIMAL), "HTTPRoute")["spec"]["rules"]
    paths = sorted(match["path"]["value"] for rule in rules for match in rule["matches"])

    assert paths == sorted(route.path for route in public_routes())


def test_policies_hang_on_the_gateway_so_that_no_route_escapes_them() -> None:
    objects = rendered(MINIMAL)
    gateway = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": one(objects, "Gateway")["metadata"]["name"],
    }

    assert one(objects, "SecurityPolicy")["spec"]["targetRefs"] == [gateway]
    assert one(objects, "BackendTrafficPolicy")["spec"]["targetRefs"] == [gateway]
    assert one(objects, "ClientTrafficPolicy")["spec"]["targetRefs"] == [gateway]


def test_body_limit_is_one_number_for_gateway_and_transformer() -> None:
    objects = rendered({**MINIMAL, "limits": {"maxBodyBytes": 16777216}})

    assert one(objects, "BackendTrafficPolicy")["spec"]["requestBuffer"]["limit"] == "16777216"
    assert "--max-body=16777216" in components(objects)["transformer"]["containers"][0]["args"]


def test_keys_come_from_an_existing_secret_only(ci_values: Object) -> None:
    objects = rendered(ci_values)

    assert of_kind(objects, "Secret") == []
    policies = [item["spec"] for item in of_kind(objects, "SecurityPolicy") if "apiKeyAuth" in item["spec"]]
    for policy in policies:
        assert policy["apiKeyAuth"]["credentialRefs"] == [{"name": "mailtriage-api-keys"}]
    assert bool(policies) is (ci_values.get("gateway", {}).get("provider") != "istio")


TOKENS: Object = {"jwt": {"issuer": "https://login.example.com", "audiences": ["mailtriage"], "jwks": '{"keys": []}'}}


def test_requests_with_a_token_have_a_route_and_a_policy_of_their_own() -> None:
    """Envoy Gateway asks for all that one policy names, so key and token cannot stand in one."""
    objects = rendered({**MINIMAL, **TOKENS})

    by_key, by_token = of_kind(objects, "HTTPRoute")
    policy = next(item["spec"] for item in of_kind(objects, "SecurityPolicy") if "jwt" in item["spec"])
    bearer = {"type": "RegularExpression", "name": "authorization", "value": "Bearer .+"}

    values = {"x-token-subject": TOKEN_SUBJECT, "x-token-expires": ".+"}
    claims = [{"type": "RegularExpression", "name": name, "value": value} for name, value in values.items()]

    def paths(route: Object, *headers: Object) -> list[str]:
        matches = [match for rule in route["spec"]["rules"] for match in rule["matches"]]
        return [match["path"]["value"] for match in matches if match.get("headers", []) == list(headers)]

    assert paths(by_key) == paths(by_token, bearer, *claims) == paths(by_token, bearer)
    for rule in by_token["spec"]["rules"]:
        assert ("backendRefs" in rule) is (not rule["name"].endswith("-without-claims"))
    assert one(objects, "HTTPRouteFilter")["spec"]["directResponse"]["statusCode"] == 401
    assert policy["jwt"]["providers"][0]["recomputeRoute"] is True
    assert policy["targetRefs"][0]["name"] == by_token["metadata"]["name"]
    assert "apiKeyAuth" not in policy
    assert policy["jwt"]["providers"][0]["localJWKS"] == {"type": "Inline", "inline": '{"keys": []}'}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"audiences": []}, r"jwt\.audiences is needed"),
        ({"jwks": ""}, r"jwt\.jwksUri or jwt\.jwks is needed"),
        ({"jwksUri": "https://login.example.com/jwks"}, "only one of them"),
    ],
)
def test_half_an_issuer_is_refused(changes: Object, complaint: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmError, match=complaint):
        chart.render({**MINIMAL, "jwt": {**TOKENS["jwt"], **changes}}, name="mailtriage", namespace="mail")


def test_keys_and_tokens_stay_at_the_gateway() -> None:
    for route in of_kind(rendered({**MINIMAL, **TOKENS, "apiKeys": {"header": "x-key"}}), "HTTPRoute"):
        for rule in (rule for rule in route["spec"]["rules"] if "backendRefs" in rule):
            (change,) = rule["filters"]
            assert change["requestHeaderModifier"]["remove"][:2] == ["authorization", "x-key"]


def test_each_client_has_a_limit_and_cannot_name_itself() -> None:
    objects = rendered({**MINIMAL, "limits": {"requestsPerSecond": 7}})

    rules = one(objects, "BackendTrafficPolicy")["spec"]["rateLimit"]["local"]["rules"]
    named = [rule["clientSelectors"] for rule in rules]
    assert named == [[{"headers": [{"name": name, "type": "Distinct"}]}] for name in (CLIENT, "x-token-subject")]
    assert all(rule["limit"] == {"requests": 7, "unit": "Second"} for rule in rules)
    early = one(objects, "ClientTrafficPolicy")["spec"]["headers"]["earlyRequestHeaders"]
    assert early["remove"] == [CLIENT, "x-token-subject", "x-token-expires"]
    assert one(objects, "SecurityPolicy")["spec"]["apiKeyAuth"]["forwardClientIDHeader"] == CLIENT
    assert (
        "rateLimit"
        not in one(rendered({**MINIMAL, "limits": {"requestsPerSecond": 0}}), "BackendTrafficPolicy")["spec"]
    )


def test_refusals_of_the_gateway_are_those_of_the_local_one(tmp_path: Path) -> None:
    objects = rendered({**MINIMAL, **TOKENS})
    config = envoy_config(GatewaySettings("127.0.0.1", 8080, 9901, 8081, tmp_path, tokens=True, rate_limit=50))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    local = {
        mapper["filter"]["status_code_filter"]["comparison"]["value"]["default_value"]: mapper
        for mapper in manager["local_reply_config"]["mappers"]
    }

    for override in one(objects, "BackendTrafficPolicy")["spec"]["responseOverride"]:
        mapper = local[override["match"]["statusCodes"][0]["value"]]
        response = override["response"]
        assert override["source"] == "Local"
        assert json.loads(response["body"]["inline"]) == mapper["body_format_override"]["json_format"]
        assert response.get("statusCode") == mapper.get("status_code")
        assert ("header" in response) is ("headers_to_add" in mapper)


def test_istio_gets_the_same_rules_as_objects_of_its_own() -> None:
    objects = rendered({**MINIMAL, **TOKENS, "gateway": {"provider": "istio"}})

    assert not [item for item in objects if "gateway.envoyproxy.io" in item["apiVersion"]]
    assert one(objects, "Gateway")["spec"]["gatewayClassName"] == "istio"
    (rule,) = one(objects, "RequestAuthentication")["spec"]["jwtRules"]
    assert rule["outputClaimToHeaders"] == [{"claim": "sub", "header": CLIENT}]
    (allowed,) = one(objects, "AuthorizationPolicy")["spec"]["rules"]
    assert allowed == {"from": [{"source": {"requestPrincipals": ["https://login.example.com/*"]}}]}
    patches = [patch["patch"]["value"] for patch in one(objects, "EnvoyFilter")["spec"]["configPatches"]]
    limits = {patch["name"]: patch["typed_config"] for patch in patches if "name" in patch}
    assert limits["envoy.filters.http.local_ratelimit"]["descriptors"][0]["token_bucket"]["max_tokens"] == 50
    assert limits["envoy.filters.http.buffer"]["max_request_bytes"] == 8388608


def test_istio_without_an_issuer_is_refused() -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmError, match="which has no API keys"):
        chart.render({**MINIMAL, "gateway": {"provider": "istio"}}, name="mailtriage", namespace="mail")


def test_envoy_takes_what_istio_would_hand_to_it(tmp_path: Path) -> None:
    """No Istio is there to try it: its patches, put where it would put them, into a configuration that Envoy checks."""
    objects = rendered({**MINIMAL, **TOKENS, "gateway": {"provider": "istio"}})
    config = envoy_config(GatewaySettings("127.0.0.1", 8080, 9901, 8081, tmp_path))
    resource_file(tmp_path, KEYS).touch()
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    merged, *inserted = [patch["patch"]["value"] for patch in one(objects, "EnvoyFilter")["spec"]["configPatches"]]
    manager |= merged["typed_config"]
    manager["http_filters"] = [*inserted, manager["http_filters"][-1]]
    (tmp_path / "envoy.json").write_text(json.dumps(config))

    command = [str(envoy_path()), "--mode", "validate", "-c", str(tmp_path / "envoy.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


MONITORING: Object = {"monitoring": {"serviceMonitor": True, "prometheusRule": True, "dashboard": True}}


def queries() -> list[str]:
    """Every PromQL expression of dashboard and alerts."""
    objects = rendered({**MINIMAL, **MONITORING})
    (shown,) = [item for item in of_kind(objects, "ConfigMap") if "grafana_dashboard" in item["metadata"]["labels"]]
    (dashboard,) = [json.loads(text) for text in shown["data"].values()]
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    groups = one(objects, "PrometheusRule")["spec"]["groups"]
    return [*panels, *(rule["expr"] for group in groups for rule in group["rules"])]


def exported() -> dict[str, set[str]]:
    """The series of the servers' own metrics, with their labels."""
    series: dict[str, set[str]] = {}
    for family in REGISTRY.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        collector = REGISTRY._names_to_collectors[family.name]
        series |= {family.name + end: {*getattr(collector, "_labelnames", ()), "le"} for end in ends}
    return series


def test_dashboard_and_alerts_ask_only_for_metrics_that_the_servers_export() -> None:
    known = exported()

    for query in queries():
        promql_parser.parse(query)  # raises where it is none
        asked = set(re.findall(r"\bmailtriage_\w+", query))
        assert asked
        assert asked <= known.keys(), query


def test_queries_select_by_labels_that_the_metrics_have() -> None:
    known, added = exported(), {"namespace", "service", "pod"}  # by the Prometheus operator

    for query in queries():
        for name, selectors in re.findall(r"(mailtriage_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)=~?\"", selectors)) <= known[name] | added, query


def test_monitoring_is_off_unless_asked_for() -> None:
    kinds = {item["kind"] for item in rendered(MINIMAL)}

    assert not kinds & {"ServiceMonitor", "PrometheusRule"}
    assert not [item for item in rendered(MINIMAL) if "grafana_dashboard" in item["metadata"].get("labels", {})]


def test_alerts_name_chapters_of_the_runbook() -> None:
    rules = one(rendered({**MINIMAL, **MONITORING}), "PrometheusRule")["spec"]["groups"][0]["rules"]
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")

    for rule in rules:
        page, _, chapter = rule["annotations"]["runbook"].partition(": ")
        assert page == "docs/runbook.md"
        assert f"## {chapter}\n" in runbook


def test_servers_get_the_limits_of_the_values() -> None:
    objects = rendered(
        {
            **MINIMAL,
            "predictor": {"queueLimit": 99, "tokenBudget": 2048},
            "limits": {"requestTimeoutSeconds": 12, "maxWaitSeconds": 3},
        }
    )

    predictor, transformer = (part["containers"][0]["args"] for part in components(objects).values())
    shared = {"--request-timeout=12", "--wait-limit=3"}
    assert {"--queue-limit=99", "--token-budget=2048"} | shared <= set(predictor)
    assert {"--max-batch=256", "--max-body=8388608"} | shared <= set(transformer)
    assert not [argument for argument in predictor if argument.startswith("--max-body")]  # tensors, not clients' bodies


def test_servers_know_every_argument_that_they_get() -> None:
    for name, component in components(rendered(MINIMAL)).items():
        command = typer.main.get_command(serving_app).commands[name]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in parameter.opts}
        given = {argument.split("=")[0] for argument in component["containers"][0]["args"][1:]}
        assert given <= known


def test_only_the_predictor_goes_to_the_gpus() -> None:
    values = yaml.safe_load((CHART / "ci" / "gpu-values.yaml").read_text(encoding="utf-8"))

    parts = components(rendered(values))

    assert parts["predictor"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert parts["predictor"]["nodeSelector"]
    assert parts["predictor"]["tolerations"]
    assert not {"nodeSelector", "tolerations"} & parts["transformer"].keys()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, f"docker.io/mailtriage/serving:{mailtriage.__version__}"),
        ({"tag": "dev"}, "docker.io/mailtriage/serving:dev"),
        ({"tag": "dev", "digest": f"sha256:{'a' * 64}"}, f"docker.io/mailtriage/serving@sha256:{'a' * 64}"),
    ],
)
def test_image_is_named_by_digest_else_tag_else_app_version(image: Object, expected: str) -> None:
    objects = rendered({**MINIMAL, "image": image})

    assert {container["image"] for spec in pod_specs(objects) for container in spec["containers"]} == {expected}


def test_version_labels_never_reach_selectors_or_pods() -> None:
    """A selector with a version breaks upgrades; a pod label with one rolls pods in which nothing changed."""
    objects = rendered(MINIMAL)

    service = one(objects, "InferenceService")
    selectors = [item["spec"]["selector"]["matchLabels"] for item in of_kind(objects, "PodDisruptionBudget")]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in of_kind(objects, "NetworkPolicy")]

    for labels in [service["metadata"]["labels"], *selectors]:
        assert not {"app.kubernetes.io/version", "helm.sh/chart"} & labels.keys()
    for item in objects:
        if item["kind"] not in ("InferenceService", "Pod"):
            assert item["metadata"]["labels"]["app.kubernetes.io/version"] == mailtriage.__version__


def test_replicas_are_fixed_unless_autoscaling_is_asked_for() -> None:
    fixed = rendered({**MINIMAL, "predictor": {"replicas": 3}})
    scaled = rendered({**MINIMAL, "predictor": {"replicas": 3}, "autoscaling": {"enabled": True, "maxReplicas": 8}})

    assert one(fixed, "InferenceService")["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "none"
    assert components(fixed)["predictor"]["minReplicas"] == components(fixed)["predictor"]["maxReplicas"] == 3
    assert one(scaled, "InferenceService")["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "hpa"
    assert components(scaled)["predictor"]["maxReplicas"] == 8
    assert components(scaled)["predictor"]["scaleMetric"] == "cpu"


def test_a_roll_never_takes_a_pod_before_its_successor_is_ready() -> None:
    for component in components(rendered(MINIMAL)).values():
        assert component["deploymentStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        (container,) = component["containers"]
        drain = container["lifecycle"]["preStop"]["sleep"]["seconds"] + 20  # the servers' own drain
        assert component["terminationGracePeriodSeconds"] >= drain


def test_pods_of_one_component_spread_over_nodes_if_they_can() -> None:
    for name, component in components(rendered(MINIMAL)).items():
        (constraint,) = component["topologySpreadConstraints"]
        assert constraint["labelSelector"]["matchLabels"]["component"] == name
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"


def flows(objects: list[Object]) -> set[tuple[str, str]]:
    """What the policies let through, as (from, to) pairs of short names."""
    short = {"transformer": "transformer", "predictor": "predictor", "kube-system": "dns", None: "bundle"}

    def peer(item: Object) -> str:
        pods = item.get("podSelector", {}).get("matchLabels", {})
        if "component" in pods:
            return str(pods["component"])
        namespace = item["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        return short.get(namespace, namespace)

    found = set()
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        component = spec["podSelector"]["matchLabels"].get("component")
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        if component is None:
            assert "ingress" not in spec
            assert "egress" not in spec
            continue
        found |= {(peer(source), component) for rule in spec["ingress"] for source in rule["from"]}
        for rule in spec["egress"]:
            ends = {443: "bundle", 5432: "database", 4318: "collector"}
            anywhere = {(component, ends[port["port"]]) for port in rule["ports"] if "to" not in rule}
            found |= {(component, peer(target)) for target in rule.get("to", [])} | anywhere
    return found


def test_network_policies_allow_exactly_the_flows_of_the_design() -> None:
    serving = {
        ("envoy-gateway-system", "transformer"),
        ("transformer", "predictor"),
        ("transformer", "dns"),
        ("predictor", "dns"),
    }
    fetching = {("transformer", "bundle"), ("predictor", "bundle")}
    scraping = {("monitoring", "transformer"), ("monitoring", "predictor")}
    tracing = {("transformer", "collector"), ("predictor", "collector")}

    assert flows(rendered(MINIMAL)) == serving
    assert flows(rendered({"bundle": {"storageUri": "s3://models/3"}})) == serving | fetching
    assert flows(rendered({**MINIMAL, "networkPolicy": {"monitoringNamespace": "monitoring"}})) == serving | scraping
    assert flows(rendered({**MINIMAL, "monitoring": {"traces": "http://collector:4318"}})) == serving | tracing
    recording = {("transformer", "database")}
    assert flows(rendered({**MINIMAL, "predictions": {"secretName": "database"}})) == serving | recording


def test_istios_proxies_reach_the_transformer_from_the_releases_own_namespace() -> None:
    objects = rendered({**MINIMAL, **TOKENS, "gateway": {"provider": "istio"}})

    policy = next(
        item for item in of_kind(objects, "NetworkPolicy") if item["metadata"]["name"].endswith("-transformer")
    )

    assert policy["spec"]["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "mailtriage"}}}
    ]


def test_the_transformer_records_in_the_database_of_a_secret() -> None:
    parts = components(rendered({**MINIMAL, "predictions": {"secretName": "database"}}))

    def environment(part: Object) -> Object:
        return {item["name"]: item.get("valueFrom", item.get("value")) for item in part["containers"][0]["env"]}

    secret = {"secretKeyRef": {"name": "database", "key": "url"}}
    assert environment(parts["transformer"])["MAILTRIAGE_PREDICTIONS"] == secret
    assert "MAILTRIAGE_PREDICTIONS" not in environment(parts["predictor"])


def test_notes_end_with_a_command_that_sends_a_mail() -> None:
    with helm.Chart.load(CHART) as chart:
        notes = chart.render(MINIMAL, name="mailtriage", namespace="mail")["mailtriage/templates/NOTES.txt"]

    assert "rollout status deployment/mailtriage-predictor deployment/mailtriage-transformer" in notes
    assert re.search(r"curl http://\$GATEWAY:80/v1/models/mailtriage:predict", notes)


@pytest.mark.parametrize("page", ["docs/cluster.md", "docs/runbook.md", "charts/mailtriage/README.md"])
def test_documents_name_values_that_exist(page: str) -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    text = (ROOT / page).read_text(encoding="utf-8")
    named = [tuple(match.split(".")) for match in re.findall(r"`(\w+\.\w+)(?:[:.][^`]*)?`", text)]

    unknown = [f"{group}.{key}" for group, key in named if group in defaults and key not in defaults[group]]

    assert unknown == []
