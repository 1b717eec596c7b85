"""What `helm test` runs: no key is refused, and with a key a mail comes back with its three labels."""

import http.client
import json
import os
import socket
import ssl
import sys
import time
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS, PATIENCE = 30, 60
MAIL = {"id": "helm-test", "subject": "Depotübertrag", "body": "Guten Tag,\nbitte übertragen Sie mein Depot.\nDanke"}


def gateway() -> dict:
    """The Gateway as the API server knows it."""
    api = http.client.HTTPSConnection(
        os.environ["KUBERNETES_SERVICE_HOST"],
        int(os.environ["KUBERNETES_SERVICE_PORT"]),
        context=ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt")),
        timeout=SECONDS,
    )
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{os.environ['NAMESPACE']}/gateways/{os.environ['GATEWAY']}"
    api.request("GET", path, headers={"Authorization": f"Bearer {(SERVICE_ACCOUNT / 'token').read_text()}"})
    answer = api.getresponse()
    if answer.status != 200:
        sys.exit(f"the API server answered {answer.status} to {path}")
    return json.load(answer)


def connect(address: str, port: int, host: str, tls: bool) -> http.client.HTTPConnection:
    """A connection to the Gateway's address that names the public host, as a client's would."""
    if not tls:
        return http.client.HTTPConnection(address, port, timeout=SECONDS)
    # The certificate is the public name's, and may be of an authority that this pod does not know.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address, port, context=context, timeout=SECONDS)
    plain = socket.create_connection((address, port), timeout=SECONDS)
    connection.sock = context.wrap_socket(plain, server_hostname=host or address)
    return connection


def post(key: str | None) -> tuple[int, bytes]:
    """Status and body of a request for one mail; waits for a Gateway that is only just being made."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return post_once(key)
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"Gateway {os.environ['GATEWAY']} cannot be reached; see `kubectl describe gateway`: {error}")
            time.sleep(2)


def post_once(key: str | None) -> tuple[int, bytes]:
    """As `post`, once.

    Raises:
        OSError: there is no address, or nobody answers there.
    """
    found = gateway()
    listener = found["spec"]["listeners"][0]
    addresses = found.get("status", {}).get("addresses", [])
    if not addresses:
        raise OSError("it has no address yet")
    address, host = addresses[0]["value"], os.environ["PUBLIC_HOST"]
    connection = connect(address, listener["port"], host, tls=listener["protocol"] == "HTTPS")
    headers = {"Content-Type": "application/json", "Host": host or address}
    if key is not None:
        headers[os.environ["KEY_HEADER"]] = key
    path = f"/v1/models/{os.environ['MODEL']}:predict"
    connection.request("POST", path, body=json.dumps({"instances": [MAIL]}), headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def main() -> None:
    status, _ = post(key=None)
    if status not in (401, 403):  # Istio's word for nobody is 403
        sys.exit(f"a request without a key must be 401; it was {status}")
    print(f"without a key: {status}")
    key = os.environ.get("API_KEY")
    if key is None:
        print("`test.client` is empty, so no mail was sent")
        return
    status, body = post(key)
    if status != 200:
        sys.exit(f"a request with the key must be 200; it was {status}")
    prediction = json.loads(body)["predictions"][0]
    labels = {task: answer["label"] for task, answer in prediction["labels"].items()}
    if len(labels) != 3 or prediction["decision"] not in ("route", "review"):
        sys.exit(f"expected three labels and a decision, got {labels} and {prediction['decision']!r}")
    print(f"with a key: {labels}, {prediction['decision']}, model {prediction['model_version']}")


if __name__ == "__main__":
    main()
