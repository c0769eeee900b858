"""How much the image features hold, read out by logistic regression and by nearest neighbours."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ProclipError
from ..metrics import Outcomes, class_ranks
from .encoders import Encoders, encode_distinct
from .measure import Measured
from .tasks import ProbeTask

MAX_ITERATIONS = 1000
VALIDATION_EVERY = 5
"""Each fifth training image of a class is held out while the regularisation is chosen."""
COARSE_LOG10_C = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
"""log10 of the first values of C, those of the CLIP paper; the interval around the best is then halved `HALVINGS`
times."""
HALVINGS = 4
"""From two decades between neighbours to an eighth, as in the CLIP paper."""
TOLERANCE, COARSE_TOLERANCE = 1e-4, 1e-3
"""Largest gradient at which a fit ends: scikit-learn's own, and while C is chosen, in half the time."""
ONE_THREAD = 1e9
"""Fits of fewer products (images x features x classes) run BLAS on one thread: two threads of OpenBLAS, waiting for
each other and for OpenMP's, took three to four times as long over 2,829 images, 256 features and 88 classes."""
NEIGHBOURS = 20
"""Training images that vote on a test image, as is common for self-supervised encoders (Caron et al. 2021)."""
TEMPERATURE = 0.07
"""A neighbour's vote is ``exp(cosine / TEMPERATURE)`` (Wu et al. 2018)."""
CHUNK = 1024
"""Test images whose neighbours are sought at once."""

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


class LinearProbe(NamedTuple):
    """What the linear probe found."""

    hits: NDArray[np.bool_]
    """[n]: whether the label of each test image is predicted right."""
    inverse_regularisation: float
    """The chosen C of scikit-learn."""
    validation_accuracy: float
    """Share of the held-out training images that are predicted right at that C."""
    converged: bool
    """Whether the last fit ended before `MAX_ITERATIONS`."""


def measure_probe(task: ProbeTask, encoders: Encoders) -> Measured:
    """``acc1`` and ``mean_per_class`` of a linear probe and ``knn_acc1`` of a k-NN probe on the image features.

    The linear probe is `linear_probe` on features that are centred and divided by one number, their root mean square
    over the training images: that changes nothing but the scale of C, so that one grid serves every encoder. The k-NN
    probe is `knn_hits` on the features as they are. The notes say which C was chosen, how accurate it was on the
    held-out images, whether the fit converged, and the k of k-NN.

    Raises:
        ProclipError: the training images have fewer than two classes, no class has five images to hold one out, all
            features are the same, or scikit-learn is not installed.
    """
    train_labels = np.array([label for _, label in task.train], dtype=np.int64)
    test_labels = np.array([label for _, label in task.test], dtype=np.int64)
    if len(np.unique(train_labels)) < 2:
        raise ProclipError(f"task {task.name!r}: train must have images of at least two classes")
    if not _held_out(train_labels).any():
        raise ProclipError(
            f"task {task.name!r}: no class has {VALIDATION_EVERY} training images, so that one could be held out to "
            "choose the regularisation"
        )
    features = encode_distinct(encoders.image_features, [key for key, _ in (*task.train, *task.test)])
    train, test = features[: len(train_labels)], features[len(train_labels) :]
    centre = train.mean(dim=0)
    scale = (train - centre).square().mean().sqrt().item()
    if scale == 0 or not math.isfinite(scale):
        raise ProclipError(f"task {task.name!r}: all training images have the same features")
    train_x, test_x = (((part - centre) / scale).numpy() for part in (train, test))
    linear = linear_probe((train_x, train_labels), (test_x, test_labels))
    nearest = knn_hits((train, torch.from_numpy(train_labels)), (test, torch.from_numpy(test_labels)))
    hits = linear.hits.astype(np.float32)
    return Measured(
        outcomes={
            "acc1": Outcomes(values=hits),
            "mean_per_class": Outcomes(values=hits, strata=test_labels.astype(np.int32)),
            "knn_acc1": Outcomes(values=nearest.numpy().astype(np.float32)),
        },
        chance={"acc1": task.chance, "mean_per_class": 1 / len(np.unique(test_labels)), "knn_acc1": task.chance},
        notes={
            "inverse_regularisation": linear.inverse_regularisation,
            "validation_accuracy": linear.validation_accuracy,
            "converged": linear.converged,
            "neighbours": min(NEIGHBOURS, len(train)),
        },
    )


def linear_probe(train: tuple[Features, Labels], test: tuple[Features, Labels]) -> LinearProbe:
    """Logistic regression with L-BFGS, after the protocol of CLIP's appendix A.3.

    C is chosen on a fixed fifth of the training images, by a coarse log-spaced sweep and then by halving the interval
    around the best, and the classifier is fitted again on all of them.
    """
    log10_c, validation_accuracy = _choose_c(*train)
    hits, converged = _fit_and_predict(log10_c, train, test)
    return LinearProbe(hits, 10.0**log10_c, validation_accuracy, converged)


def knn_hits(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Tensor:
    """Whether the nearest training features by cosine vote for a test image's own label; a tie of votes is a miss.

    Args:
        train: features [n, f] and labels [n] int64.
        test: features [m, f] and labels [m] int64.

    Returns:
        [m] bool.
    """
    known, labels = F.normalize(train[0], dim=1), train[1]
    classes = int(torch.cat([labels, test[1]]).max()) + 1
    hits = []
    for features, wanted in zip(torch.split(test[0], CHUNK), torch.split(test[1], CHUNK), strict=True):
        cosine, nearest = (F.normalize(features, dim=1) @ known.T).topk(min(NEIGHBOURS, len(known)))
        votes = torch.zeros(len(features), classes, dtype=torch.float64)
        votes.scatter_add_(1, labels[nearest], (cosine.double() / TEMPERATURE).exp())
        hits.append(class_ranks(votes, wanted) == 1)
    return torch.cat(hits)


def _fit_and_predict(
    log10_c: float, train: tuple[Features, Labels], test: tuple[Features, Labels], tolerance: float = TOLERANCE
) -> tuple[NDArray[np.bool_], bool]:
    """Fit on `train` with C = 10**log10_c; whether each of `test` is right, and whether the fit converged."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        raise ProclipError("the linear probe needs scikit-learn: pip install 'proclip-align[eval]'") from None

    classifier = LogisticRegression(C=10.0**log10_c, solver="lbfgs", tol=tolerance, max_iter=MAX_ITERATIONS)
    products = train[0].size * (1 + int(train[1].max()))
    with warnings.catch_warnings(), threadpool_limits(1 if products < ONE_THREAD else None, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by the result instead
        classifier.fit(*train)
    features, labels = test
    return np.asarray(classifier.predict(features) == labels), bool(classifier.n_iter_.max() < MAX_ITERATIONS)


def _held_out(labels: Labels) -> NDArray[np.bool_]:
    """True for each `VALIDATION_EVERY`-th image of every class, in the order of the file."""
    seen: dict[int, int] = {}
    mask = np.zeros(len(labels), dtype=bool)
    for row, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        mask[row] = seen[label] % VALIDATION_EVERY == 0
    return mask


def _choose_c(features: Features, labels: Labels) -> tuple[float, float]:
    """log10 of the C that is best on the held-out images, and its accuracy there; the smallest of equals."""
    held_out = _held_out(labels)
    fit_part = features[~held_out], labels[~held_out]
    validation_part = features[held_out], labels[held_out]
    scores: dict[float, float] = {}

    def best_of(candidates: tuple[float, ...]) -> float:
        for log10_c in candidates:
            if log10_c not in scores:
                scores[log10_c] = float(
                    _fit_and_predict(log10_c, fit_part, validation_part, COARSE_TOLERANCE)[0].mean()
                )
        return max(scores, key=lambda log10_c: (scores[log10_c], -log10_c))

    best, step = best_of(COARSE_LOG10_C), COARSE_LOG10_C[1] - COARSE_LOG10_C[0]
    for _ in range(HALVINGS):
        step /= 2
        around = (best - step, best + step)
        best = best_of(tuple(c for c in around if COARSE_LOG10_C[0] <= c <= COARSE_LOG10_C[-1]))
    return best, scores[best]
