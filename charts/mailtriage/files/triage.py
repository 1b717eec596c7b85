"""What `helm test` runs: no key is refused, and with a key a mail comes back with its three labels."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAIL = {"id": "helm-test", "subject": "Depotübertrag", "body": "Guten Tag,\nbitte übertragen Sie mein Depot.\nDanke"}


def gateway_url() -> str:
    """The address of the Gateway's first listener, from its status."""
    api = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{os.environ['NAMESPACE']}/gateways/{os.environ['GATEWAY']}"
    request = urllib.request.Request(api + path)
    request.add_header("Authorization", f"Bearer {(SERVICE_ACCOUNT / 'token').read_text()}")
    context = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        gateway = json.load(answer)
    listener = gateway["spec"]["listeners"][0]
    addresses = gateway.get("status", {}).get("addresses", [])
    if not addresses:
        sys.exit(f"Gateway {os.environ['GATEWAY']} has no address yet; see `kubectl describe gateway`")
    return f"{listener['protocol'].lower()}://{addresses[0]['value']}:{listener['port']}"


def post(url: str, key: str | None) -> tuple[int, bytes]:
    """Status and body of a request for one mail."""
    request = urllib.request.Request(url, data=json.dumps({"instances": [MAIL]}).encode())
    request.add_header("Content-Type", "application/json")
    if host := os.environ["HOSTNAME_HEADER"]:
        request.add_header("Host", host)
    if key is not None:
        request.add_header(os.environ["KEY_HEADER"], key)
    # The certificate is for the public name; this asks the address behind it.
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def main() -> None:
    url = f"{gateway_url()}/v1/models/{os.environ['MODEL']}:predict"
    status, _ = post(url, key=None)
    if status != 401:
        sys.exit(f"a request without a key must be 401; it was {status}")
    print("without a key: 401")
    key = os.environ.get("API_KEY")
    if key is None:
        print("`test.client` is empty, so no mail was sent")
        return
    status, body = post(url, key)
    if status != 200:
        sys.exit(f"a request with the key must be 200; it was {status}")
    prediction = json.loads(body)["predictions"][0]
    labels = {task: answer["label"] for task, answer in prediction["labels"].items()}
    if len(labels) != 3 or prediction["decision"] not in ("route", "review"):
        sys.exit(f"expected three labels and a decision, got {labels} and {prediction['decision']!r}")
    print(f"with a key: {labels}, {prediction['decision']}, model {prediction['model_version']}")


if __name__ == "__main__":
    main()
