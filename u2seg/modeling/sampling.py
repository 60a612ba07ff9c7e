"""Training samples and losses that do not depend on how many processes share a batch.

Three things of the host do: which anchors and proposals are sampled (one generator per process,
used image after image), losses that are means over what a process happens to hold, and the size
images are padded to. Here each image has generators of its own, each mean is weighted by its
share of the whole batch, and images may be padded to the largest of all processes.

Shapes: N anchors or proposals of one image, K thing classes, W processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm

from u2seg.modeling.shared_masks import with_shared_masks
from u2seg.structures.draws import DRAW_SEED

Counts = Mapping[str, torch.Tensor | int]
"""Name of a loss -> how many things this process took its mean over."""
ANCHORS, PROPOSALS = 0, 1
"""Streams of random numbers of one image."""
OWN_PARTS = {
    "RPN": "SeededRPN",
    "CascadeROIHeads": "SeededCascadeROIHeads",
    "MaskRCNNConvUpsampleHead": "OwnClassMaskHead",
}
"""Registered parts of the host -> ours: a generator per image, masks of the own class alone."""


def with_own_parts(cfg: Any) -> Any:
    """Return a copy of a config whose proposal generator and heads are those of this package.

    Parts of other names stay; parameters and their names are the same.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for node in (cfg.MODEL.PROPOSAL_GENERATOR, cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_MASK_HEAD):
        node.NAME = OWN_PARTS.get(node.NAME, node.NAME)
    return cfg


def give_seeds(model: Any, samples: Sequence[Mapping[str, Any]]) -> None:
    """Give the sampling parts of a model the seeds of a batch, or none if a sample lacks one."""
    complete = all(DRAW_SEED in sample for sample in samples)
    seeds = [int(sample[DRAW_SEED]) for sample in samples] if complete else None
    for part in (model.proposal_generator, model.roi_heads):
        if isinstance(part, SeededSampling):
            part.image_seeds = seeds


class CommonPadding:
    """Mixin of models: with ``common_padding`` all processes pad to the largest image of any."""

    training: bool
    common_padding = False

    def preprocess_image(self, batched_inputs: Any) -> ImageList:
        """Return the normalized images of a batch, padded at the right and bottom."""
        images: ImageList = super().preprocess_image(batched_inputs)  # type: ignore[misc]
        if not (self.training and self.common_padding) or comm.get_world_size() == 1:
            return images
        height, width = images.tensor.shape[-2:]
        largest = torch.tensor([height, width], device=images.tensor.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        missing = [side - own for side, own in zip(largest.tolist(), (height, width), strict=True)]
        padded = F.pad(images.tensor, (0, missing[1], 0, missing[0]))
        return ImageList(padded, images.image_sizes)


class SeededSampling:
    """Mixin of parts that sample: one generator per image, from ``image_seeds``.

    With ``image_seeds`` None they sample as the host does, from the shared generator.
    """

    image_seeds: list[int] | None = None
    _image = 0

    def begin_batch(self) -> None:
        """Start again with the first image."""
        self._image = 0

    def next_generator(self, stream: int, device: torch.device) -> torch.Generator | None:
        """Return the generator of the next image; None if there are no seeds.

        Args:
            stream: ``ANCHORS`` or ``PROPOSALS``: their numbers must not be related.
            device: Of the labels that are sampled.
        """
        if self.image_seeds is None:
            return None
        seed = self.image_seeds[self._image]
        self._image += 1
        # a change of the low bits: torch's generator on the CPU ignores all but 32
        return torch.Generator(device).manual_seed(seed ^ (stream * 0x9E3779B9))


def sample_labels(
    labels: torch.Tensor,
    count: int,
    positive_fraction: float,
    background: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random positives and negatives, by the rule of the host's ``subsample_labels``.

    Args:
        labels: (N,) integers: -1 is never sampled, ``background`` is negative, others positive.
        count: Wanted in all; fewer where there are not enough.
        positive_fraction: Positives are at most this share of ``count``, rounded down; negatives
            fill the rest.
        background: The negative label.
        generator: On the device of ``labels``.

    Returns:
        Indices of the positives and of the negatives, each in random order.

    Examples:
        Three positives, of which half of four may be taken, and one negative.

        >>> labels = torch.tensor([5, -1, 9, 5, 5])
        >>> positives, negatives = sample_labels(labels, 4, 0.5, 9, torch.Generator())
        >>> len(positives), set(positives.tolist()) <= {0, 3, 4}, negatives.tolist()
        (2, True, [2])
    """
    positive = torch.nonzero((labels != -1) & (labels != background))[:, 0]
    negative = torch.nonzero(labels == background)[:, 0]
    wanted = min(len(positive), int(count * positive_fraction))
    return _some(positive, wanted, generator), _some(negative, count - wanted, generator)


def _some(indices: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randperm(len(indices), generator=generator, device=indices.device)
    return indices[drawn[: min(count, len(indices))]]


class SharedCascade(SeededSampling):
    """Mixin of ``CascadeROIHeads``: seeded proposals, and counts for ``weigh_losses``."""

    num_classes: int
    batch_size_per_image: int
    positive_fraction: float
    loss_counts: Counts = MappingProxyType({})

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Return the sampled proposals with their targets, as the host does; count them.

        Their ``gt_masks`` refer to those of ``targets``, where the host copies them.
        """
        self.begin_batch()
        sampled: list[Instances] = super().label_and_sample_proposals(  # type: ignore[misc]
            proposals, with_shared_masks(targets)
        )
        classes = torch.cat([p.gt_classes for p in sampled])
        foreground = ((classes >= 0) & (classes < self.num_classes)).sum()
        self.loss_counts = {"loss_mask": foreground, **_stage_counts(0, sampled)}
        return sampled

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> Any:
        generator = self.next_generator(PROPOSALS, matched_idxs.device)
        if generator is None:
            return super()._sample_proposals(matched_idxs, matched_labels, gt_classes)  # type: ignore[misc]
        if len(gt_classes):
            labels = gt_classes[matched_idxs]
            labels[matched_labels == 0] = self.num_classes
            labels[matched_labels == -1] = -1
        else:
            labels = torch.full_like(matched_idxs, self.num_classes)
        chosen = torch.cat(
            sample_labels(
                labels, self.batch_size_per_image, self.positive_fraction, self.num_classes,
                generator,
            )
        )  # fmt: skip
        return chosen, labels[chosen]

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: Sequence[Instances]
    ) -> list[Instances]:
        labelled: list[Instances] = super()._match_and_label_boxes(proposals, stage, targets)  # type: ignore[misc]
        self.loss_counts = {**self.loss_counts, **_stage_counts(stage, labelled)}
        return labelled


def _stage_counts(stage: int, proposals: Sequence[Instances]) -> dict[str, int]:
    count = sum(len(p) for p in proposals)
    return {f"loss_cls_stage{stage}": count, f"loss_box_reg_stage{stage}": count}


def weigh_losses(losses: dict[str, torch.Tensor], counts: Counts) -> dict[str, torch.Tensor]:
    """Return losses whose mean over the processes is the mean over the whole batch.

    A mean over n_r of n things counts W x n_r / n, so that the averaged gradients are those of
    one process with the whole batch. All processes must call this together; one alone changes
    nothing.

    Args:
        losses: Name -> mean over this process's things; 0 where there is none.
        counts: For the losses that are such means; the same names in all processes. Others, like
            those of the RPN, are sums over images and stay as they are.
    """
    names = [name for name in sorted(counts) if name in losses]
    if comm.get_world_size() == 1 or not names:
        return losses
    device = losses[names[0]].device
    local = torch.stack([torch.as_tensor(counts[n], device=device).double() for n in names])
    total = local.clone()
    dist.all_reduce(total)
    factors = shares(local, total, comm.get_world_size())
    weighed = {n: losses[n] * f.to(losses[n].dtype) for n, f in zip(names, factors, strict=True)}
    return {**losses, **weighed}


def shares(local: torch.Tensor, total: torch.Tensor, world: int) -> torch.Tensor:
    """Return W x n_r / n, and 0 where n is 0.

    Examples:
        Two processes: this one has 3 of 4 proposals, and none of no mask.

        >>> shares(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0]), 2).tolist()
        [1.5, 0.0]
    """
    return local * world / total.clamp(min=1)
