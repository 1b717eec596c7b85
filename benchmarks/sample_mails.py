"""Prints what the sample mails are like: speed, variety, shares of labels and mess, and how hard they are to sort.

    python benchmarks/sample_mails.py [--rows 20000] [--seed 7]

The figures of docs/sample-data.md come from here.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence

from mailtriage.cleaning import clean
from mailtriage.mail import Email
from mailtriage.sample import generate
from mailtriage.sample.generator import TASKS, Desk, Draft

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+|\n")
_MESS = {
    "HTML body": r"<html|<div|<font|<span",
    "quotes an earlier mail": r"(?m)^>|<blockquote|^(Von|From): |\"gmail_quote|top:solid #E1E1E1|\"quote\"|<hr>",
    "signature after '-- '": r"(?m)^-- ?\r?$|-- <br|>-- <",
    "impressum (HRA, HRB, PR)": r"\b(HR[AB]|PR) \d{5}",
    "telephone or virus scanner footer": r"gesendet|Gesendet (von|mit)|[Ss]ent (from|via)|Get Outlook|avast",
    "tracking pixel": r'width="1" height="1"',
    "damaged character set": r"Ã|\ufffd",
    "HTML entities for umlauts": r"&[aou]uml;",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    started = time.perf_counter()
    mails = list(generate(arguments.rows, arguments.seed))
    seconds = time.perf_counter() - started
    print(f"{arguments.rows} mails in {seconds:.1f} s, one process: {arguments.rows / seconds:,.0f} mails/s")
    desk = Desk()
    show_variety([desk.draft(number, arguments.seed) for number in range(arguments.rows)])
    show_mess(mails)
    show_labels(mails)
    show_difficulty(mails)


def show_variety(drafts: Sequence[Draft]) -> None:
    sentences = [own_sentences(draft) for draft in drafts]
    seen_in = Counter(sentence for own in sentences for sentence in set(own))
    longest = [max(own, key=len) for own in sentences if own]
    repeated = sum(seen_in[sentence] > 1 for sentence in longest) / len(longest)
    words = sorted(len(" ".join(draft.letter.paragraphs).split()) for draft in drafts)
    print(f"sentences of five words or more: {sum(map(len, sentences)):,}, distinct: {len(seen_in):,}")
    print(f"mails whose longest sentence stands in another mail, too: {repeated:.1%}")
    median, few = words[len(words) // 2], words[len(words) // 20]
    print(f"words that the writer wrote: median {median}, 5 % have {few} or fewer, most {words[-1]}")
    print(f"German: {sum(draft.language == 'de' for draft in drafts) / len(drafts):.1%}")


def own_sentences(draft: Draft) -> list[str]:
    """The client's sentences of at least five words; of a forward those of the text that is passed on."""
    letter = draft.letter
    paragraphs = letter.forwarded[0].paragraphs if letter.forwarded else letter.paragraphs
    sentences = (part for paragraph in paragraphs for part in _SENTENCE_END.split(paragraph))
    return [sentence for sentence in sentences if len(sentence.split()) >= 5]


def show_mess(mails: Sequence[Email]) -> None:
    print(f"empty subject: {sum(not mail.subject for mail in mails) / len(mails):.1%}")
    for name, pattern in _MESS.items():
        print(f"{name}: {sum(re.search(pattern, mail.body) is not None for mail in mails) / len(mails):.1%}")


def show_labels(mails: Sequence[Email]) -> None:
    for task in TASKS:
        counts = Counter(str(mail.labels[task]) for mail in mails)
        print(f"{task}: " + ", ".join(f"{label} {count / len(mails):.1%}" for label, count in counts.most_common()))


def show_difficulty(mails: Sequence[Email]) -> None:
    """Accuracy of TF-IDF and logistic regression, trained on 4,000 mails, on the next 1,000."""
    cleaned = [clean(mail.body, mail.subject) for mail in mails[:5_000]]
    texts = {
        "raw body": [mail.body for mail in mails[:5_000]],
        "cleaned subject and body": [f"{text.subject}\n{text.text}" for text in cleaned],
    }
    for name, column in texts.items():
        scores = {task: accuracy(column, [mail.labels[task] for mail in mails]) for task in TASKS}
        shown = ", ".join(f"{task} {score:.3f}" for task, score in scores.items())
        print(f"TF-IDF + logistic regression on {name}: {shown}")


def accuracy(texts: Sequence[str], labels: Sequence[str | None]) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    features = TfidfVectorizer(sublinear_tf=True, min_df=2)
    train, test = features.fit_transform(texts[:4_000]), features.transform(texts[4_000:5_000])
    known = [row for row in range(4_000) if labels[row]]
    asked = [row for row in range(1_000) if labels[4_000 + row]]
    model = LogisticRegression(C=10, max_iter=300).fit(train[known], [labels[row] for row in known])
    return float(model.score(test[asked], [labels[4_000 + row] for row in asked]))


if __name__ == "__main__":
    main()
