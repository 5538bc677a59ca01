"""What `linear-seg` follows."""

from odis.evaluation.protocols.about import About, Difference, Published

_LEOPART, _NECO = "Leopart's README", "NeCo's README"


def _dip(network: str, coco: float, ade: float) -> Published:
    return Published(network, {"COCO": coco, "ADE20K": ade}, "DIP's table 8, by its own code")


ABOUT = About(
    source="Leopart (Ziegler and Asano, 2022), experiments/linear_probing; NeCo (Pariza et al., 2025), "
    "experiments/linear_segmentation",
    settings={
        "train view": "random crop of .8 to 1 of the area, ratio 3/4 to 4/3, to 448 x 448, bilinear, masks "
        "by nearest pixel; mirrored half of the time; ImageNet's statistics",
        "val view": "squashed to 448 x 448",
        "features": "patches of the last block after the final norm, resized bilinearly to 100 x 100 before "
        "the head; masks to 100 x 100 by nearest pixel",
        "head": "a 1 x 1 convolution with bias, without a norm",
        "training": "SGD, lr .01, momentum .9, weight decay 1e-4, a tenth after epoch 20, 25 epochs; batch "
        "128 (NeCo) or 2 x 60 (Leopart; /8: batch 6, lr .1); cross-entropy over labelled pixels",
        "score": "mIoU over all classes, the background included, without matching; at 100 while training, "
        "at 448 by the separate final script",
        "sets": "VOC trainaug 10,582 and val 1,449; COCO-Things and -Stuff on a random 10 % of train2017; "
        "ADE20K; Cityscapes",
    },
    chosen="the best epoch on val; the last one is printed beside",
    differences=(
        Difference(
            "the last epoch counts, the best on the test part is printed beside", "the best on val", True
        ),
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference(
            "every test image is scored", "the loader drops the incomplete batch while training", True
        ),
        Difference(
            "the mean is over classes that are labelled or predicted",
            "over all classes, absent ones as 0",
            True,
        ),
        Difference("ADE20K has 150 classes", "151: class 0 is left out and counts as IoU 0", True),
        Difference(
            "the head is applied to the patches, its scores are resized: the same in exact arithmetic",
            "the tokens are resized, then the head is applied",
            False,
        ),
        Difference("a train part is taken whole", "of COCO a random 10 % of train2017", False),
        Difference(
            "every test image after every epoch", "Leopart's figure in training is of 8 batches a GPU", False
        ),
        Difference("draws of our own generator", "torch's, seed 400", False),
    ),
    figures=(
        Published("Leopart ViT-S/16", {"VOC": 69.3}, _LEOPART),
        Published("Leopart ViT-S/16 + NeCo", {"VOC": 68.3}, _NECO),
        Published("DINO ViT-S/16 + NeCo", {"VOC": 65.8}, _NECO),
        Published("TimeT ViT-S/16 + NeCo", {"VOC": 68.5}, _NECO),
        Published("DINOv2 ViT-S/14 + NeCo", {"VOC": 81.4}, _NECO),
        Published("DINOv2R ViT-S/14 + NeCo", {"VOC": 81.5}, _NECO),
        Published("DINOv2 ViT-B/14 + NeCo", {"VOC": 84.5}, _NECO),
        Published("DINOv2R ViT-B/14 + NeCo", {"VOC": 84.4}, _NECO),
        _dip("DINOv2R ViT-S/14", 82.1, 33.5),
        _dip("DINOv2R ViT-S/14 + NeCo", 81.1, 33.1),
        _dip("DINOv2R ViT-S/14 + DIP", 82.6, 33.7),
        _dip("DINOv2R ViT-B/14", 85.5, 38.6),
        _dip("DINOv2R ViT-B/14 + NeCo", 85.2, 39.5),
        _dip("DINOv2R ViT-B/14 + DIP", 86.7, 39.5),
    ),
    memory="test patches, 1.75 GB (1,449 x 784 x 4 D bytes at D 384), and their labels, .58 GB; a batch of "
    "train patches, .15 GB; scores of at most 2^26 pixels and classes at a time, .27 GB",
    time="one pass over the train part for every epoch, since views are drawn anew: 265,000 images a model. "
    "With --cache the test patches and, after each epoch, the head are kept; an interrupted call goes on",
)
