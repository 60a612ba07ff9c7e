"""Checkpoints that execute nothing when read and are never half-written.

The name matching is the host's (``DetectionCheckpointer``); reading goes through
``u2seg.io.checkpoints``, writing through ``u2seg.io.atomic``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from u2seg.config.env import offline
from u2seg.errors import UserError
from u2seg.io.atomic import write_text
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.checksums import LAST, intact, save_checkpoint
from u2seg.modeling.weights import (
    explain_mismatches,
    missing_names,
    shape_mismatches,
    strip_wrappers,
    to_host_layout,
)

logger = logging.getLogger(__name__)


class SafeCheckpointer(DetectionCheckpointer):  # type: ignore[misc]
    """The host's checkpointer with safe reading, atomic writing and plain messages.

    Args:
        model: Module to load into and save.
        save_dir: Folder of the checkpoints and of ``last_checkpoint``; empty = none is saved.
        strict: Refuse files whose shapes differ from the model's or that lack some of its
            weights, instead of loading the rest with a warning. Files of another class number
            are refused in any case.
        skip_heads: Load files without the layers whose size depends on the class numbers; not
            when resuming.
        save_to_disk: Whether ``save`` writes; by default in the main process only.
        keep: Numbered checkpoints to keep, the newest; 0 = all.
        checkpointables: Objects with ``state_dict`` and ``load_state_dict``, saved along.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: Path | str = "",
        *,
        strict: bool = False,
        skip_heads: bool = False,
        save_to_disk: bool | None = None,
        keep: int = 0,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, str(save_dir), save_to_disk=save_to_disk, **checkpointables)
        self.strict = strict
        self.skip_heads = skip_heads
        self.keep = keep
        self._source = ""
        self._resuming = False

    @staticmethod
    def last_in(folder: Path | str) -> Path:
        """Return the checkpoint that ``<folder>/last_checkpoint`` names; UserError if none."""
        folder = Path(folder)
        note = folder / LAST
        try:
            name = note.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {note}: {error}. {_other_files(folder)}") from error
        if not name or Path(name).name != name:
            raise UserError(f"{note} names {name[:80]!r}, not a file. {_other_files(folder)}")
        if not (folder / name).is_file():
            raise UserError(f"{note} names {name}, which is missing. {_other_files(folder)}")
        return folder / name

    def get_checkpoint_file(self) -> str:
        """Return the path of the last checkpoint; UserError as ``last_in``."""
        return str(self.last_in(self.save_dir))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from the last checkpoint if ``resume`` and there is one, else load weights."""
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        last = self.get_checkpoint_file()
        before, self.strict, self._resuming = self.strict, True, True
        try:
            return self.load(last)
        except UserError as error:
            raise UserError(
                f"cannot resume: {str(error).rstrip('.')}. {_other_files(Path(last).parent, last)}"
            ) from error
        finally:
            self.strict, self._resuming = before, False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the state of ``checkpointables``; return entries that were not used."""
        path = str(path)
        if path and not Path(path).is_file():
            path = _local_copy(path, self.path_manager)
        self._source = path
        # Not the host's: main takes "?" in a file's name for a query, and after a refusal it can
        # load no other file.
        result: dict[str, Any] = super(DetectionCheckpointer, self).load(path, checkpointables)
        return result

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``, its checksum, then ``last_checkpoint``, atomically."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        content.update(kwargs)
        target = Path(self.save_dir) / f"{name}.pth"
        logger.info("saving %s", target)
        save_checkpoint(
            target.parent, target.name, lambda file: torch.save(content, file), keep=self.keep
        )

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the newest file into ``last_checkpoint``, atomically."""
        write_text(Path(self.save_dir) / LAST, last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = to_host_layout(load_checkpoint(filename), filename)
        if self._resuming:
            absent = sorted(self.checkpointables.keys() - loaded.keys())
            if absent:
                raise UserError(f"{filename} holds weights, but no state of {', '.join(absent)}")
        expected = self.model.state_dict().keys()
        if not loaded["model"].keys() & expected:
            plain = strip_wrappers(loaded["model"])
            if plain.keys() & expected:
                loaded["model"] = plain
            else:
                loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if self.strict:
            self._require_fit(checkpoint)
        else:
            self._settle_class_layers(checkpoint)
        incompatible = super()._load_model(checkpoint)
        self._require_something_loaded(incompatible)
        return incompatible

    def _settle_class_layers(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the layers that depend on the class numbers, or refuse other numbers."""
        found = {name: tuple(value.shape) for name, value in checkpoint["model"].items()}
        own: frozenset[str] = getattr(self.model, "class_layers", frozenset)()
        layers = sorted(own & found.keys())
        if self.skip_heads:
            checkpoint["model"] = {k: v for k, v in checkpoint["model"].items() if k not in layers}
            logger.warning("%s: not loaded: %s", self._source, ", ".join(layers) or "nothing")
            return
        expected = {name: tuple(v.shape) for name, v in self.model.state_dict().items()}
        mismatches = shape_mismatches({name: found[name] for name in layers}, expected)
        if mismatches:
            raise UserError(
                f"{self._source} does not fit the model: {explain_mismatches(mismatches)} Or load "
                "it without the layers that depend on these numbers: --skip-heads "
                "(U2SEG.TRAIN.SKIP_HEADS True)"
            )

    def _require_something_loaded(self, incompatible: Any) -> None:
        """Refuse a file that gave no weight at all: training would start from noise, unnoticed."""
        names = set(missing_names((), self.model.state_dict()))
        unused = {name for name, *_ in incompatible.incorrect_shapes}
        if names and not names - unused - set(incompatible.missing_keys):
            raise UserError(
                f"{self._source} holds none of the model's {len(names)} weights: it is of another "
                "architecture. Set MODEL.WEIGHTS to a file for this one, or to '' to train from "
                "random weights"
            )

    def _require_fit(self, checkpoint: dict[str, Any]) -> None:
        expected = {name: tuple(v.shape) for name, v in self.model.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in checkpoint["model"].items()}
        mismatches = shape_mismatches(found, expected)
        if mismatches:
            raise UserError(
                f"{self._source} does not fit the model: {explain_mismatches(mismatches)}"
            )
        missing = missing_names(found, expected)
        if missing:
            raise UserError(
                f"{self._source} lacks {len(missing)} of the model's {len(expected)} weights, e.g. "
                f"{', '.join(missing[:3])}: it is a backbone alone or another architecture"
            )


def load_weights(model: torch.nn.Module, weights: Path | str, *, strict: bool = False) -> None:
    """Load a weight file into a model, in place."""
    SafeCheckpointer(model, strict=strict, save_to_disk=False).load(str(weights), [])


def _local_copy(path: str, path_manager: Any) -> str:
    path = path.removeprefix("file://")
    if Path(path).is_file():
        return path
    if "://" not in path:
        raise UserError(
            f"weight file {path} does not exist (MODEL.WEIGHTS): give a local file or a URL "
            "(docs/reference/migration.md lists the published ones; u2seg convert makes one of a "
            "ResNet)"
        )
    if offline():
        raise UserError(
            f"{path} (MODEL.WEIGHTS) would be asked of the network, and --offline was given: "
            "download it elsewhere and set MODEL.WEIGHTS to the file"
        )
    try:
        if comm.is_main_process():
            path_manager.get_local_path(path)
        comm.synchronize()
        local = str(path_manager.get_local_path(path))
        if not Path(local).is_file():
            raise FileNotFoundError("no handler for this address")
    except Exception as error:  # each of the host's URL handlers has errors of its own
        raise UserError(
            f"cannot download {path}: {error}. Download it elsewhere and set MODEL.WEIGHTS to "
            "the file"
        ) from error
    return local


def _other_files(folder: Path, bad: str = "") -> str:
    # averages of weights have no state to go on with
    names = [n for n in intact(folder, without=Path(bad).name) if not n.endswith("_ema.pth")]
    if not names:
        return "There is no other checkpoint: start anew in another OUTPUT_DIR"
    shown = ", ".join(names[-5:])
    return f"Write the name of an intact one ({shown}) into {folder / LAST} and resume again"
