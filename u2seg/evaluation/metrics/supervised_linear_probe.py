"""How much of the truth a linear classifier reads out of features: an evaluation, not a method.

It is trained with ground truth, so it says ``supervised`` and nothing in label generation may
use it.

Shapes: N training positions, M others, K channels, C classes.
Source: STEGO commit eb4d6b5, src/train_segmentation.py (linear probe: 1x1 convolution on
detached codes, cross-entropy, Adam 5e-3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORE = 255


@dataclass(frozen=True)
class SupervisedLinearProbe:
    """A linear classifier of codes.

    Args:
        weight: (C, K) float32.
        bias: (C,) float32.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def predict(self, codes: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return (M,) int64 classes 0..C-1 of (M, K) codes."""
        classes: npt.NDArray[np.int64] = (codes @ self.weight.T + self.bias).argmax(axis=1)
        return classes


def supervised_linear_probe(
    codes: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    num_classes: int,
    *,
    steps: int = 500,
    lr: float = 5e-3,
    batch_size: int = 8192,
    seed: int = 0,
) -> SupervisedLinearProbe:
    """Return a linear classifier trained by Adam on (N, K) codes and their true classes.

    Args:
        codes: (N, K) float32.
        labels: (N,) integers: class 0..C-1; 255 is left out.
        num_classes: C >= 1.
        steps: Adam steps, >= 1.
        lr: Learning rate.
        batch_size: Positions per step, drawn at random; all if there are fewer.
        seed: Of the draws.

    Raises:
        ValueError: if shapes do not fit, a label is out of range, or none is left.

    Examples:
        >>> codes = np.array([[1, 0], [2, 0], [0, 1], [0, 3]], dtype=np.float32)
        >>> probe = supervised_linear_probe(codes, np.array([0, 0, 1, 1]), 2, steps=50)
        >>> probe.predict(np.array([[5, 1], [1, 5]], dtype=np.float32)).tolist()
        [0, 1]
    """
    import torch
    from torch.nn import functional

    codes, labels = _checked(codes, labels, num_classes)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(codes), torch.from_numpy(labels)
    weight = torch.zeros((num_classes, codes.shape[1]), requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=lr)
    for _ in range(steps):
        if len(x) > batch_size:
            pick = torch.randint(len(x), (batch_size,), generator=generator)
            logits, target = functional.linear(x[pick], weight, bias), y[pick]
        else:
            logits, target = functional.linear(x, weight, bias), y
        optimizer.zero_grad()
        functional.cross_entropy(logits, target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return SupervisedLinearProbe(weight.detach().numpy(), bias.detach().numpy())


def _checked(
    codes: npt.NDArray[np.float32], labels: npt.NDArray[np.integer], num_classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    if codes.ndim != 2 or labels.shape != codes.shape[:1]:
        raise ValueError(f"codes (N, K) and labels (N,) needed, got {codes.shape}, {labels.shape}")
    kept = labels != IGNORE
    codes, classes = codes[kept].astype(np.float32), labels[kept].astype(np.int64)
    if len(classes) == 0:
        raise ValueError("no labelled position is left")
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(
            f"labels span {classes.min()}..{classes.max()}, expected 0..{num_classes - 1} or 255"
        )
    return codes, classes
