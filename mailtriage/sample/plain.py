"""A letter as the plain text body of a mail."""

from __future__ import annotations

from dataclasses import replace
from textwrap import wrap

from mailtriage.sample.dice import Dice
from mailtriage.sample.letter import Earlier, Letter
from mailtriage.sample.quoting import FORWARDS, QUOTES, Style, named

INLINE_SHARE = 0.06


def plain_body(letter: Letter, dice: Dice, language: str) -> str:
    """The body with the quoting style, line width and line ends of one mail program."""
    width = 72 if dice.chance(0.12) else 0
    gap = "\n" if dice.chance(0.12) else "\n\n"
    blocks = [block for block in own_blocks(letter) if block]
    text = gap.join(_fold(block, width) for block in blocks)
    if letter.footer:
        text += "\n\n" + letter.footer if dice.chance(0.7) else "\n" + letter.footer
    if letter.legal and not letter.legal_last:
        text += "\n\n" + "\n\n".join(letter.legal)
    if letter.earlier and dice.chance(INLINE_SHARE):
        return _inline(letter, letter.earlier[0], language, dice)
    if letter.forwarded:
        text += "\n\n" + _stack(letter.forwarded, FORWARDS[language].draw(dice), width)
    if letter.earlier:
        text += dice.pick(("\n\n", "\n\n\n", "\n")) + _stack(letter.earlier, QUOTES[language].draw(dice), width)
    if letter.legal and letter.legal_last:
        text += "\n\n" + "\n\n".join(letter.legal)
    if dice.chance(0.06):
        text = text.replace("\n", "\r\n")
    return text


def _inline(letter: Letter, asked: Earlier, language: str, dice: Dice) -> str:
    """Answers that stand between the quoted lines of the message that asked."""
    style = named(QUOTES[language], "thunderbird" if language == "de" else "gmail_en")
    quoted = [_mark(paragraph) for paragraph in asked.paragraphs]
    answers = list(letter.paragraphs)
    blocks = ["\n".join(line for line in style.header(asked) if line), quoted[0]]
    for block in quoted[1:]:
        blocks.append(block)
        if answers and dice.chance(0.8):
            blocks.append(answers.pop(0))
    closing, postscript, signature = own_blocks(replace(letter, paragraphs=[]))[1:]
    return "\n\n".join(block for block in (letter.greeting, *blocks, *answers, closing, postscript, signature) if block)


def own_blocks(letter: Letter) -> list[str]:
    """What the writer wrote, block by block: greeting, paragraphs, closing, postscript, signature."""
    signature = "\n".join(letter.signature)
    if signature and letter.dashes:
        signature = "-- \n" + signature
    return [letter.greeting, *letter.paragraphs, "\n".join(letter.closing), letter.postscript, signature]


def _stack(mails: list[Earlier], style: Style, width: int) -> str:
    """Quoted messages, newest first; a marking style nests each below the one that answered it."""
    text = ""
    for mail in reversed(mails):
        header = style.header(mail)
        body = "\n\n".join(_fold(paragraph, width) for paragraph in mail.paragraphs)
        if text:
            body += "\n\n" + text
        if style.marked and style.header_marked:
            text = _mark("\n".join(header) + "\n" + body)
        elif style.marked:
            text = "\n".join(header) + "\n" + _mark(body)
        else:
            text = "\n".join(header) + "\n" + body
    return text


def _mark(text: str) -> str:
    return "\n".join((">" if line.startswith(">") else "> ") + line if line else ">" for line in text.split("\n"))


def _fold(block: str, width: int) -> str:
    if not width:
        return block
    return "\n".join(part for line in block.split("\n") for part in (wrap(line, width, break_long_words=False) or [""]))
