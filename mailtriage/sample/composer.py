"""Writes one mail about one triple of labels: which sentences, in which order, by whom, in answer to what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from mailtriage.sample.correspondence import HOUSE_ADDRESS, house_reply, sign_off
from mailtriage.sample.dice import Dice, Weighted
from mailtriage.sample.facts import Facts
from mailtriage.sample.grammar import Patterns, Teller
from mailtriage.sample.habits import Habits
from mailtriage.sample.letter import Earlier, Letter
from mailtriage.sample.library import LanguageGrammar, TopicGrammar, grammar, people_lists, triples
from mailtriage.sample.people import People, Person

_INTENTS = Weighted(("question", "request", "complaint", "follow_up"), (35, 35, 14, 16))
_LENGTHS = Weighted(("terse", "short", "normal", "long", "very_long"), (9, 27, 44, 17, 3))
# details, sentences about something else: lowest and highest number
_SENTENCES = {"short": (0, 1, 0, 1), "normal": (1, 2, 1, 3), "long": (2, 4, 2, 5), "very_long": (3, 5, 6, 11)}
_SPACES = re.compile(r" {2,}")
_BEFORE_MARK = re.compile(r" +([,.?!;])")
_FUNCTION_WORDS = frozenset(
    "Ich Mein Meine Meinen Meinem Können Könnten Mir Mich Bitte Wann Warum Wie Wo Was Wer Wissen Ist Sind Hat Kann Können Würden "
    "Teilen Seien Darf Wäre Gerne Hiermit Nach Aus Zu Zur Zum Mit Falls Die Der Das Den Dem Bei Am Seit Sie Es Dies Leider Noch "
    "Trotz Ohne Von Für Auf Laut Drei Nur Statt Obwohl Andere Anbei Wir Gibt Läuft Welche Muss Reicht Liegt Beim Im Unbekannte "
    "Erst Dort Seine In Anbei Haben Welches Trotz Bekomme Verteilt Neue Gültig Damals Damit Andere Wohin".split()
)


class Composer:
    """Writes letters. `write` is a pure function of its arguments: the dice carry all chance."""

    def __init__(self) -> None:
        self._people = People(people_lists())
        self._lists: dict[tuple[str, str, str], dict[str, Patterns]] = {}

    def write(
        self, dice: Dice, language: str, labels: tuple[str, str, str], received_at: datetime, custodian: str | None
    ) -> Letter:
        """A letter in `language` about (line of business, queue, topic)."""
        writer = self._people.person(dice, language, business=dice.chance(0.16))
        speech = _Speech(self, dice, language, labels, received_at, writer, custodian)
        letter = speech.letter()
        if dice.chance(0.045):
            return speech.forward(letter)
        if dice.chance(0.3):
            speech.add_thread(letter)
        return letter

    def lists(self, language: str, line: str, topic: str) -> dict[str, Patterns]:
        """Slots for a line and a topic, among them what other topics are called (`other_about`)."""
        key = (language, line, topic)
        if key not in self._lists:
            spoken = grammar(language)
            others = [content.about for name, content in spoken.topics.items() if name != topic]
            self._lists[key] = {
                **spoken.lists(line),
                "about": spoken.topics[topic].about,
                "other_about": sum(others, ()),
            }
        return self._lists[key]

    @property
    def people(self) -> People:
        return self._people


class _Speech:
    """One writer, one request."""

    def __init__(
        self,
        composer: Composer,
        dice: Dice,
        language: str,
        labels: tuple[str, str, str],
        received_at: datetime,
        writer: Person,
        custodian: str | None,
    ) -> None:
        self.dice = dice
        self.language = language
        self.line, self.queue, self.topic = labels
        self.received_at = received_at
        self.writer = writer
        self.habits = Habits.draw(dice, language)
        self._composer = composer
        self._spoken: LanguageGrammar = grammar(language)
        self._content: TopicGrammar = self._spoken.topics[self.topic]
        self._teller = self._new_teller(received_at, self.topic, custodian)

    def letter(self) -> Letter:
        dice = self.dice
        length = _LENGTHS.draw(dice)
        if self.queue == "complaints" and length in ("terse", "short"):
            length = "normal"
        core = self._say(self._spoken.phrases["terse"]) if length == "terse" else self._core()
        sentences = [core] if length == "terse" else self._sentences(core, length)
        paragraphs = self._paragraphs(sentences, length)
        if length not in ("terse", "short") and dice.chance(0.15):
            paragraphs.append(self._second_request())
        signed = sign_off(dice, self.language, self.writer, terse=length == "terse", line=self.line)
        letter = Letter(
            subject=self._subject(core, length), greeting=signed.greeting, paragraphs=paragraphs, core=core,
            closing=signed.closing, signature=signed.signature, dashes=signed.dashes, legal=signed.legal,
            legal_last=dice.chance(0.2), footer=signed.footer,
        )  # fmt: skip
        if length not in ("terse", "short") and dice.chance(0.07):
            letter.postscript = dice.pick(("PS: ", "P.S. ", "PS ", "P.S.: ")) + self._say("postscript")
        return self._in_own_hand(letter)

    def forward(self, letter: Letter) -> Letter:
        """The letter as the text that somebody passes on with a line of his own."""
        dice = self.dice
        sender = self.writer if dice.chance(0.4) else self._composer.people.person(dice, self.language)
        original = Earlier(
            sender.name, sender.email, self.writer.name, self._before(1, 60), letter.subject, letter.as_paragraphs()
        )
        signed = sign_off(dice, self.language, self.writer, terse=False, line=self.line)
        return replace(
            letter,
            subject=dice.pick(("WG: ", "Fwd: ", "FW: ", "Wg: ")) + letter.subject,
            greeting=signed.greeting,
            paragraphs=[self._say("forward_note")],
            postscript="",
            forwarded=[original],
        )

    def add_thread(self, letter: Letter) -> None:
        """Quote one to four earlier messages, newest first; the house and the client take turns."""
        dice = self.dice
        subject = letter.subject or self._say("terse_subject")
        count = dice.pick((1, 1, 1, 2, 2, 3, 4))
        sent_at = self._before(1, 12)
        for turn in range(count):
            letter.earlier.append(
                self._house_mail(sent_at, subject) if turn % 2 == 0 else self._own_mail(sent_at, subject)
            )
            sent_at -= timedelta(minutes=dice.between(90, 9000))
        prefixes = ("AW: ", "Re: ", "RE: ", "Re: Re: ", "AW: AW: ", "Aw: ", "Antwort: ")
        letter.subject = dice.pick(prefixes) + self._ticket() + subject

    def _house_mail(self, sent_at: datetime, subject: str) -> Earlier:
        teller = self._new_teller(sent_at, self._earlier_topic(), None)
        lines = [self._clean(teller.tell("house_reply")) for _ in range(self.dice.between(1, 3))]
        paragraphs = house_reply(self.dice, self.language, self.writer, lines, teller.tell("agent"))
        return Earlier(teller.tell("house"), HOUSE_ADDRESS, self.writer.email, sent_at, subject, paragraphs)

    def _own_mail(self, sent_at: datetime, subject: str) -> Earlier:
        topic = self._earlier_topic()
        teller = self._new_teller(sent_at, topic, None)
        group = self.dice.pick([self._spoken.topics[topic].groups[intent] for intent in ("question", "request")])
        body = self._clean(teller.fill(self.dice.pick(group)))
        signed = sign_off(self.dice, self.language, self.writer, terse=False, line=self.line)
        paragraphs = [signed.greeting, self.habits.apply(body, self.dice), "\n".join(signed.closing)]
        return Earlier(
            self.writer.name, self.writer.email, HOUSE_ADDRESS, sent_at, subject, [part for part in paragraphs if part]
        )

    def _earlier_topic(self) -> str:
        """What the quoted messages are about: mostly the same, often something that was settled long ago."""
        return self.topic if self.dice.chance(0.55) else self.dice.pick(tuple(self._spoken.topics))

    def _core(self) -> str:
        groups = self._content.groups
        if self.queue in groups and self.dice.chance(0.9):
            return self._say(groups[self.queue])
        if self.queue == "complaints" and self.dice.chance(0.8):
            return self._say(groups["complaint"])
        return self._say(groups[_INTENTS.draw(self.dice)])

    def _sentences(self, core: str, length: str) -> list[str]:
        dice = self.dice
        least_details, most_details, least_context, most_context = _SENTENCES[length]
        details = self._several(self._content.detail, dice.between(least_details, most_details))
        context = []
        for _ in range(dice.between(least_context, most_context)):
            context.append(self._say("line_context" if dice.chance(0.3) else "context"))
        if self.queue == "complaints":
            context += self._several(self._spoken.phrases["formal_complaint"], dice.between(1, 3))
        elif dice.chance(0.12):
            context.append(self._say("annoyed"))
        before = context[: dice.between(0, min(2, len(context)))] if dice.chance(0.45) else []
        after = [sentence for sentence in details + context if sentence not in before]
        sentences = [*before, core, *after]
        if dice.chance(0.42):
            sentences.insert(
                dice.between(0, len(sentences)) if dice.chance(0.3) else len(sentences), self._say("number_line")
            )
        if dice.chance(0.7):
            sentences.append(self._say("ending"))
        return list(dict.fromkeys(sentences))

    def _paragraphs(self, sentences: Sequence[str], length: str) -> list[str]:
        most = 99 if length in ("terse", "short") or self.dice.chance(0.2) else self.dice.pick((1, 2, 3, 3, 4))
        paragraphs: list[str] = []
        rest = list(sentences)
        while rest:
            count = self.dice.between(1, most) if most < 99 else 99
            paragraphs.append(" ".join(rest[:count]))
            rest = rest[count:]
        return paragraphs

    def _second_request(self) -> str:
        dice = self.dice
        topic = dice.pick([topic for (line, _, topic), _ in triples() if line == self.line and topic != self.topic])
        core = self._clean(self._teller.fill(dice.pick(self._spoken.topics[topic].groups[_INTENTS.draw(dice)])))
        return f"{self._say('second_request')}: {core}"

    def _subject(self, core: str, length: str) -> str:
        dice = self.dice
        kind = dice.random()
        if length == "terse" and kind < 0.4:
            kind = 0.5
        if kind < 0.07:
            return ""
        if self.queue == "complaints" and kind < 0.5:
            return self._say("formal_subject")
        if kind < 0.45:
            subject = self._say(self._content.subjects)
        elif kind < 0.95:
            subject = self._say("terse_subject")
        else:
            subject = " ".join(core.split()[: dice.between(3, 7)])
        return self._ticket() + subject if dice.chance(0.04) else subject

    def _ticket(self) -> str:
        if not self.dice.chance(0.25):
            return ""
        number = self._teller.tell("case_no")
        return self.dice.pick(
            (f"[{number}] ", f"[Ticket {number}] ", f"Vorgang {number}: ", f"[EXTERN] [{number}] ", "[EXTERN] ")
        )

    def _in_own_hand(self, letter: Letter) -> Letter:
        """Apply the writer's habits to what the writer typed."""
        dice, habits = self.dice, self.habits
        letter.paragraphs = [
            habits.apply(self._after_comma(text, letter, place), dice) for place, text in enumerate(letter.paragraphs)
        ]
        letter.core = habits.apply(letter.core, dice) if habits.typos == 0 else letter.core
        letter.greeting, letter.subject = (habits.apply(text, dice) for text in (letter.greeting, letter.subject))
        letter.postscript = habits.apply(letter.postscript, dice)
        letter.closing = [habits.apply(line, dice) for line in letter.closing]
        return letter

    def _after_comma(self, text: str, letter: Letter, place: int) -> str:
        """German goes on in lower case after the comma of the greeting."""
        if place or self.language != "de" or not letter.greeting.endswith(","):
            return text
        first = text.split(" ", 1)[0]
        return text[0].lower() + text[1:] if first in _FUNCTION_WORDS and self.dice.chance(0.85) else text

    def _several(self, patterns: Patterns, count: int) -> list[str]:
        said = [self._say(patterns) for _ in range(count)]
        return list(dict.fromkeys(said))

    def _say(self, what: str | Patterns) -> str:
        text = self._teller.tell(what) if isinstance(what, str) else self._teller.fill(self.dice.pick(what))
        return self._clean(text)

    @staticmethod
    def _clean(text: str) -> str:
        return _BEFORE_MARK.sub(r"\1", _SPACES.sub(" ", text)).strip()

    def _before(self, least_days: int, most_days: int) -> datetime:
        return self.received_at - timedelta(minutes=self.dice.between(least_days * 1440, most_days * 1440))

    def _new_teller(self, at: datetime, topic: str, custodian: str | None) -> Teller:
        dice, language, people = self.dice, self.language, self._composer.people
        told = {"own_name": self.writer.name, "own_last": self.writer.last}
        if custodian is not None:
            told["custodian"] = custodian
        composed = {
            "any_name": lambda: people.name(dice, language),
            "new_last": lambda: people.last(dice, language),
            "new_street": lambda: people.street(dice),
            "old_street": lambda: people.street(dice),
            "new_town": lambda: people.town(dice),
            "quoted_about": lambda: _their(teller.tell("about"), language),
        }
        facts: Mapping[str, object] = {**Facts(dice, language, at).providers(), **composed}
        teller = Teller(dice, self._composer.lists(language, self.line, topic), self._spoken.remembered, facts, told)  # type: ignore[arg-type]
        return teller


_POSSESSIVES = {
    "de": {"meiner ": "Ihrer ", "meinem ": "Ihrem ", "meinen ": "Ihren ", "meines ": "Ihres "},
    "en": {"my ": "your "},
}


def _their(phrase: str, language: str) -> str:
    """`meiner Order` as the house says it: `Ihrer Order`."""
    for mine, yours in _POSSESSIVES[language].items():
        phrase = phrase.replace(mine, yours)
    return phrase
