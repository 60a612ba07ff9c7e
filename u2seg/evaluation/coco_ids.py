"""Names, ids and super-categories of COCO, COCO panoptic and COCO-Stuff, which share their ids.

| ids | what |
|---|---|
| 1..91 | things; 11 of them were removed from COCO and occur nowhere |
| 92..182 | stuff of COCO-Stuff; 36 of them are classes of COCO panoptic too |
| 184..200 | stuff of COCO panoptic that was merged from several classes of COCO-Stuff |

Sources: COCO-Stuff's ``labels.txt`` (repository nightrome/cocostuff); panopticapi's
``panoptic_coco_categories.json`` (commit 7bb4655), whose ``supercategory`` field gives the
super-categories of things and of COCO panoptic's stuff; STEGO's ``src/data.py``
(``fine_to_coarse``), which gives those of COCO-Stuff's stuff. Where both speak they agree.
"""

from __future__ import annotations

_FINE = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,
carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, mirror, dining table, window,
desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog,
food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat,
metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
_MERGED = """
tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged,
floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged,
food-other-merged, building-other-merged, rock-merged, wall-other-merged, rug-merged
"""

NUM_FINE = 182
"""Labels of COCO-Stuff; the value of a pixel in its maps is the label less one."""
NAMES: dict[int, str] = {
    **dict(enumerate((name.strip() for name in _FINE.split(",")), start=1)),
    **dict(enumerate((name.strip() for name in _MERGED.split(",")), start=184)),
}
"""Id -> name."""
REMOVED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
"""Things that were planned and removed from COCO."""
THINGS = tuple(i for i in range(1, 92) if i not in REMOVED)
"""The 80 things."""
FINE_STUFF = tuple(range(92, NUM_FINE + 1))
"""The 91 stuff classes of COCO-Stuff."""

THING_GROUPS: dict[str, tuple[int, ...]] = {
    "electronic": tuple(range(72, 78)),
    "appliance": tuple(range(78, 84)),
    "food": tuple(range(52, 62)),
    "furniture": tuple(range(62, 72)),
    "indoor": tuple(range(84, 92)),
    "kitchen": tuple(range(44, 52)),
    "accessory": tuple(range(26, 34)),
    "animal": tuple(range(16, 26)),
    "outdoor": tuple(range(10, 16)),
    "person": (1,),
    "sports": tuple(range(34, 44)),
    "vehicle": tuple(range(2, 10)),
}
"""Super-category -> things, the removed ones too; in STEGO's order."""
STUFF_GROUPS: dict[str, tuple[int, ...]] = {
    "textile": (92, 93, 109, 141, 168, 200),
    "building": (95, 128, 151, 166, 197),
    "raw-material": (100, 195),
    "furniture-stuff": (107, 112, 130, 133, 156, 161, 188, 189),
    "floor": (118, 190),
    "plant": (119, 184, 193),
    "food-stuff": (122, 196),
    "ground": (125, 144, 145, 147, 149, 154, 159, 191, 194),
    "structural": (138, 185),
    "water": (148, 155, 178),
    "wall": (171, 175, 176, 177, 199),
    "window": (180, 181),
    "ceiling": (186,),
    "sky": (187,),
    "solid": (192, 198),
}
"""Super-category -> stuff of COCO panoptic, 53 ids; in U2Seg's order."""
PANOPTIC_STUFF = tuple(sorted(i for group in STUFF_GROUPS.values() for i in group))
"""The 53 stuff classes of COCO panoptic."""
FINE_STUFF_GROUPS: dict[str, tuple[int, ...]] = {
    "ceiling": (102, 103),
    "floor": (101, 114, 115, 116, 117, 118),
    "food-stuff": (121, 122, 153, 170),
    "furniture-stuff": (98, 107, 108, 110, 112, 123, 130, 133, 156, 161, 165),
    "raw-material": (100, 132, 139, 143),
    "textile": (92, 93, 104, 105, 109, 131, 137, 141, 152, 167, 168),
    "wall": (171, 172, 173, 174, 175, 176, 177),
    "window": (180, 181),
    "building": (95, 96, 128, 151, 158, 166),
    "ground": (111, 125, 126, 136, 140, 144, 145, 147, 149, 154, 159),
    "plant": (94, 97, 119, 124, 129, 134, 142, 163, 169),
    "sky": (106, 157),
    "solid": (127, 135, 150, 160, 162, 182),
    "structural": (99, 113, 138, 146, 164),
    "water": (120, 148, 155, 178, 179),
}
"""Super-category -> stuff of COCO-Stuff, 91 ids; in STEGO's order."""
