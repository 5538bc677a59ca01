"""What `hummingbird` follows."""

from collections.abc import Sequence

from odis.evaluation.protocols.about import About, Difference, Published

_README = "README (v1.x)"  # of open-hummingbird-eval: beta .02, memory 10.24 M
_NECO = "NeCo's, in DIP T1"
_DIP = "DIP T1, beta .07"  # its own code, 504 pixels


def _row(network: str, source: str, voc: Sequence[float], ade: Sequence[float]) -> Published:
    parts = ("1", "1/8", "1/64", "1/128")
    values = {f"VOC {p}": v for p, v in zip(parts, voc)} | {f"ADE20K {p}": v for p, v in zip(parts, ade)}
    return Published(network, values, source)


ABOUT = About(
    source="Hummingbird (Balazevic et al., 2023), as open-hummingbird-eval measures it (Pariza et al.), "
    "hbird_eval.py; DIP, hummingbird/src/hbird_eval.py",
    settings={
        "view": "memory and test images squashed to a square of 512 pixels (patches of 16) or 504 (of 14), "
        "bilinear; masks by nearest pixel",
        "memory augmentation": "brightness, contrast, saturation, hue by up to .1, each for half of the "
        "images; then a random crop of .5 to 2 of the area, ratio 3/4 to 4/3; no mirroring; two passes",
        "features": "patches of the last block after the final norm, of length 1",
        "patches": "memory / (images x passes) of each view, those with the lowest (sum over classes shown "
        "of how many patches of the image show them) x U(0, 1)",
        "label of a patch": "the share of its pixels of each class",
        "search": "30 neighbours by inner product",
        "weights": "softmax of cosine / beta; beta .02 in the reference, .07 in DIP",
        "prediction": "soft labels, bilinear from the patches to the square, the largest; mIoU over the "
        "pixels of the square, not of the image",
        "fractions": "released lists, five a fraction: VOC 1,320, 160, 80 images; ADE20K 2,550, 300, 150; "
        "the mean of five",
        "left out when scored": "VOC 255; ADE20K class 0",
    },
    chosen="nothing is known to be; the same network differs by two points between papers",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's with a deviation of .255 in blue", True),
        Difference(
            "ignored pixels have no class in the memory; a patch without any other is not taken",
            "they are class 0: background in VOC, a wrong class in Cityscapes and COCO",
            True,
        ),
        Difference(
            "ADE20K has 150 classes",
            "151: class 0 is never right and counts as IoU 0, so the ceiling is 150/151",
            True,
        ),
        Difference(
            "the mean is over classes that are labelled or predicted",
            "over all classes, absent ones as 0 (DIP: over labelled ones)",
            True,
        ),
        Difference(
            "mIoU is plain; matched is printed beside",
            "predicted classes are first matched to true ones (matched)",
            False,
        ),
        Difference("both temperatures", "beta .02 is a constant", True),
        Difference("the search is exact by default", "published figures used ScaNN, approximate", False),
        Difference(
            "a memory that the images cannot fill is smaller", "fails; DIP makes it smaller too", False
        ),
        Difference("every image takes part", "v1.x drops the last incomplete batch of VOC", False),
        Difference("two passes by default", "one in the code, two in the published figures", False),
        Difference("patches in the memory have length 1", "the same; DIP keeps them as they are", False),
        Difference("augmented views are rounded to 8 bits", "crops of normalised floats", False),
        Difference("photographs are turned as their labels are", "EXIF is not looked at", False),
    ),
    figures=(
        Published("DINO ViT-S/16", {"VOC 1": 46.6}, _README),
        Published("DINO ViT-B/16", {"VOC 1": 55.7}, _README),
        Published("DINOv2 ViT-S/14", {"VOC 1": 77.0}, _README),
        Published("DINOv2 ViT-B/14", {"VOC 1": 76.9}, _README),
        _row("DINO ViT-S/16", _NECO, (48.7, 41.3, 30.5, 26.4), (17.9, 15.0, 11.0, 9.5)),
        _row("DINO ViT-B/16", _NECO, (57.3, 49.8, 37.7, 33.1), (21.5, 18.2, 13.5, 11.5)),
        _row("Leopart ViT-S/16", _NECO, (64.5, 58.4, 49.7, 44.6), (23.9, 19.6, 14.8, 12.9)),
        _row("CrIBo ViT-S/16", _NECO, (72.4, 66.9, 59.9, 53.9), (26.6, 22.7, 17.3, 14.6)),
        _row("CrIBo ViT-B/16", _NECO, (74.2, 69.2, 61.8, 55.9), (28.4, 24.4, 18.4, 15.9)),
        _row("Hummingbird ViT-B/16", _NECO, (71.8, 64.3, 57.2, 50.5), (29.6, 22.3, 15.1, 11.7)),
        _row("DINOv2R ViT-S/14", _DIP, (79.4, 75.2, 67.7, 60.7), (39.3, 33.2, 24.9, 22.6)),
        _row("NeCo on it", _DIP, (81.0, 77.3, 71.5, 65.8), (38.9, 32.5, 24.1, 21.9)),
        _row("DIP on it", _DIP, (81.0, 77.7, 71.4, 65.9), (39.7, 33.7, 25.6, 23.2)),
        _row("DINOv2R ViT-B/14", _DIP, (79.0, 75.3, 67.6, 60.3), (40.8, 35.3, 27.3, 24.9)),
        _row("NeCo on it (B/14)", _DIP, (82.4, 78.7, 71.7, 65.0), (41.2, 35.2, 27.2, 25.1)),
        _row("DIP on it (B/14)", _DIP, (82.1, 79.6, 75.1, 70.1), (42.6, 36.8, 29.4, 27.0)),
    ),
    memory="the memory's features are streamed, not held. VOC at D 384: test patches twice, 2 x 2.3 GB "
    "(1,449 x 1,024 x 4 D bytes); for each list and memory size their 30 neighbours, .36 GB, and the "
    "memory's labels, .43 GB (10.22 million x 21 x 2 bytes); test labels .38 GB. ADE20K: labels 3.1 GB",
    time="two passes over the train part and one over the test part a model, then the product of 1.48 by "
    "10.22 million patches: 11 PFLOP at D 384. With --cache features are kept (15.7 GB and 2.8 GB), "
    "and the search every five minutes (.36 GB a memory); an interrupted call goes on there",
)
