"""Which tokens and pairs of tokens stand in a mail: a linear model beside the encoder, inside the same network.

TF-IDF with a linear SVM is hard to beat on a few thousand mails, and errs elsewhere than a fine-tuned encoder. So both
answer, and validation mails say how much each counts a task: a logarithmic opinion pool (Genest and Zidek 1986,
doi:10.1214/ss/1177013825) of two parts, as in Wide & Deep (Cheng et al. 2016, arXiv:1606.07792). The features come from
the token ids that the encoder reads, so nothing is added to what serving sends and receives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mailtriage.batching import length_batches
from mailtriage.features import TokenIds, pad
from mailtriage.metrics import UNLABELLED, Labels

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BUCKETS = 2**17  # that pairs of tokens are hashed into
HASH = 1_000_003  # a prime: what a pair's first token is multiplied by
MIN_MAILS = 2  # a feature of fewer training mails says nothing about others
SVM_C = 0.5
NEVER_SEEN = -1.0  # the answer for a label without a training mail: what an SVM learns from counter-examples alone
CHUNK_TOKENS = 16_384  # padding included, of mails whose features are computed together: memory grows with their square

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
Scales = dict[str, tuple[float, float]]  # task -> how much the encoder's logits count, and the lexical ones


class LexicalHeads(nn.Module):
    """Logits of all tasks from TF-IDF of tokens and of pairs of neighbours, each block of length 1.

    Its weights are buffers: they are fitted whole, by `fit_lexical`, and not by gradient steps.

    Args:
        vocabulary: number of tokens.
        labels: task -> number of labels.
        buckets: number of hashed pairs.
    """

    token_idf: Tensor
    pair_idf: Tensor
    token_weights: Tensor
    pair_weights: Tensor
    bias: Tensor
    encoder_scale: Tensor
    scale: Tensor

    def __init__(self, vocabulary: int, labels: Mapping[str, int], buckets: int = BUCKETS) -> None:
        super().__init__()
        self.labels = dict(labels)
        self.buckets = buckets
        count = sum(self.labels.values())
        self.register_buffer("token_idf", torch.zeros(vocabulary))
        self.register_buffer("pair_idf", torch.zeros(buckets))
        # Half the bytes: these tables are most of a small bundle, and an SVM's weights need no more digits.
        self.register_buffer("token_weights", torch.zeros(vocabulary, count, dtype=torch.float16))
        self.register_buffer("pair_weights", torch.zeros(buckets, count, dtype=torch.float16))
        self.register_buffer("bias", torch.zeros(count))
        self.register_buffer("encoder_scale", torch.ones(len(self.labels)))
        self.register_buffer("scale", torch.ones(len(self.labels)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Each task's logits, of shape (mails, labels), in fp32, not yet scaled.

        Args:
            input_ids, attention_mask: padded mails, both of shape (mails, tokens).
        """
        pairs, mask_of_pairs = self.pairs(input_ids, attention_mask)
        tokens = tf_idf(input_ids, attention_mask, self.token_idf)
        neighbours = tf_idf(pairs, mask_of_pairs, self.pair_idf)
        logits = (
            (tokens.unsqueeze(-1) * self.token_weights[input_ids].float()).sum(dim=1)
            + (neighbours.unsqueeze(-1) * self.pair_weights[pairs].float()).sum(dim=1)
            + self.bias.float()
        )
        parts = torch.split(logits, list(self.labels.values()), dim=1)
        return dict(zip(self.labels, parts, strict=True))

    @torch.no_grad()
    def set_scales(self, scales: Scales) -> None:
        """Set how much each part counts from now on."""
        for row, task in enumerate(self.labels):
            self.encoder_scale[row], self.scale[row] = scales[task]

    @torch.inference_mode()
    def answers(self, input_ids: Sequence[TokenIds]) -> dict[str, FloatArray]:
        """These heads' logits alone, in the order of the unpadded mails: task -> (mails, labels)."""
        found = {task: np.empty((len(input_ids), count), dtype=np.float32) for task, count in self.labels.items()}
        for rows, ids, mask in _chunks(input_ids):
            for task, logits in self(ids, mask).items():
                found[task][rows] = logits.numpy()
        return found

    def pairs(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The bucket of each token with the next one, and which of them are no padding: (mails, tokens - 1) each."""
        return (input_ids[:, :-1] * HASH + input_ids[:, 1:]) % self.buckets, attention_mask[:, 1:]

    def pool(self, encoder: Mapping[str, Tensor], lexical: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both parts' logits, each times its scale, in fp32, of the tasks that the encoder answers."""
        return {
            task: self.encoder_scale[row].float() * encoder[task].float() + self.scale[row].float() * lexical[task]
            for row, task in enumerate(self.labels)
            if task in encoder
        }


def tf_idf(features: Tensor, mask: Tensor, idf: Tensor) -> Tensor:
    """What each place of a mail adds to its features: (mails, places), in fp32.

    A feature's places together hold (1 + ln count) * idf, and a mail's features have the Euclidean length 1, as
    scikit-learn's `TfidfVectorizer(sublinear_tf=True)` computes it.

    Args:
        features, mask: which feature stands in each place, and 1 where one does; both of shape (mails, places).
        idf: weight of each feature, 0 where it is not known.
    """
    real = mask.to(torch.float32)
    same = (features.unsqueeze(2) == features.unsqueeze(1)).to(torch.float32)
    count = (same * real.unsqueeze(1)).sum(dim=2).clamp(min=1.0)
    value = idf[features].float() * real * (1.0 + count.log()) / count
    length = (value * value * count).sum(dim=1, keepdim=True).sqrt()
    return value / length.clamp(min=1e-6)


def fit_lexical(
    input_ids: Sequence[TokenIds], targets: Labels, labels: Mapping[str, int], vocabulary: int, seed: int
) -> LexicalHeads:
    """One linear SVM a task, rare labels weighing as much as frequent ones; scales are still 1.

    Args:
        input_ids, targets: the training mails; targets of shape (mails, tasks), `UNLABELLED` where a label is missing.
        labels: task -> number of labels.
    """
    heads = LexicalHeads(vocabulary, labels)
    tokens, pairs = _places(heads, input_ids)
    heads.token_idf.copy_(torch.from_numpy(_idf(tokens, len(input_ids), vocabulary)))
    heads.pair_idf.copy_(torch.from_numpy(_idf(pairs, len(input_ids), heads.buckets)))
    features = _features(heads, input_ids)
    start = 0
    for column, count in enumerate(labels.values()):
        weights, bias = _svm(features, targets[:, column], count, seed)
        heads.token_weights[:, start : start + count] = torch.from_numpy(weights[:vocabulary])
        heads.pair_weights[:, start : start + count] = torch.from_numpy(weights[vocabulary:])
        heads.bias[start : start + count] = torch.from_numpy(bias)
        start += count
    return heads


def _svm(features: csr_matrix, targets: Labels, count: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Weights of shape (features, labels) and bias of shape (labels,)."""
    from sklearn.svm import LinearSVC

    weights = np.zeros((features.shape[1], count), dtype=np.float32)
    bias = np.full(count, NEVER_SEEN, dtype=np.float32)
    known = targets != UNLABELLED
    present = np.unique(targets[known])
    if len(present) < 2:  # an SVM needs two classes
        bias[present] = -NEVER_SEEN
        return weights, bias
    svm = LinearSVC(C=SVM_C, class_weight="balanced", random_state=seed).fit(features[known], targets[known])
    two = len(present) == 2  # then the SVM has one row, for the second of them
    weights[:, present] = (np.concatenate([-svm.coef_, svm.coef_]) if two else svm.coef_).T
    bias[present] = np.concatenate([-svm.intercept_, svm.intercept_]) if two else svm.intercept_
    return weights, bias


def _idf(places: tuple[Any, Any], mails: int, features: int) -> FloatArray:
    """Inverse document frequency as scikit-learn smooths it, 0 for what fewer than `MIN_MAILS` mails have."""
    rows, columns = places
    seen = np.unique(rows * features + columns) % features
    frequency = np.bincount(seen, minlength=features)
    idf = np.log((1 + mails) / (1 + frequency)) + 1
    idf[frequency < MIN_MAILS] = 0
    return idf.astype(np.float32)


def _chunks(input_ids: Sequence[TokenIds]) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Mails of about the same length: their places in `input_ids`, and their padded ids and mask."""
    for places in length_batches([len(ids) for ids in input_ids], CHUNK_TOKENS):
        ids, mask = pad([input_ids[place] for place in places])
        yield np.asarray(places), torch.from_numpy(ids), torch.from_numpy(mask)


def _places(heads: LexicalHeads, input_ids: Sequence[TokenIds]) -> list[tuple[Any, Any]]:
    """(mail, feature) of each place: those of tokens, and those of pairs."""
    found: tuple[list[Any], list[Any]] = ([], [])
    for rows, ids, mask in _chunks(input_ids):
        for into, (features, real) in zip(found, ((ids, mask), heads.pairs(ids, mask)), strict=True):
            row, place = np.nonzero(real.numpy())
            into.append((rows[row], features.numpy()[row, place]))
    return [tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in found]  # type: ignore[misc]


def _features(heads: LexicalHeads, input_ids: Sequence[TokenIds]) -> csr_matrix:
    """TF-IDF as the network computes it: (mails, vocabulary + buckets)."""
    from scipy.sparse import coo_matrix

    vocabulary = len(heads.token_idf)
    parts: list[tuple[Any, Any, Any]] = []
    for rows, ids, mask in _chunks(input_ids):
        pairs, mask_of_pairs = heads.pairs(ids, mask)
        for features, values, offset in (
            (ids, tf_idf(ids, mask, heads.token_idf), 0),
            (pairs, tf_idf(pairs, mask_of_pairs, heads.pair_idf), vocabulary),
        ):
            row, place = np.nonzero(values.numpy())
            parts.append((rows[row], features.numpy()[row, place] + offset, values.numpy()[row, place]))
    row, column, value = map(np.concatenate, zip(*parts, strict=True))
    return coo_matrix((value, (row, column)), shape=(len(input_ids), vocabulary + heads.buckets)).tocsr()


def fit_scales(encoder: FloatArray, lexical: FloatArray, true: Labels) -> tuple[float, float]:
    """How much the encoder's and the lexical logits of one task count: what makes its validation labels likeliest.

    Args:
        encoder, lexical: logits of validation mails, both of shape (mails, labels).
        true: label numbers, shape (mails,); without any label the encoder answers alone.
    """
    from scipy.optimize import minimize

    known = true != UNLABELLED
    if not known.any():
        return 1.0, 0.0
    parts = np.stack([encoder[known], lexical[known]]).astype(np.float64)
    target = true[known]
    rows = np.arange(len(target))

    def loss(scales: Any) -> tuple[float, Any]:
        """Negative log-likelihood, which has one minimum, and its gradient."""
        logits = np.tensordot(scales, parts, axes=1)
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        wrong = probabilities.copy()
        wrong[rows, target] -= 1
        likelihood = np.log(np.maximum(probabilities[rows, target], 1e-12)).mean()
        return -float(likelihood), (parts * wrong).sum(axis=2).mean(axis=1)

    found = minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * 2)
    return float(found.x[0]), float(found.x[1])
