"""Writes one mail about one combination of labels: which sentences, in which order, by whom, in answer to what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from mailtriage.sample.correspondence import HOUSE, HOUSE_ADDRESS, house_reply, sign_off
from mailtriage.sample.dice import Dice, Weighted
from mailtriage.sample.facts import Facts
from mailtriage.sample.grammar import Patterns, Teller
from mailtriage.sample.habits import Habits
from mailtriage.sample.letter import Earlier, Letter
from mailtriage.sample.library import LanguageGrammar, grammar, people_lists, triples
from mailtriage.sample.people import People, Person

Labels = tuple[str, str, str]

BUSINESS_SHARE = 0.16
FORWARD_SHARE = 0.045
THREAD_SHARE = 0.3
_INTENTS = Weighted(("question", "request", "complaint", "follow_up"), (35, 35, 14, 16))
_LENGTHS = Weighted(("terse", "short", "normal", "long", "very_long"), (9, 27, 44, 17, 3))
# by length: fewest and most details, fewest and most sentences about something else
_SENTENCES = {"short": (0, 1, 0, 1), "normal": (1, 2, 1, 3), "long": (2, 4, 2, 5), "very_long": (3, 5, 6, 11)}
_PREFIXES = ("AW: ", "Re: ", "RE: ", "Re: Re: ", "AW: AW: ", "Aw: ", "Antwort: ")

_SPACES = re.compile(r" {2,}")
_BEFORE_MARK = re.compile(r" +([,.?])")
_DOUBLE_STOP = re.compile(r"\.\.(?!\.)")
_QUESTION = re.compile(r"(Können|Könnten|Würden|Darf|Wäre|Ist es|Wissen|Could|Can|Would|Do|How do)\b")
_POSSESSIVES = {
    "de": {"meiner ": "Ihrer ", "meinem ": "Ihrem ", "meinen ": "Ihren ", "meines ": "Ihres "},
    "en": {"my ": "your "},
}
# Words that open a German sentence and are small in its middle; any other may be a noun.
_SMALL_WORDS = frozenset(
    """Aktuell Am An Anbei Andere Auf Aus Ausgerechnet Außerdem Bei Beim Betrifft Bitte Damals Darf Das Dem Den Der Die
    Dies Drei Ein Eine Einer Einen Erst Es Falls Fallen Für Gerne Gibt Gültig Haben Hat Hiermit Ich Im In Ist Kann
    Können Könnten Laut Leider Liegt Läuft Mein Meine Meinem Meinen Mich Mir Mit Muss Müssen Nach Neben Neue Noch Nur
    Obwohl Ohne Passt Reicht Seien Seit Sind So Sollte Statt Teilen Trotz Unbekannte Verteilt Von Vor Wann Warum
    Was Welche Welches Wenn Wer Wie Wir Wird Wissen Wo Wofür Wohin Wurde Wäre Würden Zu Zum Zur""".split()
)


class Composer:
    """Writes letters. What a letter says depends on the arguments of `write` alone: the dice carry all chance."""

    def __init__(self) -> None:
        self.people = People(people_lists())
        self._lists: dict[tuple[str, str, str], dict[str, Patterns]] = {}
        self._topics_of: dict[str, list[str]] = {}
        for (line, _, topic), _ in triples():
            self._topics_of.setdefault(line, []).append(topic)

    def write(self, dice: Dice, language: str, labels: Labels, received_at: datetime, custodian: str) -> Letter:
        """A letter in `language` about (line of business, queue, topic)."""
        writer = self.people.person(dice, language, business=dice.chance(BUSINESS_SHARE))
        speech = _Speech(self, dice, language, labels, received_at, writer, custodian)
        letter = speech.letter()
        kind = dice.random()
        if kind < FORWARD_SHARE:
            return speech.forward(letter)
        if kind < FORWARD_SHARE + THREAD_SHARE:
            speech.add_thread(letter)
        return letter

    def lists(self, language: str, line: str, topic: str) -> dict[str, Patterns]:
        """Slots for a line and a topic, among them what other topics are called (`other_about`)."""
        key = (language, line, topic)
        if key not in self._lists:
            spoken = grammar(language)
            others = [content.about for name, content in spoken.topics.items() if name != topic]
            own = {"about": spoken.topics[topic].about, "other_about": sum(others, ())}
            self._lists[key] = spoken.lists(line) | own
        return self._lists[key]

    def other_topic(self, dice: Dice, line: str, topic: str) -> str:
        """Another topic that clients of this line write about, often ones more often."""
        return dice.pick([other for other in self._topics_of[line] if other != topic])


class _Speech:
    """One writer with one request."""

    def __init__(
        self,
        composer: Composer,
        dice: Dice,
        language: str,
        labels: Labels,
        received_at: datetime,
        writer: Person,
        custodian: str,
    ) -> None:
        self._composer = composer
        self._dice = dice
        self._language = language
        self._line, self._queue, self._topic = labels
        self._received_at = received_at
        self._writer = writer
        self._custodian = custodian
        self._habits = Habits.draw(dice, language)
        self._spoken: LanguageGrammar = grammar(language)
        self._content = self._spoken.topics[self._topic]
        self._teller = self._new_teller(received_at, self._topic)

    def letter(self) -> Letter:
        """The mail itself, without anything quoted."""
        dice = self._dice
        length = _LENGTHS.draw(dice)
        if self._queue == "complaints" and length in ("terse", "short"):
            length = "normal"
        terse = length == "terse"
        core = self._say("terse") if terse else self._core()
        paragraphs = self._paragraphs([core] if terse else self._sentences(core, length), length)
        if length not in ("terse", "short") and dice.chance(0.15):
            paragraphs.append(self._second_request())
        subject = self._subject(core, terse)
        if terse and subject and dice.chance(0.12):
            # The request stands in the subject alone.
            subject, paragraphs = core, [self._say("see_subject")]
        signed = sign_off(dice, self._language, self._writer, terse=terse)
        postscript = self._say("postscript") if length not in ("terse", "short") and dice.chance(0.07) else ""
        return self._in_own_hand(
            Letter(
                subject=subject,
                greeting=signed.greeting,
                paragraphs=paragraphs,
                closing=signed.closing,
                postscript=dice.pick(("PS: ", "P.S. ", "PS ", "P.S.: ")) + postscript if postscript else "",
                signature=signed.signature,
                dashes=signed.dashes,
                legal=signed.legal,
                legal_last=dice.chance(0.2),
                footer=signed.footer,
            )
        )

    def forward(self, letter: Letter) -> Letter:
        """The letter as the text that its writer, or somebody for the writer, passes on with a line above it."""
        dice, writer = self._dice, self._writer
        helper = writer if dice.chance(0.4) else self._composer.people.person(dice, self._language, dice.chance(0.4))
        original = Earlier(
            name=writer.name,
            address=writer.email,
            to=HOUSE_ADDRESS if helper is writer else helper.email,
            sent_at=self._before(0, 2),
            subject=letter.subject,
            paragraphs=letter.as_paragraphs(),
        )
        signed = sign_off(dice, self._language, helper, terse=True)
        return Letter(
            subject=dice.pick(("WG: ", "Fwd: ", "FW: ", "Wg: ", "Fwd: Fwd: ")) + letter.subject,
            greeting=signed.greeting,
            paragraphs=[self._say("forward_note")] if dice.chance(0.85) else [],
            closing=signed.closing,
            signature=signed.signature,
            dashes=signed.dashes,
            legal=signed.legal,
            footer=signed.footer,
            forwarded=[original],
        )

    def add_thread(self, letter: Letter) -> None:
        """Quote one to four earlier messages, newest first; the house and the client take turns."""
        dice = self._dice
        subject = letter.subject or self._say("terse_subject")
        sent_at = self._before(1, 12)
        for turn in range(dice.pick((1, 1, 1, 2, 2, 3, 4))):
            sent_at = sent_at.replace(hour=dice.between(8, 18) if turn % 2 == 0 else dice.between(6, 22))
            quoted = self._house_mail(sent_at, subject) if turn % 2 == 0 else self._own_mail(sent_at, subject)
            letter.earlier.append(quoted)
            sent_at -= timedelta(minutes=dice.between(1440, 9000))
        if letter.subject:
            letter.subject = dice.pick(_PREFIXES) + self._tag(0.25) + letter.subject

    def _house_mail(self, sent_at: datetime, subject: str) -> Earlier:
        teller = self._new_teller(sent_at, self._earlier_topic())
        lines = list(dict.fromkeys(_tidy(teller.tell("house_reply")) for _ in range(self._dice.between(1, 3))))
        paragraphs = house_reply(self._dice, self._language, self._writer, lines, teller.tell("agent"))
        return Earlier(HOUSE, HOUSE_ADDRESS, self._writer.email, sent_at, subject, paragraphs)

    def _own_mail(self, sent_at: datetime, subject: str) -> Earlier:
        topic = self._earlier_topic()
        teller = self._new_teller(sent_at, topic)
        groups = self._spoken.topics[topic].groups
        sentence = _tidy(teller.fill(self._dice.pick(groups[self._dice.pick(("question", "request"))])))
        signed = sign_off(self._dice, self._language, self._writer)
        body = self._habits.apply(self._after_greeting(sentence, signed.greeting), self._dice)
        paragraphs = [part for part in (signed.greeting, body, "\n".join(signed.closing)) if part]
        return Earlier(self._writer.name, self._writer.email, HOUSE_ADDRESS, sent_at, subject, paragraphs)

    def _earlier_topic(self) -> str:
        """What a quoted message is about: mostly the same, often something that was settled long ago."""
        return self._topic if self._dice.chance(0.55) else self._dice.pick(tuple(self._spoken.topics))

    def _core(self) -> str:
        groups = self._content.groups
        if self._queue in groups and self._dice.chance(0.9):
            return self._say(groups[self._queue])
        if self._queue == "complaints" and self._dice.chance(0.8):
            return self._say(groups["complaint"])
        return self._say(groups[_INTENTS.draw(self._dice)])

    def _sentences(self, core: str, length: str) -> list[str]:
        """The sentences of a mail in order, the core among them."""
        dice, say = self._dice, self._say
        least_details, most_details, least_context, most_context = _SENTENCES[length]
        details = self._several(self._content.detail, dice.between(least_details, most_details))
        context = self._several(self._spoken.phrases["context"], dice.between(least_context, most_context))
        before = context[: dice.between(1, 2)] if dice.chance(0.4) else []
        after = details + context[len(before) :]
        if dice.chance(0.35):
            before.insert(0, say("matter"))
        if dice.chance(0.6 if length != "short" else 0.3):
            after.insert(dice.between(0, len(after)), say("line_context"))
        if self._queue == "complaints":
            after += self._several(self._spoken.phrases["formal_complaint"], dice.between(1, 3))
        elif dice.chance(0.12):
            after.append(say("annoyed"))
        if dice.chance(0.42):
            after.append(say("number_line"))
        if dice.chance(0.7):
            after.append(say("ending"))
        if dice.chance(0.03):
            after.append(self._in_other_language())
        return list(dict.fromkeys((*before, core, *after)))

    def _paragraphs(self, sentences: Sequence[str], length: str) -> list[str]:
        """Group sentences as people do: all in one block, one each, or a few at a time."""
        dice = self._dice
        most = 99 if length in ("terse", "short") or dice.chance(0.2) else dice.pick((1, 2, 3, 3, 4))
        paragraphs: list[str] = []
        rest = list(sentences)
        while rest:
            count = dice.between(1, most) if most < 99 else 99
            paragraphs.append(_join(rest[:count]))
            rest = rest[count:]
        return paragraphs

    def _second_request(self) -> str:
        topic = self._composer.other_topic(self._dice, self._line, self._topic)
        groups = self._spoken.topics[topic].groups
        return f"{self._say('second_request')}: {self._say(groups[_INTENTS.draw(self._dice)])}"

    def _in_other_language(self) -> str:
        """A sentence of somebody who writes in two languages."""
        other = "en" if self._language == "de" else "de"
        lists = self._composer.lists(other, self._line, self._topic)
        facts = Facts(self._dice, other, self._received_at)
        return _tidy(Teller(self._dice, lists, (), facts.draw).tell("ending"))

    def _subject(self, core: str, terse: bool) -> str:
        dice = self._dice
        kind = dice.between(45, 99) if terse and dice.chance(0.4) else dice.between(0, 99)
        if kind < 7:
            return ""
        if kind < 50 and self._queue == "complaints":
            return self._say("formal_subject")
        if kind < 45:
            subject = self._say(self._content.subjects)
        elif kind < 95:
            subject = self._say("terse_subject")
        else:
            subject = " ".join(core.split()[: dice.between(3, 7)])
        return subject

    def _tag(self, probability: float) -> str:
        """What a ticket system or mail gateway puts before a subject."""
        if not self._dice.chance(probability):
            return ""
        number = self._teller.tell("case_no")
        tags = (f"[{number}] ", f"[Ticket {number}] ", f"Vorgang {number}: ", f"[EXTERN] [{number}] ", "[EXTERN] ")
        return self._dice.pick(tags)

    def _in_own_hand(self, letter: Letter) -> Letter:
        """Apply the writer's habits to what the writer typed."""
        dice, habits = self._dice, self._habits
        if letter.paragraphs:
            letter.paragraphs[0] = self._after_greeting(letter.paragraphs[0], letter.greeting)
        letter.paragraphs = [habits.apply(text, dice) for text in letter.paragraphs]
        letter.closing = [habits.apply(line, dice) for line in letter.closing]
        letter.greeting = habits.apply(letter.greeting, dice)
        if letter.subject:
            letter.subject = self._tag(0.04) + habits.apply(letter.subject, dice)
        letter.postscript = habits.apply(letter.postscript, dice)
        return letter

    def _after_greeting(self, text: str, greeting: str) -> str:
        """German goes on in lower case after the comma of the greeting."""
        if self._language != "de" or not greeting.endswith(",") or self._dice.chance(0.15):
            return text
        return text[0].lower() + text[1:] if text.split(" ", 1)[0] in _SMALL_WORDS else text

    def _several(self, patterns: Patterns, count: int) -> list[str]:
        """Sentences of as many different patterns, in any order."""
        rest = list(patterns)
        return [self._say((rest.pop(self._dice.between(0, len(rest) - 1)),)) for _ in range(min(count, len(rest)))]

    def _say(self, what: str | Patterns) -> str:
        """A sentence of a slot, or one of these patterns, ready to print."""
        text = self._teller.tell(what) if isinstance(what, str) else self._teller.fill(self._dice.pick(what))
        text = _tidy(text)
        if text.endswith(".") and _QUESTION.match(text) and self._dice.chance(0.8):
            return text[:-1] + "?"
        return text

    def _before(self, least_days: int, most_days: int) -> datetime:
        return self._received_at - timedelta(minutes=self._dice.between(least_days * 1440, most_days * 1440))

    def _new_teller(self, at: datetime, topic: str) -> Teller:
        told = {"own_name": self._writer.name, "own_last": self._writer.last, "custodian": self._custodian}
        facts = Facts(self._dice, self._language, at)
        lists = self._composer.lists(self._language, self._line, topic)

        def fact(kind: str) -> str:
            return self._personal(kind, teller) or facts.draw(kind)

        teller = Teller(self._dice, lists, self._spoken.remembered, fact, told)
        return teller

    def _personal(self, kind: str, teller: Teller) -> str:
        """Facts about people, which `Facts` does not know; empty for any other."""
        dice, language, people = self._dice, self._language, self._composer.people
        match kind:
            case "any_name":
                return people.name(dice, language)
            case "new_last":
                return people.last(dice, language)
            case "new_street" | "old_street":
                return people.street(dice)
            case "new_town":
                return people.town(dice)
            case "quoted_about":
                return _theirs(teller.tell("about"), language)
        return ""


def _theirs(phrase: str, language: str) -> str:
    """`meiner Order` as the house says it: `Ihrer Order`."""
    for mine, yours in _POSSESSIVES[language].items():
        phrase = phrase.replace(mine, yours)
    return phrase


def _join(sentences: Sequence[str]) -> str:
    """One paragraph; a line such as `Kd.-Nr. 123`, which is no sentence, stands alone."""
    text = ""
    for sentence in sentences:
        text += sentence + (" " if sentence[-1] in ".?!" else "\n")
    return text.strip()


def _tidy(text: str) -> str:
    """Take out what empty alternatives leave behind: double spaces, a space before a comma, two full stops."""
    if "  " in text:
        text = _SPACES.sub(" ", text)
    if " ," in text or " ." in text or " ?" in text:
        text = _BEFORE_MARK.sub(r"\1", text)
    return (_DOUBLE_STOP.sub(".", text) if ".." in text else text).strip()
