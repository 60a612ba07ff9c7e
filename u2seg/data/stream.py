"""The endless stream of training samples, which can begin at any iteration.

Order, augmentations and the seeds of later sampling depend on one seed and on a sample's place in
the run, its *draw*: not on the number of processes, nor of loading workers, nor on whether the
training was interrupted.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import logging
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.load import settings_from_cfg
from u2seg.data.copy_paste import CopyPaste
from u2seg.data.mapper import EVERYTHING, PanopticMapper
from u2seg.errors import UserError
from u2seg.labels import LabelFolder
from u2seg.structures.draws import DRAW, DRAW_SEED, derived_seed

logger = logging.getLogger(__name__)
Sample = dict[str, Any]
Indices = npt.NDArray[np.int64]

_AUGMENTATION, _LATER, _STEP = range(3)


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """Return what a process seeds the shared generators with before an iteration."""
    return derived_seed(seed, iteration, rank, _STEP)


def seed_everything(seed: int, *, gpus: bool = True) -> None:
    """Seed the generators that libraries share: ``random``, NumPy's and torch's."""
    import torch

    random.seed(seed)
    # The host's augmentations use the generator that NumPy advises against.
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))  # noqa: NPY002
    if gpus:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block with the CPU's shared generators seeded; afterwards they are as before."""
    import torch

    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed_everything(seed, gpus=False)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(tensors)


def epoch_permutation(count: int, seed: int, epoch: int) -> Indices:
    """Return a permutation of ``range(count)`` that depends on the three numbers alone.

    It sorts raw random words, whose values NumPy promises to keep in all versions.

    Examples:
        >>> sorted(epoch_permutation(5, seed=1, epoch=0).tolist())
        [0, 1, 2, 3, 4]
    """
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch)))
    words = np.asarray(bits.random_raw(count), dtype=np.uint64)
    return np.argsort(words, kind="stable").astype(np.int64)


class BatchOrder:
    """The batches of a run, by iteration: arithmetic, without a state to keep.

    Each epoch is a permutation of its own. Images of a group (wide or tall) wait until they fill a
    batch, across epochs if need be, as in Detectron2's aspect ratio grouping; but the batches are
    those of the whole run, so they do not depend on how many processes share them. Any iteration
    is reached without going through the ones before.

    Args:
        groups: Group of each image; a batch holds images of one group.
        batch: B, images per batch of all processes together, >= 1.
        permutation: Epoch -> order of the N images.

    Raises:
        ValueError: if there is no image or ``batch`` is below 1.

    Examples:
        Three images, the last one of another group, in batches of two, never shuffled. The third
        one waits for its second epoch.

        >>> order = BatchOrder([0, 0, 1], 2, lambda epoch: np.arange(3))
        >>> [order.batch(iteration).tolist() for iteration in range(4)]
        [[0, 1], [0, 1], [2, 2], [0, 1]]
    """

    def __init__(
        self, groups: Sequence[int], batch: int, permutation: Callable[[int], Indices]
    ) -> None:
        if len(groups) == 0 or batch < 1:
            raise ValueError(f"{len(groups)} images in batches of {batch}: nothing to draw")
        self._groups = np.unique(np.asarray(groups), return_inverse=True)[1]
        self._counts = np.bincount(self._groups).tolist()
        self._batch = batch
        self._permutation = permutation
        # A batch may reach back by B / (smallest group) epochs; more than a few are rare.
        self._members = functools.lru_cache(maxsize=4)(self._split)
        self._closing = functools.lru_cache(maxsize=2)(self._closing_order)

    def batch(self, iteration: int) -> Indices:
        """Return the (B,) image indices of an iteration >= 0."""
        epoch = self._epoch_of(iteration)
        group, number = self._closing(epoch)[iteration - self._ended(epoch)]
        return self._slice(group, number)

    def _ended(self, epoch: int) -> int:
        """Return how many batches are complete before an epoch begins."""
        return sum(count * epoch // self._batch for count in self._counts)

    def _epoch_of(self, iteration: int) -> int:
        # ended(e) <= e * N / B, so this first guess is never too late
        epoch = iteration * self._batch // sum(self._counts)
        while self._ended(epoch + 1) <= iteration:
            epoch += 1
        return int(epoch)

    def _split(self, epoch: int) -> list[tuple[Indices, Indices]]:
        """Return the images of each group in the epoch's order, and their places in it."""
        drawn = self._permutation(epoch)
        kinds = self._groups[drawn]
        places = [np.flatnonzero(kinds == group) for group in range(len(self._counts))]
        return [(drawn[place], place) for place in places]

    def _closing_order(self, epoch: int) -> list[tuple[int, int]]:
        """Return (group, number of the batch in it) of the batches an epoch completes."""
        closed = []
        for group, (_, places) in enumerate(self._members(epoch)):
            before = self._counts[group] * epoch
            after = before + self._counts[group]
            for number in range(before // self._batch, after // self._batch):
                last = (number + 1) * self._batch - 1 - before
                closed.append((int(places[last]), group, number))
        return [(group, number) for _, group, number in sorted(closed)]

    def _slice(self, group: int, number: int) -> Indices:
        count, start = self._counts[group], number * self._batch
        epochs, offsets = np.divmod(np.arange(start, start + self._batch), count)
        result = np.empty(self._batch, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            result[here] = self._members(epoch)[group][0][offsets[here]]
        return result


@dataclass(frozen=True)
class StreamPlan:
    """What decides the order of a stream, and a process's part in it.

    Args:
        seed: Of order and augmentations, >= 0.
        batch: Images per iteration in all processes together.
        grouped: Whether a batch holds only wide or only tall photographs.
        rank: This process, 0..world - 1.
        world: Number of processes, a divisor of ``batch``.
        workers: Loading processes of this one; 0 = it loads itself.

    Raises:
        UserError: if the batch cannot be shared evenly.
    """

    seed: int
    batch: int
    grouped: bool = True
    rank: int = 0
    world: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.world:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH {self.batch} must be a multiple of the number of "
                f"processes, {self.world}"
            )

    @property
    def share(self) -> int:
        """Images per iteration in this process."""
        return self.batch // self.world


class TrainStream:
    """Iterable of lists of ``plan.share`` samples, without end.

    Loading begins with the first ``next``, so ``start_iteration`` and ``seed`` may still be
    changed after ``iter``.

    Args:
        records: Data set in Detectron2's format, with ``height`` and ``width``.
        mapper: Record -> sample; may use the shared random generators.
        plan: Order and part.
        transform: Seed -> what changes each list of samples, in this process.
        memory: How many earlier batches it remembers; when a training is resumed, they are
            loaded again.
        labels: Digest of the labels, from ``LabelFolder.digest``; empty = unknown.
        folder: Where they lie, for messages.
    """

    def __init__(
        self,
        records: Sequence[Sample],
        mapper: Callable[[Sample], Sample],
        plan: StreamPlan,
        *,
        transform: Callable[[int], CopyPaste] | None = None,
        memory: int = 0,
        labels: str = "",
        folder: str = "",
    ) -> None:
        self.records = records
        self.mapper = mapper
        self.plan = plan
        self.transform = transform
        self.memory = memory if transform else 0
        self.labels = labels
        self.folder = folder
        self.seed = plan.seed
        self.start_iteration = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what the samples depend on besides the settings."""
        return {"seed": self.seed, "images": len(self.records), "labels": self.labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the order of ``state_dict``, with its seed."""
        then, now = state.get("labels", ""), self.labels  # earlier versions did not note them
        changed = ""
        if state["images"] != len(self.records):
            changed = f"{state['images']} images, there are {len(self.records)} now"
        elif then and now and then != now:
            changed = f"other labels of these images (digest {then[:12]}, now {now[:12]})"
        if changed:
            raise UserError(
                f"the training began with {changed}: U2SEG.DATA.LABELS {self.folder} was labelled "
                "anew since. Put back what it held (u2seg label makes the same labels "
                "of the same photographs and settings), or start anew in another OUTPUT_DIR "
                "(MODEL.WEIGHTS may name the last checkpoint)"
            )
        self.seed = state["seed"]

    def order(self) -> BatchOrder:
        """Return the batches of all processes together, by iteration."""
        wide = [int(r["width"] > r["height"]) if self.plan.grouped else 0 for r in self.records]
        permutation = functools.partial(epoch_permutation, len(wide), self.seed)
        return BatchOrder(wide, self.plan.batch, permutation)

    def __iter__(self) -> Iterator[list[Sample]]:
        transform = self.transform(self.seed) if self.transform else None
        first = max(0, self.start_iteration - self.memory)
        loaded = iter(self._loader(first))
        for iteration in itertools.count(first):
            samples = list(itertools.islice(loaded, self.plan.share))
            if transform is None:
                yield samples
            elif iteration < self.start_iteration:
                transform.remember(samples)
            else:
                yield transform(samples)

    def _draws(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield (draw, image index) of this process from an iteration on."""
        order, plan = self.order(), self.plan
        offset = plan.rank * plan.share
        for iteration in itertools.count(first):
            images = order.batch(iteration)[offset : offset + plan.share].tolist()
            draw = iteration * plan.batch + offset
            yield from zip(range(draw, draw + plan.share), images, strict=True)

    def _loader(self, first: int) -> Any:
        import torch
        from torch.utils.data import DataLoader

        workers, share = self.plan.workers, self.plan.share
        return DataLoader(
            _Samples(self.records, self.mapper, self.seed),  # type: ignore[arg-type]
            sampler=self._draws(first),
            batch_size=None,
            collate_fn=copy.copy,
            num_workers=workers,
            # two batches ahead, however few the workers
            prefetch_factor=max(2, -(-2 * share // workers)) if workers else None,
            # or it would take a number from the shared generator
            generator=torch.Generator(),
            worker_init_fn=_leave_interrupts,
        )


class _Samples:
    """Data set of torch: (draw, image index) -> sample."""

    def __init__(
        self, records: Sequence[Sample], mapper: Callable[[Sample], Sample], seed: int
    ) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        draw, image = place
        with seeded(derived_seed(self.seed, draw, _AUGMENTATION)):
            sample = self.mapper(self.records[image])
        sample[DRAW] = draw
        sample[DRAW_SEED] = derived_seed(self.seed, draw, _LATER)
        return sample


def _leave_interrupts(_worker: int) -> None:
    """Let Ctrl-C be the main process's to handle: it may still need samples."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_train_loader(cfg: Any, tasks: frozenset[str] = EVERYTHING) -> TrainStream:
    """Return the training stream of a config, for this process of the group."""
    from detectron2.data import DatasetCatalog, DatasetFromList
    from detectron2.utils import comm

    loading, data = cfg.DATALOADER, cfg.U2SEG.DATA
    if loading.SAMPLER_TRAIN != "TrainingSampler":
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN is {loading.SAMPLER_TRAIN!r}, expected 'TrainingSampler': "
            "every image is drawn once per epoch"
        )
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    if loading.FILTER_EMPTY_ANNOTATIONS:
        records = _with_things(records)
    plan = StreamPlan(
        seed=int(cfg.SEED) if cfg.SEED >= 0 else int(comm.shared_random_seed()),
        batch=int(cfg.SOLVER.IMS_PER_BATCH),
        grouped=bool(loading.ASPECT_RATIO_GROUPING),
        rank=comm.get_rank(),
        world=comm.get_world_size(),
        workers=int(loading.NUM_WORKERS),
    )
    # Serialized: worker processes would copy a list of dictionaries as they count references.
    records = DatasetFromList(records, copy=False)
    paste = settings_from_cfg(cfg).copy_paste
    pastes = paste.enabled and bool(tasks & {"things", "prompts", "embedding"})
    return TrainStream(
        records,
        PanopticMapper.from_cfg(cfg, True, tasks),
        plan,
        transform=functools.partial(CopyPaste, paste) if pastes else None,
        memory=paste.memory,
        labels=LabelFolder.open(data.LABELS, data.IMAGES).digest() if data.LABELS else "",
        folder=str(data.LABELS),
    )


def _with_things(records: list[Sample]) -> list[Sample]:
    """Return the records with a thing that is no crowd, as the host's filter does."""
    kept = [r for r in records if any(not a.get("iscrowd", 0) for a in r.get("annotations", ()))]
    if not kept:
        raise UserError(
            f"none of {len(records)} training images has a thing: set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on their stuff"
        )
    logger.info("%d of %d images have things and are trained on", len(kept), len(records))
    return kept
