"""Sample mails: what the generator promises about labels, facts, variety and mess."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailtriage.errors import DataError
from mailtriage.mail import Email
from mailtriage.sample import generate, write_sample
from mailtriage.sample.dice import Dice
from mailtriage.sample.facts import iban, isin
from mailtriage.sample.generator import TASKS, Desk, Draft
from mailtriage.sample.grammar import Teller, check_slots, parse
from mailtriage.sample.library import INTENTS, grammar, triples
from mailtriage.taxonomy import Taxonomy

SHIPPED = Path(__file__).parents[1] / "taxonomy.yaml"
ROWS = 20_000
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+|\n")
_IBAN = re.compile(r"\bDE\d{2}(?: ?\d){18}\b")


@pytest.fixture(scope="module")
def drafts() -> list[Draft]:
    """What 20,000 mails say, before they are laid out and filed."""
    desk = Desk()
    return [desk.draft(number, seed=7) for number in range(ROWS)]


@pytest.fixture(scope="module")
def mails() -> list[Email]:
    return list(generate(4_000, seed=3))


def _own_sentences(draft: Draft) -> list[str]:
    """The client's sentences of at least five words; of a forward those of the text that is passed on."""
    letter = draft.letter
    paragraphs = letter.forwarded[0].paragraphs if letter.forwarded else letter.paragraphs
    sentences = (part for paragraph in paragraphs for part in _SENTENCE_END.split(paragraph))
    return [sentence for sentence in sentences if len(sentence.split()) >= 5]


def test_the_same_seed_gives_the_same_mails_in_another_process() -> None:
    program = (
        "import json; from mailtriage.sample import generate; "
        "print(json.dumps([mail.to_record() for mail in generate(40, 5)]))"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, env={"PYTHONHASHSEED": "99"}
    )

    assert json.loads(ran.stdout) == [mail.to_record() for mail in generate(40, 5)]


def test_a_mail_depends_on_seed_and_number_alone() -> None:
    few, many = list(generate(10, 5)), list(generate(200, 5))

    assert many[:10] == few
    assert list(generate(10, 6)) != few
    assert len({mail.id for mail in many}) == 200


def test_only_valid_combinations_are_drawn_and_every_one_of_them() -> None:
    taxonomy = Taxonomy.load(SHIPPED)

    assert {labels for labels, _ in triples()} == set(taxonomy.combinations or ())
    assert taxonomy.task_ids == TASKS


def test_wrong_labels_are_valid_combinations_too(mails: list[Email]) -> None:
    taxonomy = Taxonomy.load(SHIPPED)
    complete = [mail.labels for mail in mails if None not in mail.labels.values()]

    assert len(complete) > 3_000
    assert all(taxonomy.is_valid({task: str(label) for task, label in labels.items()}) for labels in complete)


def test_a_few_percent_of_labels_are_wrong_and_a_few_missing(mails: list[Email]) -> None:
    true_labels = [mail.labels for mail in generate(3_000, 3, wrong_labels=0, missing_labels=0)]
    filed = [mail.labels for mail in mails[:3_000]]

    missing = sum(label is None for labels in filed for label in labels.values()) / 9_000
    wrong = sum(
        any(label not in (None, truth[task]) for task, label in labels.items())
        for labels, truth in zip(filed, true_labels, strict=True)
    )

    assert all(None not in labels.values() for labels in true_labels)
    assert 0.03 < missing < 0.05
    assert 0.02 < wrong / 3_000 < 0.04


def test_labels_are_imbalanced_but_none_is_rare_beyond_use(drafts: list[Draft]) -> None:
    for position, least in ((0, 1_500), (1, 500), (2, 100)):
        counts = Counter(draft.labels[position] for draft in drafts).most_common()

        assert counts[0][1] > 3 * counts[-1][1]
        assert counts[-1][1] >= least


def test_four_in_five_mails_are_german(drafts: list[Draft]) -> None:
    share = sum(draft.language == "de" for draft in drafts) / ROWS

    assert 0.785 < share < 0.815


def test_twenty_thousand_mails_share_few_sentences(drafts: list[Draft]) -> None:
    sentences = [_own_sentences(draft) for draft in drafts]
    seen_in = Counter(sentence for own in sentences for sentence in set(own))
    longest = [max(own, key=len) for own in sentences if own]

    repeated = sum(seen_in[sentence] > 1 for sentence in longest) / len(longest)
    distinct = len(seen_in) / sum(len(own) for own in sentences)

    assert len(longest) > 0.95 * ROWS
    assert repeated < 0.10
    assert distinct > 0.65


def test_no_two_mails_have_the_same_body(mails: list[Email]) -> None:
    bodies = Counter(mail.body for mail in mails)

    assert len(bodies) > 0.998 * len(mails)


def test_no_slot_or_bracket_of_the_grammar_is_left_in_a_text(drafts: list[Draft]) -> None:
    left = re.compile(r"[{}|]|  | ,|\.\.(?!\.)")

    for draft in drafts:
        letter = draft.letter
        for text in (letter.subject, letter.postscript, *letter.paragraphs):
            assert not left.search(text), text
        assert "[" not in "".join(letter.paragraphs)


def test_mails_arrive_over_eighteen_months_mostly_on_working_days(mails: list[Email]) -> None:
    times = [mail.received_at for mail in mails if mail.received_at]
    weekdays = Counter(time.weekday() for time in times)

    assert len(times) == len(mails)
    assert datetime(2025, 4, 30, 22, tzinfo=UTC) <= min(times)
    assert max(times) < datetime(2026, 11, 1, tzinfo=UTC)
    assert weekdays[0] > weekdays[4] > 2 * weekdays[5]
    assert {time.utcoffset() for time in times if time.month in (1, 7)} == {
        datetime.fromisoformat("2026-01-01T00:00+01:00").utcoffset(),
        datetime.fromisoformat("2026-07-01T00:00+02:00").utcoffset(),
    }


def test_the_custodian_bank_is_known_for_most_mails_and_hints_at_the_line(mails: list[Email]) -> None:
    crypto = Counter(mail.custodian_bank for mail in mails if mail.labels["line_of_business"] == "crypto")
    known = sum(mail.custodian_bank is not None for mail in mails) / len(mails)

    assert 0.67 < known < 0.73
    assert len({mail.custodian_bank for mail in mails} - {None}) == 5
    assert crypto["Lumen Kryptoverwahrung"] > 0.45 * crypto.total()


@pytest.mark.parametrize(
    ("trace", "least"),
    [
        (r"<html|<div|<font|<span", 0.45),
        (r"<style", 0.12),
        (r'class="MsoNormal"', 0.08),
        (r"gmail_quote", 0.02),
        (r"blockquote type=\"cite\"", 0.02),
        (r'name="quote"', 0.01),
        (r"moz-cite-prefix", 0.005),
        (r"<table class=\"outer\"", 0.01),
        (r"&nbsp;", 0.15),
        (r"&uuml;", 0.05),
        (r'width="1" height="1"', 0.01),
        (r"(?m)^> ", 0.03),
        (r"(?m)^Gesendet: \w+, \d", 0.01),
        (r"-----(Ursprüngliche Nachricht|Original Message)-----", 0.01),
        (r"Am .{5,60} schrieb ", 0.04),
        (r"On .{5,90} wrote:", 0.01),
        (r"(?m)^-- ?$|-- <br>|>-- <", 0.02),
        (r"HR[AB] \d{5}", 0.05),
        (r"USt-IdNr", 0.04),
        (r"vertrauliche|confidential", 0.01),
        (r"iPhone gesendet|von meinem iPhone|from my iPhone", 0.01),
        (r"Avast|avast", 0.005),
        (r"\r\n", 0.02),
        (r"fuer |ueber |gruess|Gruess", 0.04),
        (r"Ã|�", 0.002),
        (r"\bPS\b|\bP\.S\.", 0.02),
    ],
)
def test_the_mess_of_real_mail_is_there(mails: list[Email], trace: str, least: float) -> None:
    found = sum(re.search(trace, mail.body) is not None for mail in mails) / len(mails)

    assert found > least


@pytest.mark.parametrize(
    ("trace", "least"),
    [(r"^$", 0.04), (r"^(AW|Re|RE|Aw|Antwort): ", 0.15), (r"^(WG|Fwd|FW|Wg): ", 0.02), (r"^\S*\s*\[", 0.03)],
)
def test_subjects_are_as_untidy_as_bodies(mails: list[Email], trace: str, least: float) -> None:
    found = sum(re.search(trace, mail.subject) is not None for mail in mails) / len(mails)

    assert found > least


def test_lengths_range_from_a_word_to_a_page(drafts: list[Draft]) -> None:
    words = sorted(len(" ".join(draft.letter.paragraphs).split()) for draft in drafts)

    assert words[ROWS // 20] < 15
    assert 40 < words[ROWS // 2] < 80
    assert words[-1] > 200


def test_every_mail_can_be_read_back(mails: list[Email]) -> None:
    for mail in mails[:500]:
        assert Email.from_record(json.loads(json.dumps(mail.to_record())), TASKS) == mail


def test_ibans_have_valid_check_digits_and_no_real_bank(mails: list[Email]) -> None:
    found = [found.replace(" ", "") for mail in mails for found in _IBAN.findall(mail.body)]

    assert len(found) > 200
    for number in found:
        assert int(number[4:] + "1314" + number[2:4]) % 97 == 1
        assert number[4] == "9"


def test_isins_have_a_valid_check_digit() -> None:
    isins = [isin(Dice(str(seed))) for seed in range(200)]

    assert _isin_is_valid("DE000BAY0017")
    assert not _isin_is_valid("DE000BAY0018")
    assert all(_isin_is_valid(number) and len(number) == 12 for number in isins)
    assert all(len(iban(Dice(str(seed)))) == 22 for seed in range(200))


def _isin_is_valid(number: str) -> bool:
    digits = "".join(str(int(letter, 36)) for letter in number)
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@pytest.mark.parametrize("language", ["de", "en"])
def test_every_topic_has_many_patterns_of_every_intent(language: str) -> None:
    topics = grammar(language).topics

    assert set(topics) == {topic for (_, _, topic), _ in triples()}
    for topic, content in topics.items():
        assert set(INTENTS) <= set(content.groups), topic
        assert sum(len(content.groups[intent]) for intent in INTENTS) >= 12, topic
        assert len(content.about) >= 3, topic


def test_writes_a_file_of_json_lines_and_its_folder(tmp_path: Path) -> None:
    output = tmp_path / "new" / "mails.jsonl"

    write_sample(25, seed=4, output=output)

    records = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert records == [mail.to_record() for mail in generate(25, 4)]
    assert [path.name for path in output.parent.iterdir()] == ["mails.jsonl"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "mails.jsonl"
    write_sample(3, seed=4, output=output)
    before = output.read_bytes()

    def broken(rows: int, seed: int) -> list[Email]:
        raise OSError("no space left")

    monkeypatch.setattr("mailtriage.sample.generator.generate", broken)
    with pytest.raises(OSError, match="no space left"):
        write_sample(5, seed=4, output=output)

    assert output.read_bytes() == before
    assert list(tmp_path.iterdir()) == [output]


def test_patterns_fill_slots_and_remember_facts() -> None:
    lists = {"thing": (parse("[Order|Order] {number}"),)}
    numbers = iter("123")
    teller = Teller(Dice("x"), lists, (), lambda kind: next(numbers))

    text = teller.fill(parse("{thing}, {number}, {number2}[, ende]"))

    assert text == "Order 1, 1, 2, ende"


@pytest.mark.parametrize("text", ["a [b", "a ] b", "a } b", "a {b", "a | b"])
def test_a_pattern_with_a_stray_bracket_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="that nothing"):
        parse(text)


def test_an_unknown_slot_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match="unknown slot 'acount', did you mean 'account'"):
        check_slots([parse("mein {acount}")], {"account"}, "the topic")


def test_a_forward_holds_the_request_in_the_words_of_its_first_sender(drafts: list[Draft]) -> None:
    forwards = [draft.letter for draft in drafts if draft.letter.forwarded]

    assert len(forwards) > 0.035 * ROWS
    for letter in forwards:
        original = letter.forwarded[0]
        assert len(letter.paragraphs) <= 1
        assert original.paragraphs
        assert re.match(r"(WG|Wg|Fwd|FW): ", letter.subject)
    helped = [letter for letter in forwards if "kiebitz" not in letter.forwarded[0].to]
    assert 0.4 < len(helped) / len(forwards) < 0.8
