"""Models of Detectron2 as students."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN, PanopticFPN, SemanticSegmentor
from torch import Tensor, nn

from u2seg.modeling.outputs import segmentation_of_outputs
from u2seg.modeling.student import OptimizerSettings, Sample, default_groups, names_below
from u2seg.structures.labels import LabelSpace
from u2seg.structures.segmentation import Segmentation


class HostStudent:
    """What makes a student of a meta-architecture of Detectron2; a base class before it.

    Last layers are those of the host's box, mask and semantic heads. ``head_factor`` is about box
    and mask heads, as in U2Seg's low-shot recipe (Dantong88/U2Seg_eff, commit d68ed46).
    """

    tasks = frozenset({"things", "stuff"})

    def losses(self: Any, batch: Sequence[Sample]) -> dict[str, Tensor]:
        """Return the model's losses."""
        result: dict[str, Tensor] = self(batch)
        return result

    def predict(self: Any, images: Sequence[Sample], prompts: Any = None) -> list[Segmentation]:
        """Return the model's outputs as segmentations; it takes no prompts."""
        space = label_space(self)
        return [segmentation_of_outputs(outputs, space) for outputs in self(images)]

    def parameter_groups(self: Any, settings: OptimizerSettings) -> list[dict[str, Any]]:
        """Return Detectron2's groups, box and mask layers at ``head_factor``."""
        last = [layer for pair in _box_layers(self) for layer in pair]
        return default_groups(self, settings, names_below(self, [*last, *_mask_layers(self)]))

    def class_layers(self: Any) -> frozenset[str]:
        """Return the layers of one row or more for each class; what all classes share is none."""
        layers = [scores for scores, _ in _box_layers(self)]
        layers += [boxes for _, boxes in _box_layers(self) if boxes.out_features != 4]
        layers += [masks for masks in _mask_layers(self) if masks.out_channels != 1]
        semantic = getattr(getattr(self, "sem_seg_head", None), "predictor", None)
        return names_below(self, [*layers, *([semantic] if semantic is not None else [])])


def host_student(name: str) -> Callable[[Any], Any]:
    """Return the class of a model of the host, as a student, to be called with a config."""
    architecture = META_ARCH_REGISTRY.get(name)
    if issubclass(architecture, HostStudent):
        return architecture  # type: ignore[no-any-return]
    tasks = HostStudent.tasks
    if issubclass(architecture, SemanticSegmentor):
        tasks = frozenset({"stuff"})
    elif issubclass(architecture, GeneralizedRCNN) and not issubclass(architecture, PanopticFPN):
        tasks = frozenset({"things"})
    return type(name, (HostStudent, architecture), {"tasks": tasks})


def label_space(model: Any) -> LabelSpace:
    """Return the numbers of clusters that a model of the host has heads for."""
    heads = getattr(model, "roi_heads", model)
    semantic = getattr(getattr(model, "sem_seg_head", None), "predictor", None)
    things = int(getattr(heads, "num_classes", 0))
    return LabelSpace(things, int(semantic.out_channels) - 1 if semantic is not None else 0)


def box_stages(roi_heads: Any) -> list[Any]:
    """Return the box predictor of each stage of (cascade) ROI heads."""
    predictor: Any = getattr(roi_heads, "box_predictor", None)
    return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]


def _box_layers(model: Any) -> list[tuple[Any, Any]]:
    """Return (class scores, boxes) of each stage of the box head."""
    stages = box_stages(getattr(model, "roi_heads", None))
    return [(s.cls_score, s.bbox_pred) for s in stages if hasattr(s, "cls_score")]


def _mask_layers(model: Any) -> list[Any]:
    head: Any = getattr(getattr(model, "roi_heads", None), "mask_head", None)
    return [head.predictor] if hasattr(head, "predictor") else []
