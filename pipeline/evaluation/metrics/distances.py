"""Distances between two sets of features, and their floors: FID, FVD and KVD.

In: float arrays `n D`, a row a sample (an image or a clip). Out: numbers, computed in float64.
Fréchet distance of two Gaussians: Heusel et al., 2017, arXiv:1706.08500. Polynomial MMD: Binkowski
et al., 2018, arXiv:1801.01401; as KVD with the thesis' kernel, not scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FEWEST = 4  # rows of a set that is split in half: a covariance needs two rows a half


@dataclass(frozen=True)
class SplitHalfDistance:
    """One half of the generated samples against the other half of the true; mean over splits."""

    value: float
    deviation: float  # standard deviation over the splits
    floor: float  # the same halves, true against true
    floor_deviation: float


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|mean difference|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances over n-1; never negative.

    S1 = A'A and S2 = B'B for the centred rows A, B over sqrt(n-1), and the trace of the root is the
    sum of the singular values of A B', as (S1 S2)^(1/2) has those as its eigenvalues. So no root of
    a singular matrix is taken, nothing is added to a diagonal, and fewer rows than D cost less.
    """
    a, b = _checked(a, b, 2)
    shift = a.mean(0) - b.mean(0)
    a, b = _covariance_root(a), _covariance_root(b)
    common = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(0.0, float(shift @ shift + np.vdot(a, a) + np.vdot(b, b) - 2 * common))


def polynomial_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD under the kernel (x y / D + 1)^3; may be below 0."""
    a, b = _checked(a, b, 2)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3  # n1 n2

    def mean_of_pairs(x: np.ndarray) -> float:  # of different rows
        k = kernel(x, x)
        np.fill_diagonal(k, 0)
        return float(k.sum()) / (len(x) * (len(x) - 1))

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * float(kernel(a, b).mean())


def split_half(
    generated: np.ndarray,
    truth: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], float],
    n_splits: int,
    seed: int = 0,
) -> SplitHalfDistance:
    """`distance` between halves: row i of both arrays is the same sample, generated and true.

    A fair set against its own truth falls below the distance of two true sets; halves of different
    samples do not. Equal seeds split equally, so that methods can be compared. Of an odd number
    of rows each split leaves one out. Raises ValueError below 4 rows, and for rows that are
    not finite or do not match.
    """
    assert n_splits >= 1, n_splits
    generated, truth = _checked(generated, truth, FEWEST)
    if len(generated) != len(truth):
        raise ValueError(
            f"{len(generated)} generated rows and {len(truth)} true ones, expected the same samples"
        )
    rng = np.random.default_rng(seed)
    half = len(truth) // 2
    values, floors = [], []
    for _ in range(n_splits):
        one, other = np.split(rng.permutation(len(truth))[: 2 * half], 2)
        values.append(distance(generated[one], truth[other]))
        floors.append(distance(truth[one], truth[other]))
    deviations = [float(np.std(x, ddof=1)) if n_splits > 1 else 0.0 for x in (values, floors)]
    return SplitHalfDistance(
        float(np.mean(values)), deviations[0], float(np.mean(floors)), deviations[1]
    )


def _covariance_root(rows: np.ndarray) -> np.ndarray:
    """`m D` with m = min(n, D), whose product with itself, `D D`, is the covariance of the rows."""
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return np.linalg.qr(centred, mode="r") if len(rows) > rows.shape[1] else centred


def _checked(a: np.ndarray, b: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; ValueError with a sentence where no distance of them can be formed."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.shape[1]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}, expected `n D` of equal D")
    for which, rows in (("first", a), ("second", b)):
        if len(rows) < fewest:
            raise ValueError(f"{len(rows)} samples in the {which} set, at least {fewest} needed")
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise ValueError(f"row {bad[0]} of the {which} set holds features that are not finite")
    return a, b
