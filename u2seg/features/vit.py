"""Patch features of self-supervised vision transformers (DINO, DINOv2, DINOv3), through timm.

Facets: ``key`` = the keys of the last block's attention, before any rotary embedding (MaskCut's
choice, CutLER commit cca0a27, maskcut/dino.py); ``token`` = patch tokens after the last norm
(STEGO's choice); ``cls`` = the CLS token after the last norm (the clustering's choice);
``attention`` = of the CLS token in the last block, before any rotary embedding (MaskDistill's).

Position embeddings are resampled as the code does that a model comes from, see
``resamples_as_dino``.

Shapes: B images, D channels, h x w patches, N = prefix + h * w tokens.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from u2seg.config.schema import FeatureSettings
from u2seg.errors import UserError
from u2seg.features.base import (
    FEATURE_EXTRACTORS,
    Image,
    check_facets,
    image_inputs,
    target_size,
)
from u2seg.features.weights import at_hand, check_sha256, fetch, local_weights
from u2seg.io.checkpoints import load_checkpoint, plain_names
from u2seg.io.images import FILTERS, resize_image
from u2seg.io.transfer import upload
from u2seg.structures.features import ImageInputs

ARCHITECTURES = {
    "dino_vits8": "vit_small_patch8_224.dino",
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vitb8": "vit_base_patch8_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov3_vits16": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_vitb16": "vit_base_patch16_dinov3.lvd1689m",
}
"""Name -> timm model. ``timm:<model>`` takes any other timm ViT."""
NESTED_KEYS = ("teacher", "state_dict", "model", "student")
_WRAPPERS = re.compile(r"^(module\.|backbone\.|encoder\.)+")


class VitExtractor:
    """Features of a timm vision transformer.

    Raises:
        UserError: if timm has no such ViT, the device is not there, or the weights cannot be
            loaded (missing file, wrong digest, other architecture).
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.device = choose_device(settings.device)
        self.model = _create(settings).to(self.device).eval()
        self.patch_size = int(self.model.patch_embed.patch_size[0])
        self.dim = int(self.model.embed_dim)
        self.dtype = torch.bfloat16 if settings.vit.precision == "bf16" else torch.float32
        mean_std = [self.model.pretrained_cfg[key] for key in ("mean", "std")]
        self._mean, self._std = (torch.tensor(v).view(3, 1, 1).to(self.device) for v in mean_std)
        # A tensor: a GPU would multiply by the rounded inverse of a plain number.
        self._white = torch.tensor(255.0).to(self.device)

    def extract(
        self, images: Sequence[Image], facets: Sequence[str] = ("key",), resample: str = ""
    ) -> list[ImageInputs]:
        """Return facets, see ``FeatureExtractor.extract``."""
        inputs: list[ImageInputs] = []
        for batch in self._batches(images, resample):
            _, tensors = self.extract_work(batch, facets)
            arrays = {facet: tensor.float().cpu().numpy() for facet, tensor in tensors.items()}
            for row, image in enumerate(images[len(inputs) : len(inputs) + len(batch)]):
                inputs.append(image_inputs(image, {f: a[row] for f, a in arrays.items()}))
        return inputs

    def work_image(self, image: Image, resample: str = "") -> Image:
        """Return an (H, W, 3) uint8 RGB image resized to what the transformer sees."""
        size = target_size(image.shape[0], image.shape[1], self.patch_size, self.settings)
        return resize_image(image, size, FILTERS[resample or self.settings.resample])

    def extract_work(
        self, batch: Sequence[Image], facets: Sequence[str] = ("key",)
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return pixels and facets of a batch; the host does not wait for a GPU.

        Args:
            batch: B images of one size, from ``work_image``.
            facets: Of ``FACETS``.

        Returns:
            (B, H, W, 3) uint8 and, by facet, (B, D, h, w) or for ``cls`` (B, D) of ``dtype``, not
            checked to be finite; all on the device that computes them.
        """
        check_facets(facets)
        pixels = upload(np.stack(batch), self.device)
        return pixels, self._forward(self._normalized(pixels), facets)

    def _batches(self, images: Sequence[Image], resample: str) -> Iterator[list[Image]]:
        """Yield images as the transformer sees them, up to ``batch_size`` of equal size."""
        resized = (self.work_image(image, resample) for image in images)
        for _, same in itertools.groupby(resized, key=np.shape):
            while batch := list(itertools.islice(same, self.settings.batch_size)):
                yield batch

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, H, W) float32 inputs of (B, H, W, 3) uint8 pixels."""
        levels = pixels.permute(0, 3, 1, 2).contiguous().float() / self._white
        return (levels - self._mean) / self._std

    def _forward(self, batch: torch.Tensor, facets: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the facets of (B, 3, H, W) inputs, see ``extract_work``.

        A CPU takes one image after the other: it is no slower, and activations of one image fit.
        """
        if self.device.type == "cpu" and len(batch) > 1:
            each = [self._forward(one, facets) for one in torch.split(batch, 1)]
            return {facet: torch.cat([part[facet] for part in each]) for facet in facets}
        caught: list[torch.Tensor] = []

        def catch(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            caught.append(output)

        handle = self.model.blocks[-1].attn.qkv.register_forward_hook(catch)
        lower = self.dtype is not torch.float32
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.dtype, enabled=lower),
            ):
                tokens = self.model.forward_features(batch)
        finally:
            handle.remove()
        if not caught:
            raise UserError(f"{self.settings.name}: the last attention block computes no fused qkv")
        height, width = (side // self.patch_size for side in batch.shape[2:])
        with torch.inference_mode():
            return {
                facet: self._facet(facet, tokens, caught[-1], (height, width)) for facet in facets
            }

    def _facet(
        self, facet: str, tokens: torch.Tensor, qkv: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Return (B, D, h, w), or (B, D) for ``cls``, from tokens (B, N, D) after the last norm.

        ``qkv`` is (B, N, 3 D), ordered q | k | v, heads concatenated within each.
        """
        if facet == "cls":
            return tokens[:, 0]
        prefix = int(self.model.num_prefix_tokens)
        if facet == "attention":
            rows = self._attention(qkv)[:, :, prefix:]
        elif facet == "key":
            # The copy lets go of queries and values.
            rows = qkv.chunk(3, dim=-1)[1].clone()[:, prefix:].transpose(1, 2)
        else:
            rows = tokens[:, prefix:].transpose(1, 2)
        return rows.reshape(*rows.shape[:2], *grid)

    def _attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """Return (B, heads, N) float32, the attention of the CLS token; sums to 1 over N."""
        heads = int(self.model.blocks[-1].attn.num_heads)
        parts = qkv.float().reshape(*qkv.shape[:2], 3, heads, -1)
        logits = torch.einsum("bhd,bnhd->bhn", parts[:, 0, 0], parts[:, :, 1])
        attention: torch.Tensor = (logits / parts.shape[-1] ** 0.5).softmax(dim=-1)
        return attention


def choose_device(name: str) -> torch.device:
    """Return the torch device that ``U2SEG.FEATURES.DEVICE`` names; UserError if not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"U2SEG.FEATURES.DEVICE {name!r} is no device: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"U2SEG.FEATURES.DEVICE is {name!r} but no GPU is visible; use cpu or auto")
    return device


def _create(settings: FeatureSettings) -> Any:
    architecture = ARCHITECTURES.get(settings.name, settings.name.removeprefix("timm:"))
    try:
        model = timm.create_model(
            architecture, pretrained=False, dynamic_img_size=True, num_classes=0
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"timm cannot build {architecture!r} as a ViT: {error}") from error
    attention = getattr(model.blocks[-1], "attn", None) if hasattr(model, "blocks") else None
    if getattr(attention, "qkv", None) is None:  # some have the name and no fused projection
        raise UserError(f"{architecture!r} is not a plain ViT: it has no blocks[-1].attn.qkv")
    path = _weights_file(settings)
    load_vit_weights(model, load_checkpoint(path, settings.vit.sha256), path)
    if resamples_as_dino(model):
        model._pos_embed = functools.partial(_add_positions, model)
    return model


def resamples_as_dino(model: Any) -> bool:
    """Return whether a timm ViT's position embedding is resampled by ``dino_positions``.

    So do DINO (and CutLER, STEGO, MaskDistill) and DINOv2 without registers. DINOv2 with registers
    and the other models resample as timm does, by size and with antialias; DINOv3 has no table.
    """
    known = model.pretrained_cfg
    cited = known.get("tag") == "dino" or str(known.get("architecture")).endswith("_dinov2")
    return cited and model.reg_token is None


def dino_positions(table: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Return a position embedding for another grid of patches, as DINO's code resamples it.

    Bicubic (a = -0.75), without antialias, by the factors (h + 0.1) / old and (w + 0.1) / old,
    not by size: the patches of the table lie a little nearer to each other than they would.

    Args:
        table: (1, 1 + old h x old w, D), that of the CLS token first.
        old: Its grid (h, w).
        new: The grid asked for (h, w); if it is ``old`` the table itself is returned.

    Source: facebookresearch/dino commit 7c446df, vision_transformer.py,
    ``interpolate_pos_encoding``; facebookresearch/dinov2, dinov2/models/vision_transformer.py,
    with ``interpolate_offset`` 0.1.

    Examples:
        >>> table = torch.arange(5.0).reshape(1, 5, 1)
        >>> dino_positions(table, (2, 2), (1, 1)).flatten().tolist()[0]
        0.0
        >>> dino_positions(table, (2, 2), (3, 4)).shape
        torch.Size([1, 13, 1])
    """
    if new == old:
        return table
    grid = table[:, 1:].float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    factors = tuple((side + 0.1) / before for side, before in zip(new, old, strict=True))
    grid = torch.nn.functional.interpolate(grid, scale_factor=factors, mode="bicubic")
    patches = grid.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([table[:, :1], patches], dim=1)


def _add_positions(model: Any, patches: torch.Tensor) -> torch.Tensor:
    """Return (B, 1 + h w, D) tokens of (B, h, w, D) patches, in place of timm's ``_pos_embed``."""
    grid = (patches.shape[1], patches.shape[2])
    positions = dino_positions(model.pos_embed, tuple(model.patch_embed.grid_size), grid)
    cls = model.cls_token.expand(len(patches), -1, -1)
    tokens: torch.Tensor = torch.cat([cls, patches.flatten(1, 2)], dim=1) + positions
    return tokens


def hub_of(name: str) -> str:
    """Return the repository of an extractor's weights on the hub, empty if timm knows none."""
    known = timm.get_pretrained_cfg(ARCHITECTURES.get(name, name.removeprefix("timm:")))
    return str(known.hf_hub_id or "") if known else ""


def _weights_file(settings: FeatureSettings) -> Path:
    if settings.vit.weights:
        return local_weights(settings.vit.weights, settings.vit.sha256)
    hub_id = hub_of(settings.name)
    try:
        path = at_hand(settings.name, hub_id) or fetch(settings.name, hub_id)
    except UserError as error:
        raise UserError(
            f"{error}. Without network, download them elsewhere and set "
            "U2SEG.FEATURES.VIT.WEIGHTS to the file, or use U2SEG.FEATURES.NAME filter_bank, "
            "which needs none"
        ) from error
    check_sha256(path, settings.vit.sha256)
    return path


def load_vit_weights(model: Any, content: dict[str, Any], path: Path) -> None:
    """Load a released DINO / DINOv2 / DINOv3 / timm state dict into a timm ViT without classifier.

    It may be nested under a key of ``NESTED_KEYS``, and its names may have prefixes of wrappers.

    Raises:
        UserError: if a weight of the backbone is missing, has another shape or no place, or the
            patches are of another size.
    """
    state = _state_of(content)
    _check_patches(model, state, path)
    if (
        getattr(model, "reg_token", None) is None
        and {"register_tokens", "reg_token"} & state.keys()
    ):
        raise UserError(f"{path} has register tokens, and this ViT has none")
    try:
        state = _checkpoint_filter(model)(state, model)
        wrong = model.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{path} does not fit the architecture: {error}") from error
    # Heads and mask tokens of pre-training are extra; anything missing means random weights.
    if wrong.missing_keys:
        raise UserError(
            f"{path} lacks {len(wrong.missing_keys)} weights of this ViT, such as "
            f"{wrong.missing_keys[0]!r}: it is a checkpoint of another architecture"
        )
    if extra := [name for name in wrong.unexpected_keys if name.startswith("blocks.")]:
        raise UserError(
            f"{path} has {len(extra)} weights that this ViT has no place for, such as "
            f"{extra[0]!r}: it is a checkpoint of another architecture"
        )


def vit_of(content: dict[str, Any], path: Path) -> str:
    """Return which of ``ARCHITECTURES`` a checkpoint is of, by its patches, width and parts.

    How it was trained cannot be seen: a ViT of the same shape by others passes for DINO's.
    UserError if it is of none of them.
    """
    state = _state_of(content)
    weight = state.get("patch_embed.proj.weight", torch.empty(0))
    width, _, patch, _ = weight.shape if weight.ndim == 4 else (0, 0, 0, 0)
    family = "dinov2" if patch == 14 else "dino" if "pos_embed" in state else "dinov3"
    name = f"{family}_vit{ {384: 's', 768: 'b'}.get(width, '?') }{patch}"
    if name not in ARCHITECTURES or "register_tokens" in state:
        raise UserError(
            f"{path} is of no ViT that is known here (width {width}, patches of {patch} pixels): "
            f"with U2SEG.FEATURES.NAME auto it must be of {', '.join(ARCHITECTURES)}"
        )
    return name


def _state_of(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights of a backbone under their plain names."""
    for key in NESTED_KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    arrays = {k: v for k, v in content.items() if isinstance(v, torch.Tensor | np.ndarray)}
    named = plain_names(arrays).items()
    return {_WRAPPERS.sub("", name): torch.as_tensor(value) for name, value in named}


def _check_patches(model: Any, state: dict[str, torch.Tensor], path: Path) -> None:
    """Raise UserError for patches of another size: timm would resample their weights unasked."""
    weight = state.get("patch_embed.proj.weight")
    found = tuple(weight.shape[2:]) if weight is not None else ()
    asked = tuple(model.patch_embed.patch_size)
    if len(found) == 2 and found != asked:
        raise UserError(
            f"{path} holds a ViT with patches of {found[0]} x {found[1]} pixels, "
            f"U2SEG.FEATURES.NAME asks for one with {asked[0]} x {asked[1]}: change one of them"
        )


def _checkpoint_filter(model: Any) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    from timm.models import eva, vision_transformer

    module = eva if type(model).__name__ == "Eva" else vision_transformer
    chosen: Callable[[dict[str, Any], Any], dict[str, Any]] = module.checkpoint_filter_fn
    return chosen


for _name in (*ARCHITECTURES, "timm:*"):
    FEATURE_EXTRACTORS.register(_name)(VitExtractor)
