"""How the tasks and classes of a truth bear on the fit of clusters to classes.

* Where a truth has no panoptic maps, every pixel of the semantic task has one class and nobody
  knows which of the classes have instances in this picture. So all clusters, things and stuff,
  are matched to all classes, by pixels, whatever the protocol says of things and stuff; its rule
  from votes to classes (one to one, majority, ...) stays.
* Where a truth has instances alone, they vote as instances: there are no pixels to count.
* In a class set in which every thing is of one class, so is every thing cluster: that is the
  definition of the set, not a fit, and takes no votes.
* Where a class set collects several stuff classes into one, an image may have several true
  segments of it. Predicted segments are merged if the true ones are (``MERGE_TRUE_STUFF``), and
  else are not: merging one side alone measures neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from u2seg.evaluation.collect import ImageTable
from u2seg.evaluation.protocols.mapping import ClusterMapping, ClusterRow
from u2seg.evaluation.protocols.rules import EvalProtocol, StuffRule, ThingRule
from u2seg.evaluation.protocols.votes import pixel_counts
from u2seg.evaluation.truth.base import INSTANCES, PANOPTIC, SEMANTIC, Truth, crop_side
from u2seg.evaluation.truth.classes import class_view


def truth_words(truth: Truth) -> dict[str, object]:
    """Return what ``protocol`` says of a truth: ``class_set``, ``merge_true_stuff``, ``crop``."""
    view = class_view(truth)
    crop = crop_side(truth)
    if view is None:
        return {"class_set": "truth", "merge_true_stuff": False, "crop": crop}
    name = view.class_set.name
    return {"class_set": name, "merge_true_stuff": view.merge_stuff, "crop": crop}


def collects_stuff(truth: Truth) -> bool:
    """Return whether a truth is seen through a set in which a stuff class collects several."""
    view = class_view(truth)
    return view is not None and any(
        len(c.members) > 1 for c in view.class_set.classes if not c.isthing
    )


def rule_for(rule: EvalProtocol, truth: Truth) -> EvalProtocol:
    """Return a protocol as it is used on a truth; see the head of this module."""
    rule = with_merging(rule, truth)
    if rule.matching == "identity":
        return rule
    if _every_thing(truth):
        note = "every thing cluster is of the one class of things, without votes"
        things = ThingRule(votes="none")
        return replace(rule, things=things, apart=True, note=_also(rule.note, note))
    if truth.tasks == {SEMANTIC}:
        note = f"all clusters to all classes, by pixels: {_why_semantic(truth)}"
        return replace(
            rule,
            things=ThingRule(votes="pixels"),
            stuff=StuffRule(),
            apart=False,
            note=_also(rule.note, note),
        )
    if truth.tasks == {INSTANCES} and rule.things.votes == "pixels":
        own = ThingRule()
        note = (
            f"things vote by instances (mask IoU {own.iou}, score {own.score}): instances alone "
            "are scored"
        )
        return replace(rule, things=own, apart=True, note=_also(rule.note, note))
    return rule


def with_merging(rule: EvalProtocol, truth: Truth) -> EvalProtocol:
    """Return a protocol that merges predicted stuff as a truth that collects stuff does."""
    view = class_view(truth)
    if view is None or not collects_stuff(truth):
        return rule
    return replace(rule, merge_stuff=view.merge_stuff)


def settled(mapping: ClusterMapping, truth: Truth, tables: Sequence[ImageTable]) -> ClusterMapping:
    """Return a mapping in which thing clusters have the one class of things, if there is one."""
    one = _every_thing(truth)
    if not one or mapping.matching == "identity":
        return mapping
    things, stuff = mapping.clusters
    classes = (*truth.things, *truth.stuff)
    pixels, col = pixel_counts(tables, (*things, *stuff), classes), classes.index(one)
    rows = {cluster: ClusterRow(iou=pixels.iou(row, col)) for row, cluster in enumerate(things)}
    return replace(mapping, things=dict.fromkeys(things, one), rows={**mapping.rows, **rows})


def _every_thing(truth: Truth) -> int:
    view = class_view(truth)
    return view.class_set.every_thing if view else 0


def _also(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more


def _why_semantic(truth: Truth) -> str:
    if PANOPTIC not in truth.own_tasks:
        return "no panoptic truth"
    view = class_view(truth)
    if view is not None and PANOPTIC not in view.tasks:
        return f"{view.class_set.name} is a set for semantic maps"
    return "a crop is scored as a semantic map"
