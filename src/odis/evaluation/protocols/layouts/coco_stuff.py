"""The classes of COCO-Stuff, merged to the 12 super-classes of its things and the 15 of its stuff."""

from __future__ import annotations

_THINGS = {
    "accessory": (26, 27, 28, 29, 30, 31, 32, 33),
    "animal": (16, 17, 18, 19, 20, 21, 22, 23, 24, 25),
    "appliance": (78, 79, 80, 81, 82, 83),
    "electronic": (72, 73, 74, 75, 76, 77),
    "food": (52, 53, 54, 55, 56, 57, 58, 59, 60, 61),
    "furniture": (62, 63, 64, 65, 66, 67, 68, 69, 70, 71),
    "indoor": (84, 85, 86, 87, 88, 89, 90, 91),
    "kitchen": (44, 45, 46, 47, 48, 49, 50, 51),
    "outdoor": (10, 11, 12, 13, 14, 15),
    "person": (1,),
    "sports": (34, 35, 36, 37, 38, 39, 40, 41, 42, 43),
    "vehicle": (2, 3, 4, 5, 6, 7, 8, 9),
}
_STUFF = {
    "building": (95, 96, 128, 151, 158, 166),
    "ceiling": (102, 103),
    "floor": (101, 114, 115, 116, 117, 118),
    "food-stuff": (121, 122, 153, 170),
    "furniture-stuff": (98, 107, 108, 110, 112, 123, 130, 133, 156, 161, 165),
    "ground": (111, 125, 126, 136, 140, 144, 145, 147, 149, 154, 159),
    "plant": (94, 97, 119, 124, 129, 134, 142, 163, 169),
    "raw-material": (100, 132, 139, 143),
    "sky": (106, 157),
    "solid": (127, 135, 150, 160, 162, 182),
    "structural": (99, 113, 138, 146, 164),
    "textile": (92, 93, 104, 105, 109, 131, 137, 141, 152, 167, 168),
    "wall": (171, 172, 173, 174, 175, 176, 177),
    "water": (120, 148, 155, 178, 179),
    "window": (180, 181),
}
SUPER_CLASSES = {"things": _THINGS, "stuff": _STUFF, "all": _THINGS | _STUFF}
"""Names in the order of their labels, with the ids of COCO-Stuff (1 to 182) that each holds. `other`, 183, is
in none.
"""
