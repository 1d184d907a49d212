"""Distances of two sets of features, and their floors: FID, FVD and KVD.

In: float arrays `n D`, a row a sample (a picture or a clip). Out: numbers, computed in float64.
Fréchet distance of two Gaussians: Heusel et al., 2017, arXiv:1706.08500. Polynomial MMD: Binkowski
et al., 2018, arXiv:1801.01401; as KVD with the thesis' kernel, not scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FEWEST = 4  # rows of a set that is halved: a covariance needs two rows a half


class FewSamples(ValueError):
    """There are too few rows for the distance that was asked for."""


@dataclass(frozen=True)
class Halved:
    """One half of the generated against the other half of the true; means over halvings."""

    value: float
    deviation: float  # standard deviation over the halvings
    floor: float  # the same halves, true against true
    floor_deviation: float
    n: int  # samples in a half


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|mean difference|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances over n-1; never negative.

    S1 = A'A and S2 = B'B for the centred rows A, B over sqrt(n-1), and the trace of the root is the
    sum of the singular values of A B', as (S1 S2)^(1/2) has those as its eigenvalues. So no root of
    a singular matrix is taken, nothing is added to a diagonal, and fewer rows than D cost less.
    """
    a, b = _checked(a, b, 2)
    shift = a.mean(0) - b.mean(0)
    a, b = _root(a), _root(b)
    common = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(0.0, float(shift @ shift + np.vdot(a, a) + np.vdot(b, b) - 2 * common))


def polynomial_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD under the kernel (x y / D + 1)^3; may be below 0."""
    a, b = _checked(a, b, 2)
    return _mean_of_pairs(a) + _mean_of_pairs(b) - 2 * float(_kernel(a, b).mean())


def halved(
    generated: np.ndarray,
    truth: np.ndarray,
    measure: Callable[[np.ndarray, np.ndarray], float],
    halvings: int = 20,
    seed: int = 0,
) -> Halved:
    """`measure` between halves: row i of both arrays is the same sample, drawn and true.

    A fair set against its own truth falls below the distance of two true sets; halves of different
    samples do not. Equal seeds halve equally, so that candidates can be compared. Of an odd number
    of rows each halving leaves one out. Raises FewSamples below 4 rows, ValueError for rows that
    are not finite or do not match.
    """
    assert halvings >= 1, halvings
    generated, truth = _checked(generated, truth, FEWEST)
    if len(generated) != len(truth):
        raise ValueError(
            f"{len(generated)} generated rows and {len(truth)} true ones, expected the same samples"
        )
    random = np.random.default_rng(seed)
    half = len(truth) // 2
    values, floors = [], []
    for _ in range(halvings):
        one, other = np.split(random.permutation(len(truth))[: 2 * half], 2)
        values.append(measure(generated[one], truth[other]))
        floors.append(measure(truth[one], truth[other]))
    return Halved(*_mean_deviation(values), *_mean_deviation(floors), n=half)


def _root(rows: np.ndarray) -> np.ndarray:
    """`m D` with m = min(n, D), whose product with itself, `D D`, is the covariance of the rows."""
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return np.linalg.qr(centred, mode="r") if len(rows) > rows.shape[1] else centred


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3  # n1 n2


def _mean_of_pairs(rows: np.ndarray) -> float:
    """Mean kernel of all pairs of different rows."""
    kernel = _kernel(rows, rows)
    np.fill_diagonal(kernel, 0)
    return float(kernel.sum()) / (len(rows) * (len(rows) - 1))


def _mean_deviation(values: list[float]) -> tuple[float, float]:
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(deviation)


def _checked(a: np.ndarray, b: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; ValueError with a sentence where no distance of them can be formed."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.shape[1]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}, expected `n D` of equal D")
    for which, rows in (("first", a), ("second", b)):
        if len(rows) < fewest:
            raise FewSamples(f"{len(rows)} samples in the {which} set, at least {fewest} needed")
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise ValueError(f"row {bad[0]} of the {which} set holds features that are not finite")
    return a, b
