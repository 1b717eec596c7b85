"""A bundle keeps what cleaning made of training mails, without their words; a later cleaning is compared with it."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from mailtriage import cleaning_diff
from mailtriage.bundle import Bundle
from mailtriage.cleaning import clean
from mailtriage.cleaning_diff import Comparison, compare, diff_view, summary
from mailtriage.cleaning_rules.edits import Removed
from mailtriage.cleaning_trace import FILE, MASK, MOST_MAILS, Trace, fingerprint, read_traces, traced, write_traces
from mailtriage.errors import BundleChecksumMismatch, BundleFileMissing, DataError, UnknownCleaningVersion
from mailtriage.mail import Email
from mailtriage.readers import Rejected, read_mails

FIXTURES = [mail for mail in read_mails(Path(__file__).parent / "fixtures" / "mails") if not isinstance(mail, Rejected)]
PLAIN = Email("p", "AW: Depot", "Hallo,\n\nbitte Depot sperren.\n\nGruß\nMax Muster\n")
MARKUP = Email("h", "Depot", "<p>Gr&uuml;n &lt; &#77;&#97;&#120;</p><ul><li>&Auml;pfel</ul><br>--<br>Max")


@pytest.fixture(scope="module")
def mails_file(tmp_path_factory: pytest.TempPathFactory, mails: list[Email]) -> Path:
    path = tmp_path_factory.mktemp("mails") / "mails.jsonl"
    path.write_text("".join(json.dumps(mail.to_record()) + "\n" for mail in mails), encoding="utf-8")
    return path


def trace(mail: Email) -> Trace:
    return Trace.of(mail, clean(mail.body, mail.subject))


@pytest.mark.parametrize("mail", [*FIXTURES, PLAIN, MARKUP], ids=lambda mail: mail.id)
def test_the_text_is_rebuilt_from_the_mail_and_its_trace(mail: Email) -> None:
    record = json.loads(json.dumps(trace(mail).to_record()))

    assert Trace.from_record(record).rebuild(mail) == clean(mail.body, mail.subject).text


@pytest.mark.parametrize("mail", [*FIXTURES, PLAIN, MARKUP], ids=lambda mail: mail.id)
def test_a_trace_holds_no_character_of_the_mail(mail: Email) -> None:
    record = trace(mail).to_record()

    kinds = {word for span in record["removed"] for word in span[:2]}
    assert all(re.fullmatch("[a-z_]+", word) for word in kinds)
    assert all(re.fullmatch(rf"[\s\-{MASK}]*", "".join(span[4:])) for span in record["removed"])
    assert all(re.fullmatch("[0-9a-f]{32}", record[key]) for key in ("mail", "subject", "text"))


def test_a_short_text_cannot_be_guessed_from_its_fingerprint() -> None:
    other = Email("q", PLAIN.subject, PLAIN.body + "\nTel. 0170 1234567")

    assert clean(PLAIN.body).text == clean(other.body).text
    assert trace(PLAIN).text != trace(other).text


def test_a_bundle_keeps_a_bounded_sample_that_does_not_depend_on_the_order(tmp_path: Path) -> None:
    mails = [Email(str(n), "", f"Bitte Depot {n} sperren.") for n in range(5 * MOST_MAILS)]
    kept = [found for mail in mails if (found := traced(mail, clean(mail.body), len(mails)))]
    (tmp_path / "other").mkdir()

    written = write_traces(tmp_path, kept), write_traces(tmp_path / "other", reversed(kept))

    assert written == (MOST_MAILS, MOST_MAILS)
    assert MOST_MAILS < len(kept) < 3 * MOST_MAILS
    assert (tmp_path / FILE).read_bytes() == (tmp_path / "other" / FILE).read_bytes()
    assert len(set(read_traces((tmp_path / FILE).read_bytes()))) == MOST_MAILS


def test_the_cleaning_of_now_changes_nothing_in_a_bundle_of_now(
    bundle_path: Path, mails_file: Path, mails: list[Email]
) -> None:
    comparison = Comparison.with_bundle(bundle_path)

    changes = list(comparison.changes(mails_file))

    assert changes == []
    assert comparison.compared == len(comparison.traces) == len({fingerprint(mail) for mail in mails[:320]})
    assert FILE in Bundle.open(bundle_path).manifest["files"]


def test_a_cleaning_that_cuts_more_is_shown_with_the_words_that_it_loses(
    bundle_path: Path, mails_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning_diff, "clean", partial(clean, greeting="cut"))
    comparison = Comparison.with_bundle(bundle_path)

    changes = list(comparison.changes(mails_file))

    assert comparison.changed == len(changes) > 0
    assert set(comparison.lost) == {("greeting", "salutation")}
    assert not comparison.won
    assert comparison.not_rebuilt == 0
    for change in changes:
        assert change.before == clean(change.mail.body, change.mail.subject).text
        assert change.lost.total() == len(change.before.split()) - len(change.cleaned.text.split())
        assert "\n-" in diff_view(change).plain
    assert f"{comparison.lost.total()} words lost" in " ".join(summary(comparison)).replace(",", "")


def test_a_cleaning_that_cuts_less_is_shown_with_the_words_that_it_wins() -> None:
    cleaned = clean(PLAIN.body, PLAIN.subject)
    start = PLAIN.body.index("Hallo")
    eager = Removed("greeting", "salutation", start, PLAIN.body.index("bitte"))
    old = Trace.of(PLAIN, clean(PLAIN.body[eager.end :], PLAIN.subject))
    shifted = tuple(Removed(s.kind, s.rule, s.start + eager.end, s.end + eager.end, s.replacement) for s in old.removed)

    change = compare(PLAIN, Trace(old.mail, old.subject, fingerprint(PLAIN, "bitte Depot sperren."), (eager, *shifted)))

    assert change is not None
    assert (dict(change.won), dict(change.lost)) == ({("greeting", "salutation"): 1}, {})
    assert change.before == "bitte Depot sperren."
    assert "\n+Hallo," in diff_view(change).plain
    assert change.cleaned == cleaned


def test_an_old_text_that_cannot_be_rebuilt_is_said() -> None:
    old = trace(MARKUP)
    broken = Trace(old.mail, old.subject, "0" * 32, old.removed)

    change = compare(MARKUP, broken)

    assert change is not None
    assert change.before is None
    assert "cannot be rebuilt" in diff_view(change).plain


def test_a_changed_subject_is_said() -> None:
    old = trace(PLAIN)

    change = compare(PLAIN, Trace(old.mail, fingerprint(PLAIN, "AW: Depot"), old.text, old.removed))

    assert change is not None
    assert "the subject is another one now: Depot" in diff_view(change).plain


def test_a_bundle_of_a_cleaning_that_is_gone_can_still_be_compared(
    bundle_path: Path, mails_file: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(bundle_path, tmp_path / "old"))
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"cleaning_version": "0"}))
    with pytest.raises(UnknownCleaningVersion):
        Bundle.open(old)

    comparison = Comparison.with_bundle(old)

    assert list(comparison.changes(mails_file)) == []
    assert "cleaning version 0 in the bundle" in next(summary(comparison))


def test_errors_name_what_is_missing(bundle_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "1", "body": "eine ganz andere Mail"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"found none of the \d+ .*that it has a trace of"):
        list(Comparison.with_bundle(bundle_path).changes(other))

    changed = Path(shutil.copytree(bundle_path, tmp_path / "changed"))
    (changed / FILE).write_bytes(b"x")
    with pytest.raises(BundleChecksumMismatch, match=FILE):
        Comparison.with_bundle(changed)

    manifest = json.loads((changed / "manifest.json").read_text())
    del manifest["files"][FILE]
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleFileMissing, match=rf"lacks '{FILE}'"):
        Comparison.with_bundle(changed)
