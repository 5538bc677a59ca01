"""What `davis` follows."""

from odis.evaluation.protocols.about import About, Difference, Published


def _figure(network: str, both: float, similarity: float, accuracy: float) -> Published:
    return Published(network, {"J&F": both, "J": similarity, "F": accuracy}, "DINO's paper, table 5")


def _larger(network: str, both: float, size: str) -> Published:
    return Published(f"{network}, {size}", {"J&F": both}, "DINOv3's paper; its own protocol, not this one")


ABOUT = About(
    source="DINO (Caron et al., 2021, table 5), eval_video_segmentation.py, after Jabri et al. (2020); J and "
    "F of davis2017-evaluation",
    settings={
        "set": "DAVIS 2017 val, 30 videos, 61 objects, 480p",
        "view": "shorter side 480, longer side cut to a multiple of 64 (854 to 832), bilinear; mean .485 "
        ".456 .406, std .228 .224 .225",
        "features": "patches of the last block after the norm, of length 1",
        "frames": "the first frame and up to 7 before the current one",
        "weights": "exp(cosine / .1) inside a square window of 12 patches to each side, then the 5 largest "
        "over all context frames together, divided by their sum; soft labels are carried on",
        "first mask": "nearest to the patch grid, one-hot",
        "output": "bilinear by the patch size, each label scaled from its lowest to its highest value, "
        "argmax, nearest to the video's size",
        "score": "J and F of each object, mean over frames without the first and the last, then over "
        "objects; boundaries within .008 of the diagonal; J&F is the mean of both means",
    },
    chosen="nothing is stated; DINO's README says that its figures were not reproduced on torch later than "
    "1.7.1",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's with std .228 .224 .225", True),
        Difference(
            "patches of 14 (and others that do not tile 64 pixels): as many as 16-pixel patches on the "
            "shorter side (30: 420 pixels), the nearest number on the longer one",
            "not stated; 480 and multiples of 64 do not suit them",
            False,
        ),
        Difference("frames are turned as their EXIF says", "EXIF is not looked at", True),
        Difference("a label with one value everywhere keeps it", "scaling it divides by zero", False),
        Difference(
            "frames are resized in float and rounded",
            "OpenCV's fixed point, which may differ by 1 of 255",
            False,
        ),
        Difference("position embeddings are resized as timm does", "as DINO's code does", False),
    ),
    figures=(
        _figure("DINO ViT-S/16", 61.8, 60.2, 63.4),
        _figure("DINO ViT-B/16", 62.3, 60.7, 63.9),
        _figure("DINO ViT-S/8", 69.9, 66.6, 73.1),
        _figure("DINO ViT-B/8", 71.4, 67.9, 74.9),
        _larger("DINOv2 ViT-g/14", 63.9, "size S"),
        _larger("DINOv3 ViT-7B/16", 71.1, "size S"),
    ),
    memory="features of 9 frames (/16: 1,560 patches of D each) and 128 MB of similarities",
    time="2,000 frames a model at 480 x 832, and their J and F on the CPU. `--cache DIR` keeps the scores of "
    "each video; an interrupted call goes on at the next",
)
