"""Vectors in two dimensions, and which lie near each other. Arrays in, arrays out; the same on every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits


def pca(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First two components `[N, 2]` of `[N, D]`, D at least 2, and the share of the variance of each `[2]`."""
    if np.ptp(x, axis=0).max() == 0:
        return np.zeros((len(x), 2)), np.zeros(2)
    with threadpool_limits(limits=1):
        fitted = PCA(n_components=2, svd_solver="full")
        return fitted.fit_transform(x), fitted.explained_variance_ratio_


def tsne(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """t-SNE map `[N, 2]`; up to three points are where PCA puts them, and equal points at the origin."""
    if len(x) < 4 or np.ptp(x, axis=0).max() == 0:
        return pca(x)[0]
    fitted = TSNE(init="pca", perplexity=min(30.0, (len(x) - 1) / 3), random_state=seed, n_jobs=1)
    # Threads add their parts in any order, and the map would differ from run to run.
    with threadpool_limits(limits=1):
        return np.asarray(fitted.fit_transform(x.astype(np.float32)), dtype=np.float64)


def neighbours(x: NDArray[np.float64], among: int, num: int) -> NDArray[np.int64]:
    """Of each point `[N, D]` the nearest of the first `among` points, itself left out, nearest first, `[N, num]`.

    There are fewer where `among` is not larger than `num`.
    """
    with threadpool_limits(limits=1):
        fitted = NearestNeighbors(algorithm="brute").fit(x[:among])
        found = fitted.kneighbors(x, min(num + 1, among), return_distance=False)
    kept = [[other for other in row if other != i][: min(num, among - 1)] for i, row in enumerate(found.tolist())]
    return np.array(kept, dtype=np.int64)
