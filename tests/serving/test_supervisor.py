"""Processes that die come back, requests meanwhile get an honest answer, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
V1 = "/v1/models/mailtriage:predict"
SECRET = "Geheimwort"  # the stacks look for it in all that their processes wrote
MAIL = {"id": "m-1", "body": f"Bitte verkaufen Sie meine Aktien, {SECRET}."}


def answers_until(stack, wanted, seconds=120):
    """Ask again and again until an answer has the wanted status; all answers on the way."""
    seen = []
    deadline = time.monotonic() + seconds
    with stack.client() as client:
        while time.monotonic() < deadline:
            seen.append(client.post(V1, json={"instances": [MAIL]}))
            if seen[-1].status_code == wanted:
                return seen
            time.sleep(0.05)
    raise AssertionError(f"no {wanted} within {seconds} s, but {[answer.status_code for answer in seen][-5:]}")


def test_a_killed_predictor_gives_503_and_comes_back(hurt_stack):
    stack = hurt_stack
    before = stack.predict([MAIL])

    stack.part("predictor").kill()
    refused = answers_until(stack, 503)[-1]
    ready = httpx.get(f"{stack.transformer}/v2/health/ready", trust_env=False)
    again = answers_until(stack, 200)

    assert refused.json()["error"]["code"] == "predictor_unavailable"
    assert "predictor" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert ready.status_code == 503
    assert {answer.status_code for answer in again} <= {200, 503}
    assert again[-1].json()["predictions"] == before
    stack.wait_until_ready()


@pytest.mark.parametrize("name", ["transformer", "gateway"])
def test_a_killed_front_process_comes_back(hurt_stack, name):
    stack = hurt_stack
    before = stack.predict([MAIL])
    killed = stack.part(name)

    killed.kill()
    psutil.wait_procs([killed], timeout=10)
    stack.wait_until_ready()

    assert stack.predict([MAIL]) == before
    assert stack.part(name).pid != killed.pid


def test_under_load_each_request_gets_its_own_answer_or_can_be_sent_again(hurt_stack, mails):
    """Each process is killed in turn; the service is back within 5 s of the process, and no request hangs."""
    stack = hurt_stack
    asked, expected = told_apart(stack, mails[:60])
    outcomes: list[tuple[int, str]] = []
    wrong: list[str] = []
    hung: list[str] = []
    stop = threading.Event()

    def ask(worker: int) -> None:
        number = 0
        with stack.client() as client:
            while not stop.is_set():
                number += 1
                kinds = [(worker + number + place) % len(asked) for place in range(1 + (worker + number) % 5)]
                ids = [f"{worker}-{number}-{place}" for place in range(len(kinds))]
                batch = [asked[kind] | {"id": mail_id} for kind, mail_id in zip(kinds, ids, strict=True)]
                try:
                    answer = client.post(V1, json={"instances": batch})
                except httpx.TimeoutException:  # neither an answer nor a broken connection: this must not be
                    hung.append(ids[0])
                    return
                except httpx.TransportError:  # the gateway itself is gone: the client sends it again
                    outcomes.append((0, ""))
                    time.sleep(0.05)
                    continue
                outcomes.append((answer.status_code, answer.text))
                if answer.status_code == 200:
                    found = answer.json()["predictions"]
                    ours = [alike(one, expected[kind]) for one, kind in zip(found, kinds, strict=True)]
                    if [one["id"] for one in found] != ids or not all(ours):
                        wrong.append(answer.text)

    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(ask, worker) for worker in range(6)]
        try:
            delays = {name: seconds_until_back(stack, name) for name in ("predictor", "transformer", "gateway")}
            time.sleep(0.5)
        finally:
            stop.set()
        for worker in workers:
            worker.result(60)

    assert not hung
    assert not wrong
    assert {status for status, _ in outcomes} <= {0, 200, 503}
    assert sum(status == 200 for status, _ in outcomes) > 50
    assert all(json.loads(text)["error"]["code"] for status, text in outcomes if status == 503)
    assert max(delays.values()) < 5, delays


def told_apart(stack, mails):
    """Mails whose answers cannot be taken for one another's, and these answers."""
    records = [mail.to_record() | {"subject": f"{mail.subject} {SECRET}"} for mail in mails]
    asked, expected = [], []
    for record, answer in zip(records, stack.predict(records), strict=True):
        if clear(answer) and not any(alike(answer, other) for other in expected):
            asked.append(record)
            expected.append(answer)
    assert len(expected) >= 5
    assert not any(alike(one, other) for one, other in permutations(expected, 2))
    return asked, expected


def clear(answer):
    """Each task's runner-up is so far behind that no neighbour in an int8 pass puts it first."""
    return all(
        score["confidence"] - answer["alternatives"][task][0]["confidence"] > 0.3
        for task, score in answer["labels"].items()
    )


def alike(found, expected):
    """The same labels, with the same confidences but for what neighbours in an int8 pass change."""
    return all(
        found["labels"][task]["label"] == score["label"]
        and abs(found["labels"][task]["confidence"] - score["confidence"]) < 0.1
        for task, score in expected["labels"].items()
    )


def seconds_until_back(stack, name):
    """Kill a process under load; seconds from its own readiness to the next answer through the gateway."""
    time.sleep(1)
    killed = stack.part(name)
    killed.kill()
    psutil.wait_procs([killed], timeout=10)
    own = stack.gateway if name == "gateway" else getattr(stack, name)
    with stack.client() as client:
        until = time.monotonic() + 120
        back = None
        while time.monotonic() < until:
            try:
                path = "/v2/health/live" if name == "gateway" else "/v2/health/ready"
                if back is None and client.get(own + path, timeout=2).status_code == 200:
                    back = time.monotonic()
                if back and client.post(V1, json={"instances": [MAIL]}, timeout=5).status_code == 200:
                    return time.monotonic() - back
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise AssertionError(f"the {name} did not come back")


def test_sigterm_stops_everything(own_stack):
    stack = own_stack()
    children = psutil.Process(stack.process.pid).children(recursive=True)

    stack.process.send_signal(signal.SIGTERM)

    assert stack.process.wait(40) == 0
    assert len(children) == 3
    assert not [child for child in children if child.is_running()]
    assert not list(stack.work.rglob("envoy.json"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_nothing_is_left_when_the_supervisor_is_killed(own_stack):
    stack = own_stack()
    children = psutil.Process(stack.process.pid).children(recursive=True)

    stack.process.kill()

    _, alive = psutil.wait_procs(children, timeout=40)
    assert len(children) == 3
    assert not alive


def test_a_taken_port_is_said(bundle_path, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_up(bundle_path, "--port", port, "--work", str(tmp_path))

    assert done.returncode == 1
    assert port in done.stderr
    assert "--port" in done.stderr


def test_a_process_that_does_not_start_is_said_with_its_last_words(bundle_path, tmp_path):
    done = run_up(bundle_path, "--port", "0", "--work", str(tmp_path), "--threads", "minus-one")
    assert done.returncode == 2

    done = run_up(bundle_path, "--port", "0", "--work", str(tmp_path), "--host", "127.0.0.1", "--start-timeout", "0.1")
    assert done.returncode == 1
    assert "was not ready within" in done.stderr
    assert "predictor.log" in done.stderr


def run_up(bundle, *options):
    command = [sys.executable, "-m", "serving", "up", "--bundle", str(bundle), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_client_that_goes_away_is_not_worked_for(stack):
    mails = [MAIL | {"id": str(number), "body": f"Frage {number} zum Depot. " * 150} for number in range(40)]
    body = json.dumps({"instances": mails}).encode()
    host, port = stack.transformer.removeprefix("http://").split(":")
    head = f"POST {V1} HTTP/1.1\r\nhost: {host}\r\nx-request-id: gone-away\r\ncontent-type: application/json\r\n"

    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    logs = stack.logs_when("transformer", "gone-away")
    assert any('"gone-away"' in line and '"status":499' in line for line in logs.splitlines())
    assert stack.predict([MAIL])[0]["id"] == "m-1"


def test_a_signal_while_starting_stops_what_was_started(bundle_path, tmp_path):
    command = [
        sys.executable,
        "-m",
        "serving",
        "up",
        "--bundle",
        str(bundle_path),
        "--port",
        "0",
        "--work",
        str(tmp_path),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "waiting for the predictor" in process.stderr.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.stderr.read()

    assert children
    assert not [child for child in children if child.is_running()]
