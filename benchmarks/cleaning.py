"""Compares our cleaning with the libraries that do parts of it, on mails whose clean text is known.

    uv venv /tmp/peers
    uv pip install --python /tmp/peers/bin/python mail-parser-reply quotequail unquotemail email-reply-parser \\
        email-reply-extractor talon-main regex setuptools
    /tmp/peers/bin/python benchmarks/cleaning.py [--pairs PAIRS.jsonl.gz] [--posts POSTS.jsonl.gz] [--json FILE]
    .venv/bin/python benchmarks/cleaning.py --bulk MAILS

Runs on our own fixtures, and on `--pairs` (rows with `id`, `kind`, `raw` and `expected`) where that file is given.
Cleaning itself needs the standard library only, so a venv that holds nothing but the peers will do; a peer that is not
installed is named and left out. Peers that read plain text only get the text that our HTML reader makes, which favours
them. `talon-main` is the release of talon that installs today.

Columns: mails that match exactly after white-space normalisation; the share of the client's words that was lost; the
share of the words left that are not the client's; mails emptied that should not be; milliseconds a mail (best of three
runs, one core); and the mail that came out worst. `--posts` times every cleaner in one cold pass over rows with `text`.
`--bulk` cleans a file of so many mails, made by repeating our fixtures, with one process, on all cores, and, where ray
is installed, in the pipeline's step and on Ray Data, and prints the peak of memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mailtriage.cleaning import clean  # noqa: E402
from mailtriage.cleaning_rules.html_text import is_html, visible_text  # noqa: E402
from mailtriage.mime import read_message  # noqa: E402

Cleaner = Callable[[str, str], str]  # body, subject -> the client's words

_SIGNATURE = "keeps a signature or closing formula, which we cut"
_APP_FOOTER = "keeps 'Sent from my ...', which we cut"
_INLINE = "loses what the client wrote below or between the quoted lines"
_QUOTED = "keeps quoted lines, which we cut as soon as the client has words of his own"
_FORWARD = "treats a forwarded text differently: we keep it without its headings if it is the request"
_SAME_LINE = "loses the client's words in the line of a quote header"
# Pairs whose expectation is not what our contract wants. They are shown apart, and no rule was made for them.
CONTRADICTIONS = {
    "trimmer/email_headers_5": _SIGNATURE,
    "trimmer/embedded_ception": _SIGNATURE,
    "trimmer/embedded_email_2": _SIGNATURE,
    "trimmer/embedded_email_15": _SIGNATURE,
    "trimmer/embedded_email_16": _QUOTED,
    "trimmer/embedded_email_17": _QUOTED,
    "trimmer/embedded_email_7": _QUOTED,
    "trimmer/embedded_email_swedish": _SIGNATURE,
    "trimmer/forwarded_apple": _FORWARD,
    "trimmer/forwarded_gmail": _FORWARD,
    "trimmer/quote_and_text": _QUOTED,
    "unquote/correct_sig.txt": _SIGNATURE,
    "unquote/dont_parse_quotations_for_forwarded_messages.txt": _FORWARD,
    "unquote/email_1.txt": _SIGNATURE,
    "unquote/email_2.txt": _INLINE,
    "unquote/email_blackberry.txt": _APP_FOOTER,
    "unquote/email_emoji.txt": _SIGNATURE,
    "unquote/email_german_3.txt": _APP_FOOTER,
    "unquote/email_iphone.txt": _APP_FOOTER,
    "unquote/email_multi_word_sent_from_my_mobile_device.txt": _APP_FOOTER,
    "unquote/email_not_a_signature.txt": _SIGNATURE,
    "unquote/email_sent_from.txt": _APP_FOOTER,
    "unquote/email_with_regards.txt": _SIGNATURE,
    "unquote/iphone_dual.txt": _APP_FOOTER,
    "unquote/reply-quotations-share-block_dual.html": _QUOTED,
    "unquote/sig_no_empty_line.txt": _SIGNATURE,
    "unquote/sparrow_dual.txt": _SIGNATURE,
    "unquote/thunderbird_dual.txt": _INLINE,
    "unquote/talon_txt_11.txt": _SAME_LINE,
    "unquote/talon_txt_12.txt": _SAME_LINE,
    "unquote/talon_txt_13.txt": _SAME_LINE,
}


@dataclass(frozen=True)
class Mail:
    """A mail with what should be left of it."""

    id: str
    body: str
    subject: str
    expected: str


@dataclass(frozen=True)
class Score:
    """What a cleaner made of a set of mails."""

    name: str
    mails: int
    exact: int
    lost: float
    foreign: float
    emptied: int
    milliseconds: float
    worst: str


def fixtures() -> Iterator[Mail]:
    """Our own mails, of `tests/fixtures/mails`."""
    for path in sorted((ROOT / "tests" / "fixtures" / "mails").glob("*.eml")):
        mail = read_message(path.read_bytes(), path.stem).mail
        yield Mail(path.stem, mail.body, mail.subject, path.with_suffix(".expected.txt").read_text(encoding="utf-8"))


def pairs(path: Path) -> Iterator[Mail]:
    """The rows of a file of pairs; an expectation in HTML counts as the text that it shows."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            expected = row["expected"]
            yield Mail(row["id"], row["raw"], "", as_text(expected) if row["kind"] == "html" else expected)


def as_text(body: str) -> str:
    """The visible text of a body, plain or HTML."""
    return visible_text(body).text if is_html(body) else body


def cleaners() -> Iterator[tuple[str, Cleaner | None]]:
    """Ours first, then each peer, or `None` where it is not installed."""
    yield "mailtriage", lambda body, subject: clean(body, subject).text
    for name, load in (
        ("mail-parser-reply", _mail_parser_reply),
        ("quotequail", _quotequail),
        ("unquotemail", _unquotemail),
        ("email-reply-parser", _email_reply_parser),
        ("talon", _talon),
        ("talon + signatures", _talon_with_signatures),
        ("email-reply-extractor", _email_reply_extractor),
        ("email-reply-extractor, scoring", _email_reply_extractor_scoring),
    ):
        try:
            yield name, load()
        except ImportError:
            yield name, None


def _mail_parser_reply() -> Cleaner:
    from mailparser_reply import EmailReplyParser

    parser = EmailReplyParser(languages=["de", "en"])
    return lambda body, subject: (parser.read(text=as_text(body)).replies or [None])[0].body


def _quotequail() -> Cleaner:
    import quotequail

    def reply(body: str, subject: str) -> str:
        quote = quotequail.quote_html if is_html(body) else quotequail.quote
        return as_text("\n".join(part for shown, part in quote(body) if shown))

    return reply


def _unquotemail() -> Cleaner:
    from unquotemail import Unquote

    def reply(body: str, subject: str) -> str:
        if is_html(body):
            return as_text(Unquote(html=body, text=None).get_html())
        return Unquote(html=None, text=body).get_text() if body else ""

    return reply


def _email_reply_parser() -> Cleaner:
    from email_reply_parser import EmailReplyParser

    return lambda body, subject: EmailReplyParser.parse_reply(as_text(body))


def _talon() -> Cleaner:
    from talon import quotations

    return lambda body, subject: as_text(quotations.extract_from(body, "text/html" if is_html(body) else "text/plain"))


def _talon_with_signatures() -> Cleaner:
    from talon.signature.bruteforce import extract_signature

    quotations = _talon()
    return lambda body, subject: extract_signature(quotations(body, subject))[0]


def _email_reply_extractor() -> Cleaner:
    from email_reply_extractor import extract_new_text

    def reply(body: str, subject: str) -> str:
        return extract_new_text(None, html_body=body).text if is_html(body) else extract_new_text(body).text

    return reply


def _email_reply_extractor_scoring() -> Cleaner:
    from email_reply_extractor import clean_for_scoring

    extract = _email_reply_extractor()
    return lambda body, subject: clean_for_scoring(extract(body, subject)).text


def words(text: str) -> Counter[str]:
    """The words of a text and how often each stands in it; quote marks and rules are none."""
    return Counter(word for word in text.split() if any(character.isalnum() for character in word))


def score(name: str, cleaner: Cleaner, mails: list[Mail]) -> Score:
    """Clean every mail and count."""
    exact = lost = foreign = expected_words = left_words = emptied = 0
    worst, worst_share = "", 0.0
    for mail in mails:
        text = answer(cleaner, mail)
        expected, left = words(mail.expected), words(text)
        missing, added = (expected - left).total(), (left - expected).total()
        exact += text.split() == mail.expected.split()
        lost, foreign = lost + missing, foreign + added
        expected_words, left_words = expected_words + expected.total(), left_words + left.total()
        emptied += bool(expected) and not text.strip()
        share = (missing + added) / max(1, expected.total() + left.total())
        if share > worst_share:
            worst, worst_share = mail.id, share
    milliseconds = min(timed(cleaner, mails) for _ in range(3)) / len(mails)
    return Score(
        name,
        len(mails),
        exact,
        lost / max(1, expected_words),
        foreign / max(1, left_words),
        emptied,
        milliseconds,
        worst,
    )


def answer(cleaner: Cleaner, mail: Mail) -> str:
    """What a cleaner leaves of a mail; one that raises has left nothing."""
    try:
        return cleaner(mail.body, mail.subject) or ""
    except Exception:  # a peer may raise anything; that mail is lost then
        return ""


def timed(cleaner: Cleaner, mails: list[Mail]) -> float:
    """Milliseconds of processor time for all the mails once."""
    start = time.process_time()
    for mail in mails:
        answer(cleaner, mail)
    return 1000 * (time.process_time() - start)


# Each way of bulk cleaning runs in a process of its own, so that its peak of memory is its own.
_BULK = """
import json, logging, os, resource, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
way, source, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
start = time.perf_counter()
if __name__ == "__main__":
    if way.startswith("file"):
        from mailtriage.bulk_cleaning import clean_file
        clean_file(source, output, processes=1 if way == "file, 1 process" else None)
    else:
        from mailtriage.ingestion import clean_mails
        if way == "step, Ray Data":
            import ray
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
            start = time.perf_counter()
        clean_mails(source, (), output, ray_address="local" if way == "step, Ray Data" else "")
    seconds = time.perf_counter() - start
    mebibytes = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps([seconds, *mebibytes]))
"""


def bulk(count: int) -> dict[str, dict[str, float]]:
    """Mails a second and peak memory for a file of `count` mails, reading and writing included, by way of cleaning."""
    ways = ["file, 1 process", "file, all cores"]
    if find_spec("yaml") and find_spec("ray"):
        ways += ["step, all cores", "step, Ray Data"]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "mails.jsonl"), Path(folder, "bulk.py")
        program.write_text(_BULK, encoding="utf-8")
        _write_bulk(source, count)
        for way in ways:
            command = [sys.executable, str(program), way, str(source), str(Path(folder, "out.jsonl"))]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            seconds, own, child = json.loads(done.stdout.splitlines()[-1])
            results[way] = {"mails_a_second": count / seconds, "peak_mib": own, "largest_child_mib": child}
    return results


def _write_bulk(path: Path, count: int) -> None:
    mails = list(fixtures())
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            mail = mails[number % len(mails)]
            record = {"id": f"{mail.id}-{number}", "subject": mail.subject, "body": mail.body}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def posts(path: Path) -> dict[str, float]:
    """Milliseconds a mail by cleaner, in one pass over texts that no cleaner has seen."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        mails = [Mail(str(row), json.loads(line)["text"], "", "") for row, line in enumerate(file)]
    return {name: timed(cleaner, mails) / len(mails) for name, cleaner in cleaners() if cleaner is not None}


def show(title: str, scores: list[Score]) -> None:
    """Print a table."""
    print(f"\n{title} ({scores[0].mails} mails)\n")
    print("| cleaner | exact | client words lost | foreign words left | emptied | ms a mail | worst mail |")
    print("|---|---|---|---|---|---|---|")
    for s in scores:
        print(
            f"| {s.name} | {s.exact} ({s.exact / s.mails:.0%}) | {s.lost:.2%} | {s.foreign:.2%} | {s.emptied} "
            f"| {s.milliseconds:.3f} | {s.worst or '-'} |"
        )


def show_posts(milliseconds: dict[str, float]) -> None:
    """Print the table of `posts`."""
    print("\nMails never seen before, one pass\n")
    print("| cleaner | ms a mail | times ours |")
    print("|---|---|---|")
    for name, value in milliseconds.items():
        print(f"| {name} | {value:.3f} | {value / milliseconds['mailtriage']:.1f} |")


def show_bulk(count: int, results: dict[str, dict[str, float]]) -> None:
    """Print the table of `bulk`."""
    print(f"\nA file of {count:,} mails, {os.cpu_count()} cores\n")
    print("| way | mails a second | peak MiB of the parent | of its largest process |")
    print("|---|---|---|---|")
    for way, row in results.items():
        print(f"| {way} | {row['mails_a_second']:,.0f} | {row['peak_mib']:.0f} | {row['largest_child_mib']:.0f} |")


def main() -> None:
    logging.disable(logging.CRITICAL)  # peers log what they cannot read
    parser = argparse.ArgumentParser(description="Compare cleaning with its peers.")
    parser.add_argument("--pairs", type=Path, help="a file of pairs, .jsonl.gz")
    parser.add_argument("--bulk", type=int, metavar="MAILS", help="also clean a file of so many mails")
    parser.add_argument("--posts", type=Path, help="time every cleaner on these rows with `text`, .jsonl.gz")
    parser.add_argument("--json", type=Path, help="write the scores here")
    arguments = parser.parse_args()
    sets: dict[str, list[Mail]] = {"our fixtures": list(fixtures())}
    if arguments.pairs is not None and arguments.pairs.exists():
        found = list(pairs(arguments.pairs))
        sets["pairs, where both want the same"] = [mail for mail in found if mail.id not in CONTRADICTIONS]
        sets["pairs, all"] = found
    else:
        print("The pairs are left out: no file was given with --pairs, or it is not there.")
    print(f"Python {platform.python_version()}, one core, {platform.machine()}")
    results: dict[str, Any] = {}
    available = [
        (name, cleaner) for name, cleaner in cleaners() if cleaner is not None or print(f"not installed: {name}")
    ]
    for title, mails in sets.items():
        scores = [score(name, cleaner, mails) for name, cleaner in available if cleaner is not None]
        show(title, scores)
        results[title] = [vars(one) for one in scores]
    if len(sets) > 1:
        print("\nPairs whose expectation is not what our contract wants:\n")
        for identifier, reason in CONTRADICTIONS.items():
            print(f"- `{identifier}` {reason}")
    if arguments.posts is not None:
        results["posts"] = posts(arguments.posts)
        show_posts(results["posts"])
    if arguments.bulk:
        results["bulk"] = bulk(arguments.bulk)
        show_bulk(arguments.bulk, results["bulk"])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
