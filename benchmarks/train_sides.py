"""Both sides of the training benchmark: this package's trainer, and plain Detectron2's.

The peer is ``DefaultTrainer`` as it comes, with its own ``PanopticFPN``, ``CascadeROIHeads``,
``DatasetMapper``, loader, optimizer and writers, on the records of the same label folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenes.kinds import SCENE_LABELS

from u2seg.structures.labels import LabelSpace

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FEATURES = (
    "U2SEG.TRAIN.DROPLOSS", "True", "U2SEG.COPY_PASTE.ENABLED", "True",
    "U2SEG.TRAIN.EMA_DECAY", "0.999",
)  # fmt: skip
"""Everything that costs time; checks and telemetry cannot be switched off."""
PLAIN = ("U2SEG.TRAIN.DROPLOSS", "False", "U2SEG.COPY_PASTE.ENABLED", "False",
         "U2SEG.TRAIN.EMA_DECAY", "0.0", "U2SEG.TRAIN.PICTURES", "0")  # fmt: skip


@dataclass(frozen=True)
class TrainSizes:
    """What is trained; tests take small ones.

    Args:
        config: YAML of the model, below ``configs``.
        words: Settings that win over it.
        photographs: Scenes, if there is no label folder.
        side: Pixels a side of a scene.
        block: Iterations of a timed call.
        labels: Label folder; empty = scenes.
        space: Numbers of clusters of the scenes.
    """

    config: str = "quickstart/Base-R18-FPN.yaml"
    words: tuple[str, ...] = ()
    photographs: int = 48
    side: int = 512
    block: int = 3
    labels: str = ""
    space: LabelSpace = SCENE_LABELS


class Running:
    """A trainer that is stepped by hand, hooks included.

    Args:
        trainer: A ``DefaultTrainer``.
    """

    def __init__(self, trainer: Any) -> None:
        from detectron2.utils.events import EventStorage

        self.trainer = trainer
        trainer.iter = trainer.start_iter = 0
        self.storage = trainer.storage = EventStorage(0)
        self.cuda = next(trainer.model.parameters()).is_cuda
        with self.storage:
            trainer.before_train()

    def run(self, iterations: int) -> float:
        """Train for some iterations; return the last one's loss."""
        with self.storage:
            for _ in range(iterations):
                self.trainer.before_step()
                self.trainer.run_step()
                self.trainer.after_step()
                self.trainer.iter += 1
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        return float(self.storage.history("total_loss").latest())

    def close(self) -> None:
        """Close the files that the trainer's writers hold open."""
        for hook in self.trainer._hooks:
            for writer in getattr(hook, "_writers", ()):
                writer.close()


def config(sizes: TrainSizes, labels: Path, output: Path, more: Sequence[str] = ()) -> Any:
    """Return the frozen config of our side, its data registered."""
    from u2seg.host.setup import build_cfg
    from u2seg.labels import LabelFolder

    space = LabelFolder.open(labels).space
    words = [
        "U2SEG.CLUSTERS.NUM_CLUSTERS", str(space.num_things),
        "U2SEG.SEMANTICS.NUM_CLASSES", str(space.num_stuff),
        "U2SEG.DATA.LABELS", str(labels), "U2SEG.DATA.EVAL_ROOT", "", "OUTPUT_DIR", str(output),
        "SOLVER.CHECKPOINT_PERIOD", "1000000", "TEST.EVAL_PERIOD", "0", "SEED", "1",
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True", "TEST.PRECISE_BN.ENABLED", "False",
    ]  # fmt: skip
    return build_cfg(CONFIGS / sizes.config, [*words, *sizes.words, *PLAIN, *more], register=True)


def peer_config(cfg: Any, output: Path) -> Any:
    """Return the same for plain Detectron2: its own architecture and heads."""
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.META_ARCHITECTURE = "PanopticFPN"
    plain.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    plain.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    plain.OUTPUT_DIR = str(output)
    plain.freeze()
    return plain


def our_trainer(cfg: Any) -> Running:
    """Return our trainer of ``cfg``."""
    from u2seg.engine.trainer import Trainer

    return Running(Trainer(cfg, lambda _: None))


def peer_trainer(cfg: Any) -> Running:
    """Return Detectron2's trainer of ``cfg``."""
    from detectron2.engine import DefaultTrainer

    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    return Running(DefaultTrainer(cfg))


def largest_difference(cfg: Any, peer: Running, batches: int = 2) -> float:
    """Return how far losses differ, relative: our model with the peer's weights, on its batches.

    Args:
        cfg: Of our side; the features are switched off.
        peer: Its loader makes the batches.
        batches: How many.
    """
    import torch
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    theirs = peer.trainer.model
    ours = build_model(cfg).train()
    ours.load_state_dict(theirs.state_dict())
    largest = 0.0
    # A loader of its own: two iterators over the trainer's would disturb each other.
    loader = iter(peer.trainer.build_train_loader(peer.trainer.cfg))
    for number in range(batches):
        samples = next(loader)
        found = []
        for model in (ours, theirs):
            torch.manual_seed(number)
            with torch.no_grad(), EventStorage():
                found.append({name: float(v) for name, v in model(samples).items()})
        if found[0].keys() != found[1].keys():
            return float("inf")
        for name, value in found[1].items():
            largest = max(largest, abs(found[0][name] - value) / max(abs(value), 1e-6))
    return largest
