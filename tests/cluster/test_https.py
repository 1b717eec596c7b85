"""With `gateway.tlsSecretName` the Gateway speaks HTTPS for its host name, and nothing else."""

import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import helm_python as helm
import httpx
import pytest
from certificates import HOST, certificate
from installation import API_KEY, CHART, chart_values
from kube import Namespace, wait_until

READY = "/v2/health/ready"
OTHER_KEY = secrets.token_hex(16)


@dataclass(frozen=True)
class Site:
    """The Gateway's address, and a client's trust in its certificate."""

    release: str
    address: str
    trust: ssl.SSLContext

    def get(self, path: str, key: str | None = API_KEY) -> httpx.Response:
        headers = {"host": HOST} | ({"x-api-key": key} if key else {})
        with httpx.Client(verify=self.trust, timeout=30) as client:
            return client.get(f"https://{self.address}{path}", headers=headers, extensions={"sni_hostname": HOST})


@pytest.fixture(scope="module")
def site(
    namespace: Namespace, helm_config: helm.Config, serving_image: str, shared_folder: Path, bundle_path: Path
) -> Iterator[Site]:
    shutil.copytree(bundle_path, shared_folder / "bundles" / "https")
    subprocess.run(["chmod", "-R", "a+rX", str(shared_folder / "bundles")], check=True)
    public, private = certificate()
    tls = {"metadata": {"name": "mailtriage-tls"}, "stringData": {"tls.crt": public, "tls.key": private}}
    keys = {"metadata": {"name": "https-keys"}, "stringData": {"crm": API_KEY, "archive": OTHER_KEY}}
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"} | tls)
    namespace.apply({"apiVersion": "v1", "kind": "Secret"} | keys)
    values = chart_values(serving_image, "https") | {
        "gateway": {"hostname": HOST, "port": 443, "tlsSecretName": "mailtriage-tls"},
        "apiKeys": {"secretName": "https-keys"},
        "limits": {"requestsPerSecond": 5},
    }
    helm_config.install(CHART, "https", values)
    namespace.wait_for_deployments("https-predictor", "https-transformer")

    def address() -> str | None:
        addresses = namespace.get("gateway", "https").get("status", {}).get("addresses", [])
        return addresses[0]["value"] if addresses else None

    found = Site("https", wait_until("an address", address, 60), ssl.create_default_context(cadata=public))
    wait_until("the Gateway answers", lambda: answers(found), 60, namespace.report)
    yield found
    helm_config.uninstall("https")


def answers(site: Site) -> bool:
    try:
        return site.get(READY).status_code == 200
    except httpx.TransportError:
        return False


def test_clients_get_the_certificate_of_the_public_host(site: Site) -> None:
    assert site.get(READY).status_code == 200
    assert site.get(READY, key=None).status_code == 401


def test_another_host_name_gets_no_certificate(site: Site) -> None:
    with httpx.Client(verify=site.trust) as client, pytest.raises(httpx.ConnectError):
        client.get(f"https://{site.address}{READY}", extensions={"sni_hostname": "other.example.com"})


def test_there_is_no_way_around_tls(site: Site) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{site.address}:80{READY}", headers={"x-api-key": API_KEY}, timeout=5)


def test_a_client_that_asks_too_often_is_429_and_others_are_not(site: Site) -> None:
    with httpx.Client(verify=site.trust, timeout=30) as client:

        def ask(key: str) -> httpx.Response:
            headers = {"host": HOST, "x-api-key": key}
            return client.get(f"https://{site.address}{READY}", headers=headers, extensions={"sni_hostname": HOST})

        answers = [ask(API_KEY) for _ in range(40)]
        other = ask(OTHER_KEY)

    refused = [answer for answer in answers if answer.status_code == 429]
    first = next(answer for answer in answers if answer.status_code == 200)
    assert first.headers["x-ratelimit-limit"].startswith("5")
    assert 0 <= int(first.headers["x-ratelimit-remaining"]) < 5  # Envoy's own: what is left for this client
    assert {answer.status_code for answer in answers} == {200, 429}
    assert refused[0].json()["error"]["code"] == "rate_limited"
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].headers["x-ratelimit-remaining"] == "0"
    assert other.status_code == 200


def test_helm_test_goes_through_tls(site: Site, helm_config: helm.Config) -> None:
    assert "with a key:" in helm_config.test(site.release, timeout=120, logs=True)["logs"]
