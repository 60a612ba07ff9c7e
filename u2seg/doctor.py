"""``u2seg doctor``: what is installed, what works, and what to run for the rest.

Exit code 0 if the label stages can run, else 1; the reasons are printed. Works in the barest
environment: every library is looked at with care.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from u2seg.errors import UserError
from u2seg.io.packaged import clone, install_command
from u2seg.version import __version__


@dataclass(frozen=True)
class Part:
    """An extra of ``pyproject.toml`` (``core`` = its plain dependencies).

    Args:
        extra: Its name there.
        purpose: What it is for.
        modules: Distribution -> module to import.
        optional: Distributions without which the part still works.
    """

    extra: str
    purpose: str
    modules: dict[str, str]
    optional: frozenset[str] = frozenset()

    @property
    def command(self) -> str:
        """The command that installs it."""
        return install_command("" if self.extra == "core" else self.extra)


def _part(extra: str, purpose: str, words: str, optional: str = "") -> Part:
    """Return a part; ``words``: its distributions, ``name=module`` where the two differ."""
    pairs = (word.partition("=") for word in words.split())
    modules = {name: module or name for name, _, module in pairs}
    return Part(extra, purpose, modules, frozenset(optional.split()))


CORE = _part(
    "core",
    "files and settings",
    "numpy scipy pillow=PIL pycocotools pyyaml=yaml tqdm simplejpeg jinja2 matplotlib",
)
LABELS = _part(
    "labels",
    "label stages",
    "torch torchvision timm scikit-learn=sklearn scikit-image=skimage faiss-cpu=faiss safetensors "
    "numba threadpoolctl",
    optional="faiss-cpu",
)
TRAIN = _part(
    "train",
    "training and prediction",
    "torch torchvision fvcore iopath yacs omegaconf hydra-core=hydra cloudpickle tabulate "
    "termcolor tensorboard matplotlib safetensors opencv-python-headless=cv2",
    optional="tensorboard",
)
EXTRAS = (
    _part("demo", "sample photographs of the quickstart", "matplotlib"),
    _part("ray", "labelling on many machines with Ray", "ray"),
    _part("slurm", "labelling on a Slurm cluster", "submitit"),
    _part("bench", "peers in benchmarks", "pydensecrf2=pydensecrf"),
)
POSIX = ("fcntl", "resource")
"""Modules of Python that Windows has not."""


def main() -> int:
    """Print the findings; return 0 if the label stages can run, else 1."""
    broken, training = label_problems(), training_problems()
    if broken:
        training.insert(0, "needs the label stages' libraries too")
    lines = [
        f"u2seg {__version__}, Python {platform.python_version()}, {platform.platform()}",
        *(f"{part.extra:<12}{', '.join(_versions(part))}" for part in (CORE, LABELS, TRAIN)),
        f"{'device':<12}{device()}",
        f"{'Detectron2':<12}{host()}",
        "",
        *_found(LABELS.purpose, broken),
        *cache_problems(),
        *_found(TRAIN.purpose, training),
        *optional_missing(),
    ]
    sys.stdout.write("\n".join([*lines, ""]))
    return 1 if broken else 0


def label_problems() -> list[str]:
    """Return why the label stages cannot run, each with what to do; empty if they can."""
    posix = [advice_if_missing(name, "") for name in POSIX if import_failure(name)]
    problems = [*posix, *missing(CORE), *missing(LABELS)]
    if not import_failure("torch") and not import_failure("torchvision"):
        problems += nms_problems()
    return problems


def training_problems() -> list[str]:
    """Return why training cannot run, apart from ``label_problems``."""
    problems = missing(TRAIN, besides=LABELS)
    try:
        from u2seg.compat import prepare_host

        prepare_host()
    except UserError as error:
        problems.append(str(error))
    except ImportError as error:
        problems.append(f"Detectron2 cannot be prepared: {error}")
    return problems


def missing(part: Part, besides: Part | None = None) -> list[str]:
    """Return a line for every library of a part that is needed and cannot be imported.

    Those of ``besides`` are passed over.
    """
    known = besides.modules if besides else {}
    lines = []
    for distribution, module in part.modules.items():
        if distribution in known or distribution in part.optional:
            continue
        reason = import_failure(module)
        if reason and not any(reason == f"No module named {name!r}" for name in POSIX):
            lines.append(f"cannot import {distribution} ({reason}); run {part.command}")
    return lines


def import_failure(module: str) -> str:
    """Return why a module cannot be imported, in one line; empty if it can.

    Examples:
        >>> import_failure("json"), import_failure("no_such_module")
        ('', "No module named 'no_such_module'")
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken binary raises anything
        return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    return ""


def nms_problems() -> list[str]:
    """Run ``torchvision.ops.nms`` on two boxes; a torchvision of another build fails here."""
    try:
        import torch
        import torchvision.ops

        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [8.0, 8.0, 9.0, 9.0]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    except Exception as error:  # noqa: BLE001 - missing operators raise several kinds
        kept, reason = [], f": {error}"
    else:
        reason = f" and keeps boxes {kept}"
    if kept == [1, 2]:
        return []
    pins = "-c constraints.txt " if clone() else ""
    return [
        f"torchvision.ops.nms fails{reason}: torch and torchvision are not of one build; run "
        f"pip install {pins}--force-reinstall torch torchvision"
    ]


def advice_if_missing(module: str, extras: str) -> str:
    """Return what to run because a module is missing; empty if it is not one of ours to install.

    Examples:
        >>> advice_if_missing("jinja2.sandbox", "labels")[:29]
        'jinja2 is not installed: run '
        >>> advice_if_missing("u2seg.mistaken", "labels")
        ''
    """
    top = module.partition(".")[0]
    if top in POSIX:
        return f"Python's {top} is missing: this needs Linux, macOS, or WSL on Windows"
    parts = [part for part in (CORE, LABELS, TRAIN, *EXTRAS) if top in part.modules.values()]
    if parts:
        fits = any(each.extra in extras.split(",") for each in parts)
        command = install_command(extras) if fits else parts[0].command
        names = {module: name for name, module in parts[0].modules.items()}
        return f"{names[top]} is not installed: run {command}"
    return ""


def device() -> str:
    """Return the device that torch would use, in words."""
    if import_failure("torch"):
        return "unknown, torch is missing"
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"cuda: {', '.join(names)}"
    return f"cpu, {torch.get_num_threads()} threads (no CUDA device)"


def host() -> str:
    """Return which Detectron2 is installed, in words."""
    from u2seg.compat import INSTALL_COMMAND, has_compiled_ops, host_origin, host_version

    version = host_version()
    if not version:
        return f"missing; run {INSTALL_COMMAND}"
    try:
        compiled = has_compiled_ops()
    except (UserError, ImportError) as error:
        return f"{version} ({host_origin()}) does not load: {error}"
    ops = "compiled ops" if compiled else "no compiled ops (not needed)"
    return f"{version} ({host_origin()}), {ops}"


def _versions(part: Part) -> Iterator[str]:
    for name in part.modules:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} MISSING"


def _found(purpose: str, problems: list[str]) -> list[str]:
    ready = f"{purpose}: {'NOT ready' if problems else 'ready'}"
    return [ready, *(f"  {problem}" for problem in problems)]


def cache_problems() -> list[str]:
    """Return why compiled functions are not kept on disk."""
    if import_failure("numba"):
        return []
    from u2seg.io.jit import cache_problem

    reason = cache_problem()
    advice = "so every process compiles anew: set NUMBA_CACHE_DIR to a folder that can be written"
    return [f"  numba keeps nothing on disk ({reason}), {advice}"] if reason else []


def optional_missing() -> list[str]:
    """Return a line for every optional library that is missing, with its command."""
    lines = [
        f"  {name} ({part.purpose}): {part.command}"
        for part in (LABELS, TRAIN, *EXTRAS)
        for name, module in part.modules.items()
        if (part in EXTRAS or name in part.optional) and import_failure(module)
    ]
    return ["optional parts that are missing:", *lines] if lines else []


if __name__ == "__main__":
    raise SystemExit(main())
