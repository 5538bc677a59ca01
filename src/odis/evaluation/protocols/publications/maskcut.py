"""What `maskcut` follows."""

from odis.evaluation.protocols.about import About, Difference, Published


def _trained(data: str, ap50: float, recall: float) -> Published:
    return Published(
        f"CutLER's detector, trained on MaskCut's masks; {data}",
        {"AP50 box": ap50, "AR100 box": recall},
        "CutLER's README",
    )


ABOUT = About(
    source="MaskCut, of CutLER (Wang et al., CVPR 2023, section 3.2): from the paper's formula, since its "
    "code is for non-commercial use",
    settings={
        "network": "DINO ViT-B/8, keys of the last attention layer",
        "view": "image squashed to 480 x 480, Lanczos",
        "masks": "up to 3: the normalised cut is repeated without the patches of the masks before",
        "threshold": "tau .15",
        "refinement": "a dense CRF, then holes are filled",
        "dropped": "a mask whose IoU before and after the CRF is below .5; one with an IoU above .5 with an "
        "earlier mask; one of 1 % of the image or less",
        "score": "class-agnostic, COCO style: AP50, and recall at 100 (AR100), of boxes and masks; crowds "
        "are ignored",
    },
    chosen="nothing is stated; no figure of MaskCut alone was seen, those of the detector trained on it are "
    "listed",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference(
            "an image is shown at the area of the model's own square, resized bicubic with its aspect; tau "
            ".2",
            "squashed to 480 x 480, Lanczos; tau .15",
            True,
        ),
        Difference(
            "masks are kept by discovery's own rules: clear (.1), of 1 to 80 % of the image, boxes that "
            "overlap by .8 at most",
            "the rules for dropping above; holes are filled",
            True,
        ),
        Difference("masks follow the image's edges by a guided filter", "by a dense CRF", False),
        Difference(
            "masks are ranked by how clearly their patches stand out from those around them",
            "not stated",
            False,
        ),
        Difference("photographs are turned as their annotations are", "EXIF is not looked at", False),
        Difference("position embeddings are resized as timm does", "as DINO's code does", False),
    ),
    figures=(
        _trained("COCO val2017", 21.9, 32.7),
        _trained("COCO20k", 22.4, 33.1),
        _trained("VOC", 36.9, 44.3),
    ),
    memory="the masks of all objects, run-length encoded: some hundred bytes each",
    time="one pass over the images a model; a cut of P patches costs P cubed (3,600 for 480 px and patches "
    "of 8), three cuts an image. `--cache DIR` keeps what was found; an interrupted call goes on there",
)
