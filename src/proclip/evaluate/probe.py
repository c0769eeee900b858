"""Linear probe: how much the image features hold, read out by logistic regression."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError
from .encoders import Encoders, encode_distinct
from .tasks import ProbeTask

MAX_ITERATIONS = 1000
VALIDATION_EVERY = 5
"""Each fifth training image of a class is held out while the regularisation is chosen."""
COARSE_LOG10_C = (-2.0, 0.0, 2.0)
"""log10 of the first values of C; the interval around the best is then halved `HALVINGS` times."""
HALVINGS = 1
"""From two decades between neighbours to one."""
TOLERANCE, COARSE_TOLERANCE = 1e-4, 1e-3
"""Largest gradient at which a fit ends: scikit-learn's own, and while C is chosen, in a third of the time."""


class ProbeResult(NamedTuple):
    """What the probe found."""

    accuracy: float
    """Share of the test images whose label is predicted right, 0 to 1."""
    inverse_regularisation: float
    """The chosen C of scikit-learn."""
    validation_accuracy: float
    """The same on the held-out training images at that C."""
    converged: bool
    """Whether the last fit ended before `MAX_ITERATIONS`."""


Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def _fit_and_score(
    log10_c: float, train: tuple[Features, Labels], test: tuple[Features, Labels], tolerance: float = TOLERANCE
) -> tuple[float, bool]:
    """Fit on `train` with C = 10**log10_c; accuracy on `test`, and whether the fit converged."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError:
        raise ProclipError("the linear probe needs scikit-learn: pip install 'proclip-align[eval]'") from None

    classifier = LogisticRegression(C=10.0**log10_c, solver="lbfgs", tol=tolerance, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by the result instead
        classifier.fit(*train)
    return float(classifier.score(*test)), bool(classifier.n_iter_.max() < MAX_ITERATIONS)


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
                scores[log10_c] = _fit_and_score(log10_c, fit_part, validation_part, COARSE_TOLERANCE)[0]
        return max(scores, key=lambda log10_c: (scores[log10_c], -log10_c))

    best, step = best_of(COARSE_LOG10_C), COARSE_LOG10_C[1] - COARSE_LOG10_C[0]
    for _ in range(HALVINGS):
        step /= 2
        around = (best - step, best + step)
        best = best_of(tuple(c for c in around if COARSE_LOG10_C[0] <= c <= COARSE_LOG10_C[-1]))
    return best, scores[best]


def linear_probe(task: ProbeTask, encoders: Encoders) -> ProbeResult:
    """Logistic regression on frozen image features (L-BFGS, the protocol of CLIP's appendix A.3).

    C is chosen on a fixed fifth of the training images, by a coarse log-spaced sweep and then by halving the interval
    around the best, and the classifier is fitted again on all of them. The features are centred and divided by one
    number, their root mean square over the training images: that changes nothing but the scale of C, so that one grid
    serves every encoder.

    Raises:
        ProclipError: the training images have fewer than two classes, no class has five images to hold one out, all
            features are the same, or scikit-learn is not installed.
    """
    labels = np.array([label for _, label in task.train], dtype=np.int64)
    if len(np.unique(labels)) < 2:
        raise ProclipError(f"task {task.name!r}: train must have images of at least two classes")
    if not _held_out(labels).any():
        raise ProclipError(
            f"task {task.name!r}: no class has {VALIDATION_EVERY} training images, so that one could be held out to "
            "choose the regularisation"
        )
    keys = [key for key, _ in (*task.train, *task.test)]
    features = encode_distinct(encoders.image_features, keys)
    train_features, test_features = features[: len(labels)], features[len(labels) :]
    centre = train_features.mean(dim=0)
    scale = (train_features - centre).square().mean().sqrt().item()
    if scale == 0 or not math.isfinite(scale):
        raise ProclipError(f"task {task.name!r}: all training images have the same features")
    train_x = ((train_features - centre) / scale).numpy()
    test_x = ((test_features - centre) / scale).numpy()
    test_labels = np.array([label for _, label in task.test], dtype=np.int64)

    log10_c, validation_accuracy = _choose_c(train_x, labels)
    accuracy, converged = _fit_and_score(log10_c, (train_x, labels), (test_x, test_labels))
    return ProbeResult(accuracy, 10.0**log10_c, validation_accuracy, converged)
