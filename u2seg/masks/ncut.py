"""The second eigenvector of a normalised cut, exactly, without an eigen-decomposition.

Shapes: n patches.
Source: Shi and Malik, "Normalized cuts and image segmentation", 2000, equation 11:
(D - A) v = lambda D v. Solved as M z = mu z with M = D^-1/2 A D^-1/2, mu = 1 - lambda and
**v = D^-1/2 z** (leaving that out changes a third of later masks, facts sheet 1.3 m). The top
eigenvector of M is known, sqrt(d), so it is projected out and one vector is sought by Lanczos
iteration with full re-orthogonalisation. A = eps + (1 - eps) B with B binary, so M x needs one
product with a bit matrix.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, eigh_tridiagonal

from u2seg.masks.bitgraph import BitGraph

logger = logging.getLogger(__name__)

Vector = npt.NDArray[np.float64]
TOLERANCE = 1e-10
"""Residual |M z - mu z| at which the iteration may end. So small because a mixture of two vectors
whose eigenvalues are g apart has a residual below g: it must not pass before both are seen."""
ANGLE = 1e-4
"""The residual over the gap to the next Ritz value, which bounds the angle to the eigenvector."""
EXHAUSTED = 1e-14
"""A next Lanczos vector this short is rounding: the start has nothing in other directions."""
MAX_STEPS = 400
CHECK_EVERY = 4
DENSE_LIMIT = 64
"""Up to this many patches the dense solver is faster and cannot fail to converge."""


def second_eigenvector(edges: npt.NDArray[np.bool_], eps: float) -> Vector:
    """Return the generalised eigenvector of the second smallest eigenvalue.

    Args:
        edges: (n, n) bool, symmetric; affinity is 1 on edges and ``eps`` elsewhere. n >= 2.
        eps: Affinity of patches that are not alike, > 0.

    Returns:
        (n,) float64 with ``v' D v = 1``, see ``cut_vector``.

    Raises:
        ValueError: if ``edges`` is not square or has fewer than two rows.

    Examples:
        Two cliques of 1 and 3 patches: the small one has the large entry; the ratio is
        -(m2 d2) / (m1 d1) = -(3 (3 + eps)) / (1 (1 + 3 eps)).

        >>> edges = np.zeros((4, 4), dtype=bool)
        >>> edges[0, 0] = edges[1:, 1:] = True
        >>> v = second_eigenvector(edges, 1e-5)
        >>> round(float(v[0] / v[1]), 3)
        -9.0
    """
    n = len(edges)
    if edges.shape != (n, n) or n < 2:
        raise ValueError(f"edges must be (n, n) with n >= 2, got {edges.shape}")
    return cut_vector(BitGraph.from_edges(edges), eps, np.ones(n, dtype=bool))


def cut_vector(
    graph: BitGraph, eps: float, live: npt.NDArray[np.bool_], name: str = "an image"
) -> Vector:
    """Return the second generalised eigenvector of a graph restricted to some patches.

    Args:
        graph: Edges; those of patches that are not live must be cleared.
        eps: Affinity of patches that are not alike, > 0.
        live: (n,) bool, the nodes; at least two.
        name: Of the image, for messages.

    Returns:
        (n,) float64 with ``v' D v = 1`` over the live patches, 0 elsewhere. The sign is fixed:
        the entry of largest modulus (the first, of those within 1e-9 of it) is positive. If the
        iteration does not converge within ``MAX_STEPS`` the dense solver is used and a warning
        logged.
    """
    nodes = int(np.count_nonzero(live))
    degree = np.where(live, eps * nodes + (1 - eps) * graph.degrees, 1.0)
    scale = np.where(live, 1 / np.sqrt(degree), 0.0)
    z = None
    if nodes > DENSE_LIMIT:
        z = _lanczos(graph, eps, scale)
        if z is None:
            logger.warning(
                "%s: the cut of %d patches did not converge in %d steps; solved densely instead",
                name,
                nodes,
                MAX_STEPS,
            )
    if z is None:
        z = _dense(graph, eps, scale, live)
    v = scale * z
    v /= np.sqrt(np.sum(degree * v * v))
    return fix_sign(v)


def fix_sign(vector: Vector) -> Vector:
    """Return ``vector`` or its negative: the first entry of largest modulus is positive.

    Moduli within 1e-9 (relative) of the largest count as equal: rounding must not decide.

    Examples:
        >>> fix_sign(np.array([1.0, -3.0, 3.0])).tolist()
        [-1.0, 3.0, -3.0]
    """
    modulus = np.abs(vector)
    first = int(np.argmax(modulus >= modulus.max() * (1 - 1e-9)))
    sign = -1.0 if vector[first] < 0 else 1.0
    fixed: Vector = sign * vector
    return fixed


def _dense(graph: BitGraph, eps: float, scale: Vector, live: npt.NDArray[np.bool_]) -> Vector:
    nodes = np.flatnonzero(live)
    affinity = np.where(graph.edges()[np.ix_(nodes, nodes)], 1.0, eps)
    near = scale[nodes]
    top = len(nodes) - 1
    _, vectors = eigh(near[:, None] * affinity * near[None], subset_by_index=[top - 1, top])
    z = np.zeros(graph.size)
    z[nodes] = vectors[:, 0]
    return z


def _lanczos(graph: BitGraph, eps: float, scale: Vector) -> Vector | None:
    """Return the second eigenvector of M, or None if it did not converge."""
    top = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    top /= np.linalg.norm(top)
    steps = min(MAX_STEPS, int(np.count_nonzero(scale)) - 1)
    basis = np.empty((steps + 1, graph.size))
    # A fixed start keeps results reproducible; a pseudo-random one is not orthogonal to the answer.
    start = np.where(scale > 0, np.random.default_rng(0).standard_normal(graph.size), 0.0)
    basis[0] = _orthogonal(start, top, basis[:0])
    basis[0] /= np.linalg.norm(basis[0])
    diagonal, off = np.zeros(steps), np.zeros(steps)
    for k in range(steps):
        x = scale * basis[k]
        product = scale * (eps * x.sum() + (1 - eps) * graph.multiply(x))
        diagonal[k] = basis[k] @ product
        rest = _orthogonal(product, top, basis[: k + 1])
        off[k] = np.linalg.norm(rest)
        exhausted = off[k] < EXHAUSTED
        if exhausted or k % CHECK_EVERY == CHECK_EVERY - 1 or k == steps - 1:
            two = (max(0, k - 1), k)
            ritz, small = eigh_tridiagonal(diagonal[: k + 1], off[:k], select="i", select_range=two)
            needed = max(EXHAUSTED, min(TOLERANCE, ANGLE * (ritz[-1] - ritz[0])))
            if exhausted or off[k] * abs(small[-1, -1]) < needed:
                z: Vector = small[:, -1] @ basis[: k + 1]
                # One more product: patches with the same neighbours now have the same value to
                # the last bit, as they must; what an iteration leaves there is rounding.
                x = scale * z
                polished: Vector = scale * (eps * x.sum() + (1 - eps) * graph.multiply(x))
                return polished
        if k == steps - 1:
            return None
        basis[k + 1] = rest / off[k]
    return None


def _orthogonal(vector: Vector, top: Vector, basis: npt.NDArray[np.float64]) -> Vector:
    """Return the part of ``vector`` orthogonal to the known top vector and the basis."""
    for _ in range(2):  # twice is enough (Kahan, Parlett)
        vector = vector - top * (top @ vector)
        vector = vector - (basis @ vector) @ basis
    return vector
