"""From a cleaned mail to token ids: the same function trains and serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mailtriage.errors import BundleFileMissing

TokenIds = np.ndarray[Any, np.dtype[np.int32]]


def model_text(subject: str, text: str, custodian_bank: str | None) -> tuple[str, str]:
    """The two segments that the encoder reads: what is known about the mail, and what the client wrote."""
    header = subject if custodian_bank is None else f"{custodian_bank}: {subject}"
    return " ".join(header.split()), " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Word:
    """A word of what the encoder reads, the part of the mail that it is from, and the positions of its tokens."""

    text: str
    part: str
    tokens: slice


class MailTokenizer:
    """Turns mails into token ids with the encoder's own tokenizer.

    Args:
        path: a `tokenizer.json` (Hugging Face tokenizers).
        max_tokens: longer mails are cut at the end of the second segment, special tokens included.
    """

    def __init__(self, path: str | Path, max_tokens: int) -> None:
        if not Path(path).is_file():
            raise BundleFileMissing(f"expected the tokenizer at {path}, found no file")
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first")
        self._tokenizer.no_padding()

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @property
    def mask_id(self) -> int:
        """The token that stands for a hidden word: the mask of the pre-training, or the unknown token."""
        found = (self._tokenizer.token_to_id(name) for name in ("[MASK]", "<mask>", "[UNK]", "<unk>"))
        return next((int(number) for number in found if number is not None), 0)

    def encode_words(
        self, header: str, text: str, custodian_bank: str | None = None
    ) -> tuple[TokenIds, tuple[Word, ...]]:
        """Token ids as `encode` gives them for one mail, and its words between blanks, as far as they were not cut."""
        segments = _encodable(header), _encodable(text)
        bank = 0 if custodian_bank is None else len(" ".join(custodian_bank.split())) + 1
        encoding = self._tokenizer.encode(*segments)
        words: list[Word] = []
        last = None
        for token, (segment, (start, stop)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True)):
            if segment is None or start == stop:
                continue
            first = start + (segments[segment][start] == " ")  # some tokenizers count the blank before a word to it
            begin = segments[segment].rfind(" ", 0, first) + 1
            place = (segment, begin)
            if place == last:
                words[-1] = Word(words[-1].text, words[-1].part, slice(words[-1].tokens.start, token + 1))
                continue
            last = place
            part = "body" if segment else "custodian_bank" if begin < bank else "subject"
            words.append(Word(segments[segment][begin:].split(" ", 1)[0], part, slice(token, token + 1)))
        return np.asarray(encoding.ids, dtype=np.int32), tuple(words)

    def encode(self, segments: Sequence[tuple[str, str]]) -> list[TokenIds]:
        """Token ids of each pair of `model_text`, special tokens included, unpadded.

        Lone surrogates, which JSON may carry and UTF-8 may not, become the replacement character.
        """
        pairs = [(_encodable(header), _encodable(text)) for header, text in segments]
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in self._tokenizer.encode_batch_fast(pairs)]


def pad(
    input_ids: Sequence[TokenIds], pad_id: int = 0
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Stack token ids of different lengths: `(input_ids, attention_mask)`, both of shape (mails, longest)."""
    longest = max((len(ids) for ids in input_ids), default=0)
    ids = np.full((len(input_ids), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(input_ids):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
