"""Second eigenvectors of the normalised cuts of many images at once, in torch, on any device.

The method of ``u2seg.masks.ncut`` without anything that depends on data: a fixed number of Lanczos
steps, the tridiagonal problem by repeated squaring (``torch.linalg.eigh`` makes the host wait and
solves one matrix after the other), so that a batch is queued on a GPU from end to end. Whether an
image converged is part of the result; one that did not is left to the method with tolerance.

Products with the binary graph are exact: a float64 vector is written as a few whole numbers of at
most 11 bits, whose sums float32 (and the half-precision units of a GPU) hold without rounding. So
they do not depend on the order of summation, and patches with equal neighbours get equal values.

Shapes: B images, n patches, k Lanczos steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from u2seg.io.transfer import upload
from u2seg.masks.ncut import EXHAUSTED, TOLERANCE

STEPS = 64
"""Lanczos steps of every cut. Cuts with a clear answer need about 25."""
SQUARINGS = 40
"""The tridiagonal matrix to the power of 2^40 tells eigenvalues apart that differ by 1e-10."""
GAP_SQUARINGS = 25
"""To the power of 2^25, eigenvalues 1e-6 apart (``TOLERANCE`` / ``ANGLE`` of ``ncut``) are too."""
MANTISSA = 53
HALF_BITS = 11
"""Whole numbers up to 2^11 are exact in half precision (and TF32)."""
SMALLEST = 1e-200
"""Vectors are so far from this that a smaller largest entry is 0."""
SUM_BITS = 24
"""Whole numbers up to 2^24 are exact in float32."""


@dataclass(frozen=True)
class BatchGraph:
    """Symmetric binary graphs on the patches of several images.

    Args:
        edges: (B, n, n) 0 or 1, float32 (float16 on a GPU, if torch can sum it in float32).
    """

    edges: Tensor

    @classmethod
    def from_features(cls, features: Tensor, tau: float) -> BatchGraph:
        """Build from cosine similarities: an edge where they exceed ``tau``.

        Args:
            features: (B, D, n) float, any precision; a patch of zero length or with a value that
                is not finite is similar to nothing.
            tau: Threshold, -1..1; the comparison is strict.
        """
        patches = features.shape[2]
        kind = edge_type(features.device)
        edges = torch.empty((len(features), patches, patches), dtype=kind, device=features.device)
        for image, target in zip(features, edges, strict=True):
            # One at a time: one float32 matrix of similarities, and the same for any batch size.
            flat = image.float()
            length = torch.linalg.vector_norm(flat, dim=0)
            unit = flat / length.masked_fill(length == 0, 1.0)
            alike = (unit.T @ unit > tau).tril()
            target.copy_(alike | alike.T)
        return cls(edges)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Return B x, (B, n) float64, for (B, n) float64 vectors x, exact but for the last sum.

        Examples:
            >>> graph = BatchGraph(torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]))
            >>> graph.multiply(torch.tensor([[0.5, 5.0]], dtype=torch.float64)).tolist()
            [[5.5, 0.5]]
        """
        bits = min(HALF_BITS, SUM_BITS - 1 - math.ceil(math.log2(vectors.shape[1])))
        largest = torch.linalg.vector_norm(vectors, math.inf, dim=1, keepdim=True)
        largest = largest.clamp(min=SMALLEST)
        power = largest / torch.frexp(largest).mantissa  # of two, exactly
        # Rounded after so many bits, less what was there after fewer.
        places = _places(bits, vectors.device) / power[..., None]
        whole = torch.round(vectors[..., None] * places)
        digits = whole.clone()
        digits[..., 1:].sub_(whole[..., :-1], alpha=2**bits)
        sums = _exact_product(self.edges, digits).unbind(dim=2)
        product = sums[-1].double()
        for lower in reversed(sums[:-1]):
            product = lower.add(product, alpha=2.0**-bits)
        scaled: Tensor = product * (power * 2.0**-bits)
        return scaled


@functools.lru_cache(maxsize=8)
def _places(bits: int, device: torch.device) -> Tensor:
    """Return float64 2^bits, 2^(2 bits) ... up to the last bit of a mantissa; kept there."""
    count = math.ceil(MANTISSA / bits)
    return upload(np.ldexp(1.0, bits * np.arange(1, count + 1)), device)


def edge_type(device: torch.device) -> torch.dtype:
    """Return the type of a graph's edges: half precision where products can sum in float32."""
    summing = hasattr(torch.ops.aten.bmm, "dtype")  # torch 2.8
    return torch.float16 if device.type == "cuda" and summing else torch.float32


def _exact_product(edges: Tensor, digits: Tensor) -> Tensor:
    digits = digits.to(edges.dtype)
    if edges.dtype == torch.float16:
        return torch.bmm(edges, digits, out_dtype=torch.float32)
    return torch.bmm(edges, digits)


def cut_vectors(
    graph: BatchGraph, eps: float, live: Tensor, linked: Tensor, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Return the second generalised eigenvectors of graphs restricted to some patches.

    Args:
        graph: The graphs of the whole images.
        eps: Affinity of patches that are not alike, > 0.
        live: (B, n) bool, the nodes.
        linked: (B, n) bool, nodes that keep their edges; others are alike to nothing.
        steps: Lanczos steps at most.

    Returns:
        ``vectors`` (B, n) float64 with ``v' D v = 1``, 0 where not live, the sign as in
        ``u2seg.masks.ncut.fix_sign``; and ``converged`` (B,) bool: the residual is below
        ``ncut.TOLERANCE`` and the gap to the next Ritz value above 1e-6.
    """
    keep = linked.double()
    degree, scale = _degrees(graph, eps, live, keep)

    linked_scale = scale * keep
    weight = (1 - eps) * linked_scale

    def multiply(z: Tensor) -> Tensor:
        common = (scale * z).sum(dim=1, keepdim=True) * eps
        return torch.addcmul(common * scale, weight, graph.multiply(linked_scale * z))

    top = _unit(degree.sqrt() * live)
    start = start_vector(live.shape[1], live.device) * live
    basis, diagonal, off = _lanczos(multiply, start, top, max(1, min(steps, live.shape[1] - 1)))
    small, residual, single = top_eigenvector(diagonal, off[:, :-1])
    z = torch.bmm(small[:, None], basis)[:, 0]
    converged = torch.maximum(residual, off[:, -1] * small[:, -1].abs()) < TOLERANCE
    converged &= single
    # One more product makes plateaus exact, see ncut.
    v = scale * multiply(z)
    norm = (degree * v * v).sum(dim=1, keepdim=True).sqrt()
    v = v / norm.masked_fill(norm == 0, 1.0)
    return fix_signs(v), converged


def _degrees(graph: BatchGraph, eps: float, live: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return D and D^-1/2 as (B, n) float64: 1 and 0 where not live."""
    nodes = live.sum(dim=1, keepdim=True)
    degree = eps * nodes + (1 - eps) * (keep * graph.multiply(keep))
    degree = degree.masked_fill(~live, 1.0)
    return degree, live / degree.sqrt()


@functools.lru_cache(maxsize=8)
def start_vector(size: int, device: torch.device) -> Tensor:
    """Return (n,) float64, the start of the iteration in ``ncut``; kept on the device."""
    return upload(np.random.default_rng(0).standard_normal(size), device)


def _lanczos(
    multiply: Callable[[Tensor], Tensor], start: Tensor, top: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the basis (B, k, n), and diagonal and off-diagonal, (B, k), of the small matrix.

    Once an image's space is exhausted its rows are zero, with a diagonal of -1, the lowest that
    an eigenvalue can be.
    """
    count, size = start.shape
    # The known vector comes first: one product makes a vector orthogonal to it and to the others.
    basis = start.new_zeros((count, steps + 1, size))
    basis[:, 0] = top
    rest = _orthogonal(start, basis[:, :1])
    length = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
    alive = length >= EXHAUSTED
    diagonal, off = [], []
    for k in range(1, steps + 1):
        torch.mul(rest, alive / length.clamp(min=EXHAUSTED), out=basis[:, k])
        product = multiply(basis[:, k])
        value = torch.linalg.vecdot(basis[:, k], product)[:, None]
        diagonal.append(value.masked_fill(~alive, -1.0))
        rest = _orthogonal(product, basis[:, : k + 1])
        length = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
        alive = alive & (length >= EXHAUSTED)
        off.append(length * alive)
    return basis[:, 1:], torch.cat(diagonal, dim=1), torch.cat(off, dim=1)


def _unit(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length.masked_fill(length == 0, 1.0)


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """Return the part of (B, n) vectors orthogonal to a (B, k, n) basis."""
    for _ in range(2):  # twice is enough (Kahan, Parlett)
        parts = torch.bmm(basis, vectors[..., None])
        vectors = torch.baddbmm(vectors[:, None], parts.transpose(1, 2), basis, alpha=-1)[:, 0]
    return vectors


def top_eigenvector(diagonal: Tensor, off: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the eigenvectors of the largest eigenvalue of symmetric tridiagonal matrices.

    The matrix (T + 1) / 2 is squared until only its largest eigenvalue is left: every column is
    then a multiple of the eigenvector.

    Args:
        diagonal: (B, k) float64; all eigenvalues in -1..1.
        off: (B, k - 1) float64.

    Returns:
        ``vectors`` (B, k) of length 1; ``residual`` (B,), |T s - mu s|; and ``single`` (B,) bool:
        the next eigenvalue is 1e-6 or more below.

    Examples:
        >>> vector, residual, single = top_eigenvector(
        ...     torch.zeros((2, 2), dtype=torch.float64),
        ...     torch.tensor([[0.5], [1e-9]], dtype=torch.float64),
        ... )
        >>> [round(float(x), 6) for x in vector[0].abs()], bool(residual[0] < 1e-12)
        ([0.707107, 0.707107], True)
        >>> single.tolist()
        [True, False]
    """
    matrix = torch.diag_embed(diagonal)
    matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    power = (matrix + torch.eye(diagonal.shape[1], dtype=matrix.dtype, device=matrix.device)) / 2
    for count in range(1, SQUARINGS + 1):
        power = torch.bmm(power, power)
        largest = torch.linalg.vector_norm(power, math.inf, dim=(1, 2), keepdim=True)
        power = power / largest.clamp(min=SMALLEST)
        if count == GAP_SQUARINGS:
            # Of rank one if one eigenvalue is left: the trace is the norm then.
            trace = torch.diagonal(power, dim1=1, dim2=2).sum(dim=1)
            single = trace < torch.linalg.matrix_norm(power) * (1 + 1e-6)
    column = torch.diagonal(power, dim1=1, dim2=2).argmax(dim=1)
    index = column[:, None, None].expand(-1, power.shape[1], 1)
    vector = _unit(power.gather(2, index)[..., 0])
    image = torch.bmm(matrix, vector[..., None])[..., 0]
    value = (vector * image).sum(dim=1, keepdim=True)
    return vector, torch.linalg.vector_norm(image - value * vector, dim=1), single


def fix_signs(vectors: Tensor) -> Tensor:
    """Return (B, n) vectors or their negatives, as ``ncut.fix_sign``."""
    modulus = vectors.abs()
    tied = modulus >= modulus.amax(dim=1, keepdim=True) * (1 - 1e-9)
    first = vectors.gather(1, first_index(tied)[:, None])
    return torch.where(first < 0, -vectors, vectors)


def first_index(chosen: Tensor) -> Tensor:
    """Return (B,) int64, the first true entry of every row of (B, n) bool; 0 if there is none.

    Examples:
        >>> first_index(torch.tensor([[False, True, True], [False, False, False]])).tolist()
        [1, 0]
    """
    size = chosen.shape[1]
    order = torch.arange(size, device=chosen.device)
    found = order.expand(chosen.shape).masked_fill(~chosen, size).amin(dim=1)
    return found.masked_fill(found == size, 0)
