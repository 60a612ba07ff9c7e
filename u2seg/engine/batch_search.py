"""How many images fit into memory: the search, the advice, and the table they print.

Pure logic; ``engine.batch_trial`` runs the training steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from u2seg.errors import StageError

MOST = 256
"""Images per process that are tried at most."""
FLAT = 0.97
"""Fewer images are preferred if they are processed at this share of the best rate."""
PATIENCE = 2
"""Successive doublings without a better rate than the best so far that end the search."""


@dataclass(frozen=True)
class Trial:
    """What training steps with so many images in one process cost.

    Args:
        images: Per process and step, >= 1.
        seconds: Of one iteration, the median; 0 if it does not fit.
        peak_gb: Peak memory in GB (1e9 bytes), as far as it is known.
        obstacle: Why it does not fit; empty = it fits.
    """

    images: int
    seconds: float
    peak_gb: float
    obstacle: str = ""

    @property
    def fits(self) -> bool:
        """Whether the steps ended within the limit."""
        return not self.obstacle

    @property
    def rate(self) -> float:
        """Images per second of one process; 0 if it does not fit."""
        return self.images / self.seconds if self.fits and self.seconds else 0.0


@dataclass(frozen=True)
class Advice:
    """Settings that suit the memory.

    Args:
        images: Per process, of the trial that is recommended.
        batch: ``SOLVER.IMS_PER_BATCH`` that fills the processes with it.
        rate: ``SOLVER.BASE_LR`` for that batch, in proportion.
        iterations: ``SOLVER.MAX_ITER`` that shows as many images.
        parts: ``U2SEG.TRAIN.ACCUMULATE`` that computes the batch of the config instead.
    """

    images: int
    batch: int
    rate: float
    iterations: int
    parts: int


def search(attempt: Callable[[int], Trial], most: int = MOST) -> list[Trial]:
    """Double the number of images until it no longer fits or pays, then bisect.

    It no longer pays when ``PATIENCE`` successive doublings gave no more images per second than
    the best trial before them; there is no bisection then. The bisection ends when what fits and
    what does not are next to each other or an eighth apart.

    Args:
        attempt: Number of images -> what they cost.
        most: Images that are tried at most, >= 1.

    Returns:
        The trials in the order in which they were made; none fits if one image does not.

    Examples:
        >>> trials = search(lambda n: Trial(n, 1.0, n, "" if n <= 5 else "full"))
        >>> [(trial.images, trial.fits) for trial in trials]
        [(1, True), (2, True), (4, True), (8, False), (6, False), (5, True)]
        >>> [trial.images for trial in search(lambda n: Trial(n, n / min(n, 2), n))]
        [1, 2, 4, 8]
    """
    trials = [attempt(1)]
    while trials[-1].fits and trials[-1].images < most and not no_gain(trials):
        trials.append(attempt(min(2 * trials[-1].images, most)))
    if trials[-1].fits or len(trials) == 1:
        return trials
    low, high = trials[-2].images, trials[-1].images
    while high - low > max(1, low // 8):
        trials.append(attempt((low + high) // 2))
        if trials[-1].fits:
            low = trials[-1].images
        else:
            high = trials[-1].images
    return trials


def no_gain(trials: Sequence[Trial]) -> bool:
    """Return whether the last ``PATIENCE`` trials fit and none is faster than the best before.

    Args:
        trials: In the order in which they were made.
    """
    before, last = trials[:-PATIENCE], trials[-PATIENCE:]
    if not before or not all(trial.fits for trial in last):
        return False
    return max(trial.rate for trial in last) <= max(trial.rate for trial in before)


def ending(trials: Sequence[Trial], most: int) -> str:
    """Return in one line why a search ended before the memory was full; empty if it was full.

    Args:
        trials: Of ``search``.
        most: The bound that ``search`` got; below ``MOST``, it is set by the training images.

    Examples:
        >>> ending([Trial(1, 1.0, 1), Trial(2, 1.0, 2), Trial(4, 4.0, 3), Trial(8, 8.0, 4)], 256)
        'ended at 8 image(s): the last 2 trials gave no more images/s than 2 image(s)'
    """
    if not all(trial.fits for trial in trials):
        return ""
    last = f"ended at {trials[-1].images} image(s)"
    if no_gain(trials):
        best = max(trials, key=lambda t: t.rate)
        return (
            f"{last}: the last {PATIENCE} trials gave no more images/s than {best.images} image(s)"
        )
    if most < MOST:
        return f"{last}: the training set has no more for each process"
    return f"{last}: more are not tried"


def advise(
    trials: Sequence[Trial], processes: int, batch: int, rate: float, iterations: int
) -> Advice:
    """Return the settings for the best trial: the fewest images at nearly the best rate.

    Args:
        trials: Of ``search``.
        processes: Of the training.
        batch: ``SOLVER.IMS_PER_BATCH`` of the config.
        rate: ``SOLVER.BASE_LR`` of the config, which belongs to that batch.
        iterations: ``SOLVER.MAX_ITER`` of the config.

    Raises:
        StageError: if not even one image fits.

    Examples:
        >>> trials = [Trial(1, 1.0, 2), Trial(2, 1.25, 3), Trial(4, 2.0, 5), Trial(6, 3.0, 7)]
        >>> advise(trials, processes=2, batch=32, rate=0.02, iterations=100)
        Advice(images=4, batch=8, rate=0.005, iterations=400, parts=3)
    """
    fitting = [trial for trial in trials if trial.fits]
    if not fitting:
        raise StageError(
            f"not even one image fits: {trials[0].obstacle}. Lower INPUT.MIN_SIZE_TRAIN, "
            "INPUT.MAX_SIZE_TRAIN or MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
        )
    best = max(trial.rate for trial in fitting)
    chosen = min((t for t in fitting if t.rate >= FLAT * best), key=lambda t: t.images)
    whole = chosen.images * processes
    largest = max(trial.images for trial in fitting)
    return Advice(
        images=chosen.images,
        batch=whole,
        rate=rate * whole / batch,
        iterations=max(1, round(iterations * batch / whole)),
        parts=-(-batch // (processes * largest)),
    )


def format_search(trials: Sequence[Trial], advice: Advice, processes: int, batch: int) -> str:
    """Return the table of the trials, sorted by images, and the advice, as text.

    Args:
        trials: Of ``search``.
        advice: Of ``advise``.
        processes: Of the training.
        batch: ``SOLVER.IMS_PER_BATCH`` of the config.
    """
    lines = [f"{'images':>6}  {'s/iteration':>11}  {'images/s':>8}  {'peak GB':>7}"]
    for trial in sorted(trials, key=lambda t: t.images):
        if trial.fits:
            row = f"{trial.images:>6}  {trial.seconds:>11.3f}  {trial.rate:>8.2f}"
            lines.append(f"{row}  {trial.peak_gb:>7.2f}")
        else:
            lines.append(f"{trial.images:>6}  does not fit: {trial.obstacle}")
    counted = "one process" if processes == 1 else f"each of {processes} processes"
    lines += [
        f"recommended ({advice.images} in {counted}): SOLVER.IMS_PER_BATCH {advice.batch} "
        f"SOLVER.BASE_LR {advice.rate:.6g} U2SEG.TRAIN.ACCUMULATE 1",
        f"as many images as the config then means SOLVER.MAX_ITER {advice.iterations}; scale "
        "SOLVER.STEPS alike",
        _config_batch(advice, batch),
    ]
    return "\n".join(lines)


def _config_batch(advice: Advice, batch: int) -> str:
    keys = f"SOLVER.IMS_PER_BATCH {batch} U2SEG.TRAIN.ACCUMULATE {advice.parts}"
    if advice.parts > 1:
        return f"the config's batch in {advice.parts} parts, nearly the same: {keys}"
    if batch == advice.batch:
        return "that is the config's own batch: rate and MAX_ITER stay as they are"
    return f"the config's batch fits too, whole, with its own rate and MAX_ITER: {keys}"
