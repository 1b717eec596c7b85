"""Simple models that the real one has to beat: the most frequent label, and TF-IDF with a linear SVM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mailtriage.features import model_text
from mailtriage.metrics import UNLABELLED, Labels

if TYPE_CHECKING:
    from mailtriage.examples import Example

Predicted = dict[str, Labels]
MAX_FEATURES = 60_000  # of each vectoriser, the most frequent ones


def majority(train: Mapping[str, Labels], mails: int) -> Predicted:
    """The most frequent training label of each task, for every one of `mails` mails."""
    return {task: np.full(mails, _most_frequent(labels), dtype=np.int64) for task, labels in train.items()}


def tfidf_svm(
    train: Sequence[Example], true: Mapping[str, Labels], test: Sequence[Example], seed: int = 0
) -> Predicted:
    """TF-IDF of words and of characters inside words, and one linear SVM a task, fitted on `train`.

    `true` holds the training labels, task -> shape (train,), with `UNLABELLED` for a missing one.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union
    from sklearn.svm import LinearSVC

    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=MAX_FEATURES),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), min_df=3, sublinear_tf=True, max_features=MAX_FEATURES),
    )
    fitted = features.fit_transform(mail_texts(train))
    unseen = features.transform(mail_texts(test))
    predicted: Predicted = {}
    for task, labels in true.items():
        known = labels != UNLABELLED
        if len(np.unique(labels[known])) < 2:  # an SVM needs two classes
            predicted |= majority({task: labels}, len(test))
            continue
        predicted[task] = LinearSVC(random_state=seed).fit(fitted[known], labels[known]).predict(unseen)
    return predicted


def _most_frequent(labels: Labels) -> int:
    known = labels[labels != UNLABELLED]
    return int(np.bincount(known).argmax()) if len(known) else 0


def mail_texts(examples: Sequence[Example]) -> list[str]:
    """What the encoder reads, as one text a mail."""
    return [" ".join(model_text(mail.subject, mail.text, mail.custodian_bank)) for mail in examples]
