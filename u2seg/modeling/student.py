"""What is trained: the contract of a student, and the table of students.

A student is a ``torch.nn.Module`` with the methods of ``Student``, registered in ``STUDENTS`` and
chosen by ``MODEL.META_ARCHITECTURE``. It says itself what it learns (``tasks``) and how it wants to
be optimized; nothing else of the package asks for its class or for names of its layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from u2seg.errors import UserError
from u2seg.registry import Registry
from u2seg.structures.segmentation import Segmentation

Sample = dict[str, Any]
TASKS = frozenset({"things", "stuff", "prompts", "embedding"})
STUDENTS = Registry("student", ("u2seg.modeling.cascade",))
_NORMS = (
    nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm,
)  # fmt: skip
"""Layers that ``SOLVER.WEIGHT_DECAY_NORM`` is about; ``_BatchNorm`` is also SyncBN."""


@dataclass(frozen=True)
class OptimizerSettings:
    """What a config says about learning rates and weight decay.

    Args:
        rate: ``SOLVER.BASE_LR``.
        weight_decay: ``SOLVER.WEIGHT_DECAY``.
        norm_decay: ``SOLVER.WEIGHT_DECAY_NORM``; None = as ``weight_decay``.
        bias_decay: ``SOLVER.WEIGHT_DECAY_BIAS``; None = as that of the layer.
        bias_factor: ``SOLVER.BIAS_LR_FACTOR``, the rate of biases over ``rate``.
        head_factor: ``U2SEG.TRAIN.HEAD_LR_FACTOR``, the rate of the last layers over ``rate``.
    """

    rate: float
    weight_decay: float = 0.0
    norm_decay: float | None = None
    bias_decay: float | None = None
    bias_factor: float = 1.0
    head_factor: float = 1.0


class Student(Protocol):
    """A model that is trained; a ``torch.nn.Module`` too.

    It is built as ``factory(cfg)`` from the whole config, and put on ``MODEL.DEVICE`` afterwards.
    ``tasks`` is an attribute of the class, a subset of ``TASKS``: what its samples must hold.
    """

    tasks: frozenset[str]

    def losses(self, batch: Sequence[Sample]) -> dict[str, Tensor]:
        """Return the losses of a batch by name, scalars that are summed; in training mode.

        Args:
            batch: One dictionary per image: ``image`` (3, h, w) uint8 in the channel order of
                ``INPUT.FORMAT``; with the task ``things`` or ``prompts`` ``instances`` (host's
                ``Instances`` with ``gt_boxes``, ``gt_classes`` 0..K-1, ``gt_masks``; may be empty);
                with ``stuff`` ``sem_seg`` (h, w) int64, 0 any thing, 1..S stuff, 255 void; with
                ``embedding`` both.
        """

    def predict(self, images: Sequence[Sample], prompts: Any = None) -> list[Segmentation]:
        """Return what is seen in each image; in evaluation mode, without gradients.

        Args:
            images: ``image`` as in training, resized; ``height`` and ``width`` of the result.
            prompts: Of each image, for the task ``prompts``.
        """

    def parameter_groups(self, settings: OptimizerSettings) -> list[dict[str, Any]]:
        """Return groups of torch's optimizers: ``params``, ``lr``, ``weight_decay`` ..."""

    def class_layers(self) -> frozenset[str]:
        """Return the names of the parameters whose size depends on K or S."""


def default_groups(
    model: nn.Module, settings: OptimizerSettings, heads: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the groups of a model by Detectron2's rules, one for each pair of rate and decay.

    Args:
        model: Its parameters without gradient are left out.
        settings: Rates and decays.
        heads: Names of the parameters that have ``head_factor`` times the rate.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        >>> settings = OptimizerSettings(0.1, 0.5, norm_decay=0.0, head_factor=2.0)
        >>> groups = default_groups(model, settings, {"0.bias"})
        >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
        [(0.1, 0.5, 1), (0.2, 0.5, 1), (0.1, 0.0, 2)]
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    known: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in known:
                continue
            known.add(id(parameter))
            norm, rate, decay = isinstance(module, _NORMS), settings.rate, settings.weight_decay
            if norm and settings.norm_decay is not None:
                decay = settings.norm_decay
            if name == "bias":
                rate *= settings.bias_factor
                decay = decay if settings.bias_decay is None else settings.bias_decay
            if f"{prefix}.{name}".lstrip(".") in heads:
                rate *= settings.head_factor
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]


def names_below(model: nn.Module, parts: Collection[nn.Module]) -> frozenset[str]:
    """Return the names that a model has for the parameters of some of its modules."""
    wanted = {id(parameter) for part in parts for parameter in part.parameters()}
    return frozenset(name for name, p in model.named_parameters() if id(p) in wanted)


def student_tasks(cfg: Any) -> frozenset[str]:
    """Return the tasks of the student that ``MODEL.META_ARCHITECTURE`` names; it is not built."""
    name = str(cfg.MODEL.META_ARCHITECTURE)
    tasks = frozenset(getattr(_factory(name), "tasks", ()))
    if not tasks or tasks - TASKS:
        raise UserError(
            f"the student {name} has the tasks {sorted(tasks)}, expected some of {sorted(TASKS)}"
        )
    return tasks


def build_student(cfg: Any) -> Any:
    """Return the student of a config, with random weights, on ``MODEL.DEVICE``.

    Names that are not in ``STUDENTS`` are looked up in the host's ``META_ARCH_REGISTRY``; such a
    model becomes a student by ``host_student.HostStudent``.

    Raises:
        UserError: if no registry knows the name.
    """
    factory = _factory(str(cfg.MODEL.META_ARCHITECTURE))
    return factory(cfg).to(torch.device(str(cfg.MODEL.DEVICE)))


def _factory(name: str) -> Any:
    if name in STUDENTS.names():
        return STUDENTS.get(name)
    from u2seg.modeling.host_student import host_student

    return host_student(name)
