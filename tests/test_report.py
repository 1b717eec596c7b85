"""The report: one file, pictures first, nothing loaded from elsewhere."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mailtriage import evaluation, report
from mailtriage.decoding import Decoder
from mailtriage.examples import Example
from mailtriage.taxonomy import Taxonomy

TAXONOMY = """
version: "1"
tasks:
  queue: {labels: {trading: , "<b>tax</b>": }}
  topic: {labels: {order: , certificate: }}
"""


class Reader(HTMLParser):
    """Collects tags in order, addresses and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    taxonomy = Taxonomy.parse(TAXONOMY)
    rng = np.random.default_rng(5)
    true = {task: rng.integers(0, 2, 200) for task in taxonomy.task_ids}
    logits = {task: (rng.normal(0, 1, (200, 2)) + 3 * np.eye(2)[true[task]]).astype(np.float32) for task in true}
    decoder = Decoder(taxonomy, thresholds={"queue": 0.9, "topic": None})
    probabilities = decoder.probabilities(logits)
    chosen = {task: values.argmax(axis=1) for task, values in probabilities.items()}
    answers = evaluation.Answers(
        true=true,
        first=chosen,
        chosen=chosen,
        confidence={task: values.max(axis=1) for task, values in probabilities.items()},
        probabilities=probabilities,
        uncalibrated=probabilities,
        answerable=np.ones(200, dtype=bool),
        routed=np.zeros(200, dtype=bool),
    )
    examples = [Example(str(number), "s", "t", language="de") for number in range(200)]
    metrics = evaluation.measure(taxonomy, decoder, answers, examples)
    metrics["model"] = {
        "name": "mailtriage",
        "version": "7",
        "digest": "f" * 64,
        "taxonomy_version": "1",
        "created_at": None,
    }
    pictures = evaluation.draw(folder, taxonomy, answers, metrics)
    html = report.write(folder / "report.html", metrics, pictures, taxonomy).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    return html, reader, metrics


def test_loads_nothing_from_elsewhere(page):
    html, reader, _ = page
    assert reader.addresses
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert not re.search(r"url\(|@import|<script", html)


def test_shows_every_picture_before_any_table(page):
    _, reader, _ = page
    assert reader.tags.count("img") == 7
    assert max(i for i, tag in enumerate(reader.tags) if tag == "img") < reader.tags.index("table")


def test_opens_with_what_it_means(page):
    _, reader, _ = page
    text = " ".join(reader.text)
    assert "mailtriage version 7" in text
    assert "No mail would be routed without a person" in text


def test_shows_the_figures_of_the_metrics(page):
    _, reader, metrics = page
    text = " ".join(reader.text)
    for task in ("queue", "topic"):
        assert f"{metrics[task]['macro_f1']:.3f}" in text


def test_a_label_is_text_and_never_markup(page):
    html, _, _ = page
    assert "<b>tax</b>" not in html
    assert "&lt;b&gt;tax&lt;/b&gt;" in html


def test_verdict_counts_mails_in_hundreds():
    routing = {"coverage": 0.62, "precision": 0.961}
    assert report._verdict({"routing": routing}).startswith(
        "Of 100 mails, 62 would be routed without a person, and of those 96.1 % get every label right. The other 38"
    )
