"""Reads the grammars that lie as YAML beside this file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from mailtriage.errors import DataError
from mailtriage.sample.facts import PROVIDERS
from mailtriage.sample.grammar import Patterns, check_slots, parse

INTENTS = ("question", "request", "complaint", "follow_up")
# Slots that the composer fills.
COMPOSED = frozenset(
    """about other_about quoted_about custodian own_name own_last any_name new_last new_street old_street
    new_town""".split()
)


@dataclass(frozen=True)
class TopicGrammar:
    """How mails about one topic speak. `groups` maps an intent, or a queue with words of its own, to sentences."""

    about: Patterns
    subjects: Patterns
    detail: Patterns
    groups: Mapping[str, Patterns]

    def all_patterns(self) -> Patterns:
        return sum((*self.groups.values(), self.about, self.subjects, self.detail), ())


@dataclass(frozen=True)
class LanguageGrammar:
    """Phrases of one language, the words of each line of business, and the topics."""

    phrases: Mapping[str, Patterns]
    remembered: frozenset[str]
    lines: Mapping[str, Mapping[str, Patterns]]
    topics: Mapping[str, TopicGrammar]

    def lists(self, line: str) -> dict[str, Patterns]:
        """Slots as a mail of this line of business fills them."""
        return {**self.phrases, **self.lines[line]}


@cache
def grammar(language: str) -> LanguageGrammar:
    """The grammar of a language, checked.

    Raises:
        DataError: a pattern that cannot be read, or a slot that nothing fills.
    """
    folder = files(__package__) / "grammars" / language
    phrases = _load(folder / "phrases.yaml")
    topics = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name not in ("phrases.yaml", "formulas.yaml"):
            topics.update({topic: _topic(content) for topic, content in _load(file).items()})
    result = LanguageGrammar(
        phrases=_lists(phrases["phrases"]),
        remembered=frozenset(phrases["remembered"]),
        lines={line: _lists(lists) for line, lists in phrases["lines"].items()},
        topics=topics,
    )
    _check(result, language)
    return result


@cache
def formulas(language: str) -> dict[str, Any]:
    """Greetings, closings and other formulas of a language."""
    return _load(files(__package__) / "grammars" / language / "formulas.yaml")


@cache
def people_lists() -> dict[str, Any]:
    """Names, places and firms."""
    return _load(files(__package__) / "grammars" / "people.yaml")


@cache
def mix() -> dict[str, Any]:
    """How often each label comes, and when."""
    return _load(files(__package__) / "grammars" / "mix.yaml")


def triples() -> Iterator[tuple[tuple[str, str, str], float]]:
    """Every (line of business, queue, topic) that is drawn, with its weight."""
    for line, queues in mix()["triples"].items():
        for queue, topics in queues.items():
            for topic, weight in topics.items():
                yield (line, queue, topic), float(weight)


def _topic(content: Mapping[str, Sequence[str]]) -> TopicGrammar:
    lists = _lists(content)
    return TopicGrammar(lists.pop("about"), lists.pop("subjects"), lists.pop("detail"), lists)


def _lists(content: Mapping[str, Sequence[str]]) -> dict[str, Patterns]:
    return {name: tuple(parse(str(text)) for text in texts) for name, texts in content.items()}


def _check(language: LanguageGrammar, name: str) -> None:
    known = PROVIDERS.keys() | COMPOSED | language.phrases.keys()
    for line, lists in language.lines.items():
        for slot, patterns in {**language.phrases, **lists}.items():
            check_slots(patterns, known | lists.keys(), f"the {name} slot '{slot}' of line {line}")
        for topic, content in language.topics.items():
            check_slots(content.all_patterns(), known | lists.keys(), f"the {name} topic '{topic}' in line {line}")


def _load(file: Traversable) -> dict[str, Any]:
    # The C loader is ten times as fast; PyYAML has it wherever libyaml was there when it was built.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise DataError(f"the sample grammar {file.name} is no YAML: {error}") from None
    return content
