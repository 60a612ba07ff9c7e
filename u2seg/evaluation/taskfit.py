"""How the tasks and classes of a truth bear on the fit of clusters to classes.

* Where a truth has no panoptic maps, every pixel of the semantic task has one class and nobody
  knows which of the classes have instances in this picture. So all clusters, things and stuff,
  are matched to all classes, by pixels, whatever the protocol says of things and stuff; its rule
  from votes to classes (one to one, majority, ...) stays.
* Where a truth has instances alone, they vote as instances: there are no pixels to count.
* In a class set in which every thing is of one class, so is every thing cluster: that is the
  definition of the set, not a fit.
"""

from __future__ import annotations

from dataclasses import replace

from u2seg.evaluation.classview import ClassView
from u2seg.evaluation.crop import crop_side
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.protocols import EvalProtocol, StuffRule, ThingRule
from u2seg.evaluation.truth import INSTANCES, SEMANTIC, Truth
from u2seg.evaluation.truthview import TruthView


def class_view(truth: Truth) -> ClassView | None:
    """Return the view through a class set that a truth is or looks through; None without one."""
    while isinstance(truth, TruthView):
        if isinstance(truth, ClassView):
            return truth
        truth = truth.truth
    return None


def truth_words(truth: Truth) -> dict[str, object]:
    """Return what ``protocol`` says of a truth: ``class_set``, ``merge_true_stuff``, ``crop``."""
    view = class_view(truth)
    crop = crop_side(truth)
    if view is None:
        return {"class_set": "truth", "merge_true_stuff": False, "crop": crop}
    name = view.class_set.name
    return {"class_set": name, "merge_true_stuff": view.merge_stuff, "crop": crop}


def rule_for(rule: EvalProtocol, truth: Truth) -> EvalProtocol:
    """Return a protocol as it is used on a truth; see the head of this module.

    Args:
        rule: The protocol.
        truth: The truth.
    """
    if _every_thing(truth) or rule.matching == "identity":
        return rule
    if truth.tasks == {SEMANTIC}:
        note = "all clusters to all classes, by pixels: no panoptic truth"
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
            f"things vote by instances (mask IoU {own.iou}, score {own.score}): no panoptic truth"
        )
        return replace(rule, things=own, apart=True, note=_also(rule.note, note))
    return rule


def _also(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more


def settled(mapping: ClusterMapping, truth: Truth) -> ClusterMapping:
    """Return a mapping in which thing clusters have the one class of things, if there is one."""
    one = _every_thing(truth)
    if not one or mapping.matching == "identity":
        return mapping
    things = mapping.clusters[0]
    rows = dict(mapping.rows)
    for cluster in things:
        row = rows[cluster]
        rows[cluster] = replace(row, votes=row.total_votes)
    return replace(mapping, things=dict.fromkeys(things, one), rows=rows)


def _every_thing(truth: Truth) -> int:
    view = class_view(truth)
    return view.class_set.every_thing if view else 0
