"""What `corloc` follows."""

from odis.evaluation.protocols.about import About, Difference, Published


def _figures(network: str, voc07: float, voc12: float, coco: float, source: str) -> Published:
    return Published(network, {"VOC07": voc07, "VOC12": voc12, "COCO20k": coco}, source)


_LOST, _V3 = "LOST's README", "DINOv3's paper, figure 14"

ABOUT = About(
    source="LOST (Simeoni et al., BMVC 2021), main_lost.py, datasets.py and main_corloc_evaluation.py",
    settings={
        "sets": "VOC07 trainval (5,011 images), VOC12 trainval (11,540), COCO20k (19,817 listed images of "
        "train2014)",
        "true boxes": "of all classes; VOC's counted from 0 (xmin - 1, ymin - 1), difficult and truncated "
        "kept; COCO's crowds dropped",
        "prediction": "one box an image: the only one of a method of seeds, the most confident of a detector",
        "score": "the share of images whose box has an IoU of .5 or more with any true box; no box is a miss",
        "LOST": "image at its own size, normalised, zero-padded right and below to whole patches; keys of "
        "the last attention layer; 100 patches in the expansion; box of the patches, clipped to the image",
        "TokenCut": "normalised cut with tau .2",
    },
    chosen="nothing for LOST; DINOv3's paper takes each model's best threshold of 0, .05, ... .4",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference(
            "an image is shown at the area of the model's own square, resized bicubic with its aspect",
            "at its own size, zero-padded",
            True,
        ),
        Difference(
            "the mask is drawn to the image's edges by a guided filter, and its tight box is scored",
            "the box of the patches",
            True,
        ),
        Difference(
            "up to 3 objects are sought and the clearest is scored; none if no object is clear (.1) or of a "
            "size (1 to 80 % of the image)",
            "the first object, always",
            True,
        ),
        Difference("images without a true box are left out and counted", "the sets have none such", False),
        Difference("photographs are turned as their annotations are", "EXIF is not looked at", False),
        Difference(
            "position embeddings are resized as timm does", "as the model's own repository does", False
        ),
        Difference("TokenCut: the image handling of LOST", "TokenCut's own code was not read", False),
    ),
    figures=(
        _figures("LOST, DINO ViT-S/16", 61.9, 64.0, 50.7, _LOST),
        _figures("LOST, DINO ViT-S/8", 55.5, 57.0, 49.5, _LOST),
        _figures("LOST, DINO ViT-B/16", 60.1, 63.3, 50.0, _LOST),
        _figures("LOST + detector (CAD)", 65.7, 70.4, 57.5, _LOST),
        _figures("TokenCut on outputs, DINO ViT-S/16", 61.1, 66.0, 48.7, _V3),
        _figures("TokenCut on outputs, DINO ViT-B/16", 60.1, 64.4, 50.5, _V3),
        _figures("TokenCut on outputs, DINOv2 ViT-g/14", 55.6, 60.4, 45.4, _V3),
        _figures("TokenCut on outputs, DINOv3 ViT-7B/16", 66.1, 69.5, 55.1, _V3),
    ),
    memory="the true boxes, and one box an image; a batch of images at full size",
    time="one pass over the images a model. A cut of P patches costs P cubed (spectral; 900 patches: about "
    ".2 s a cut on a CPU core), seeds P squared. `--cache DIR` keeps what was found; an interrupted call "
    "goes on there",
)
