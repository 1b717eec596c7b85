"""What the cleaning of now makes of a bundle's training mails, against what the model was trained on."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from mailtriage.bundle import read_part
from mailtriage.cleaning import CLEANING_VERSION, Cleaned, Removed, clean
from mailtriage.cleaning_rules.edits import apply_edits
from mailtriage.cleaning_trace import FILE, Trace, fingerprint, read_traces
from mailtriage.errors import BundleError, BundleFileMissing, DataError
from mailtriage.mail import Email
from mailtriage.readers import Rejected, read_mails

Blame = tuple[str, str]  # kind and rule
_WORD = re.compile(r"\S*\w\S*")


@dataclass(frozen=True)
class Change:
    """A mail that comes out differently.

    `before` is the text that the model was trained on, `None` where it cannot be rebuilt. `lost` are words that are cut
    now, by the rule that does so; `won` are words that stay now, by the rule that cut them.
    """

    mail: Email
    cleaned: Cleaned
    before: str | None
    subject_changed: bool
    lost: Counter[Blame]
    won: Counter[Blame]


@dataclass
class Comparison:
    """The bundle's traces, and the sums of a comparison; `changes` fills the sums."""

    version: str  # of the cleaning that the bundle was trained with
    traces: dict[str, Trace]
    compared: int = 0
    changed: int = 0
    not_rebuilt: int = 0
    lost: Counter[Blame] = field(default_factory=Counter)
    won: Counter[Blame] = field(default_factory=Counter)

    @classmethod
    def with_bundle(cls, bundle: Path) -> Comparison:
        """Read a bundle's traces; its cleaning may be one that this code does not have any more.

        Raises:
            BundleError: there is no bundle, it is damaged, or it was trained without a trace of its mails.
        """
        try:
            manifest, content = read_part(bundle, FILE)
            traces = {trace.mail: trace for trace in read_traces(content)}
        except BundleFileMissing as error:
            raise BundleFileMissing(
                f"{error}, so nothing says what its cleaning made of mails: compare a bundle that was trained later"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise BundleError(f"expected '{FILE}' of {bundle} to hold traces of mails, found something else") from None
        return cls(manifest["cleaning_version"], traces)

    def changes(self, mails: Path) -> Iterator[Change]:
        """Clean those mails of a file or folder that the bundle has a trace of; yields those that come out differently.

        Raises:
            DataError: the file cannot be read, or has none of these mails.
        """
        missing = dict(self.traces)
        for mail in read_mails(mails):
            trace = None if isinstance(mail, Rejected) else missing.pop(fingerprint(mail), None)
            if trace is not None:
                assert not isinstance(mail, Rejected)
                change = compare(mail, trace)
                self._count(change)
                if change is not None:
                    yield change
            if not missing:
                break
        if not self.compared:
            raise DataError(
                f"expected mails that the bundle was trained on in {mails}, found none of the {len(self.traces):,} "
                "that it has a trace of: give the file that it was trained with, unchanged"
            )

    def _count(self, change: Change | None) -> None:
        self.compared += 1
        if change is not None:
            self.changed += 1
            self.not_rebuilt += change.before is None
            self.lost += change.lost
            self.won += change.won


def compare(mail: Email, trace: Trace) -> Change | None:
    """What has changed since the trace was made, or `None` where nothing has."""
    cleaned = clean(mail.body, mail.subject)
    subject_changed = fingerprint(mail, cleaned.subject) != trace.subject
    if fingerprint(mail, cleaned.text) == trace.text:
        return Change(mail, cleaned, cleaned.text, True, Counter(), Counter()) if subject_changed else None
    lost = _missing_words(mail.body, trace.removed, cleaned.removed)
    won = _missing_words(mail.body, cleaned.removed, trace.removed)
    return Change(mail, cleaned, trace.rebuild(mail), subject_changed, lost, won)


def _missing_words(body: str, one: Sequence[Removed], other: Sequence[Removed]) -> Counter[Blame]:
    """Words that stay after the edits `one` and do not after the edits `other`, by what takes them away there."""
    text, origins = apply_edits(body, one), _origins(body, one)
    kept = set(_origins(body, other))
    starts = [span.start for span in other]
    missing: Counter[Blame] = Counter()
    for word in _WORD.finditer(text):
        if kept.isdisjoint(origins[word.start() : word.end()]):
            span = other[max(0, bisect_right(starts, origins[word.start()]) - 1)]
            missing[span.kind, span.rule] += 1
    return missing


def _origins(body: str, edits: Sequence[Removed]) -> list[int]:
    """For each character of the edited text the offset in the body that it comes from."""
    origins: list[int] = []
    position = 0
    for edit in edits:
        origins.extend(range(position, edit.start))
        origins.extend([edit.start] * len(edit.replacement))
        position = edit.end
    origins.extend(range(position, len(body)))
    return origins


def diff_view(change: Change) -> Text:
    """The lines of a mail that were in the old text in red, those that are in the new one in green, for a terminal."""
    text = Text()
    if change.subject_changed:
        text.append(f"the subject is another one now: {change.cleaned.subject}\n", style="bold")
    for title, words in (("lost", change.lost), ("won", change.won)):
        if words:
            text.append(f"{words.total():,} words {title}: {blames(words)}\n", style="bold")
    if change.before is None:
        text.append("its old text cannot be rebuilt; this is what is cut now, by rule:\n", style="bold")
        text.append("  ".join(sorted({f"{span.kind}/{span.rule}" for span in change.cleaned.removed})) + "\n")
        return text
    before, after = (part.split("\n") for part in (change.before, change.cleaned.text))
    for line in list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]:
        text.append(line.translate(_CONTROLS) + "\n", style=_STYLES.get(line[0], ""))
    return text


def summary(comparison: Comparison) -> Iterator[str]:
    """Lines that sum up a comparison whose changes were all read."""
    found, kept = comparison.compared, len(comparison.traces)
    yield f"cleaning version {comparison.version} in the bundle, {CLEANING_VERSION} now"
    yield (
        f"{found:,} of the {kept:,} mails that the bundle has a trace of: {found - comparison.changed:,} unchanged, "
        f"{comparison.changed:,} changed"
    )
    for title, words in (("lost: cut now", comparison.lost), ("won: kept now", comparison.won)):
        yield f"{words.total():,} words {title}" + (f" ({blames(words)})" if words else "")
    if comparison.not_rebuilt:
        yield f"{comparison.not_rebuilt:,} old texts could not be rebuilt; their words are counted all the same"


def blames(words: Counter[Blame]) -> str:
    """`signature/closing 5, quote/attribution 2`, the most first."""
    return ", ".join(f"{kind}/{rule} {count:,}" for (kind, rule), count in words.most_common())


_STYLES = {"-": "red", "+": "green", "@": "cyan"}
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "\u2421"}
