"""What `knn-imagenet` follows."""

from odis.evaluation.protocols.about import About, Difference, Published

_DINO, _IBOT, _DINOV2 = "DINO's README", "iBOT's README", "DINOv2's README and model card"

ABOUT = About(
    source="DINO (Caron et al., 2021, appendix F.1), eval_knn.py; iBOT (Zhou et al., 2022), "
    "evaluation/eval_knn.py",
    settings={
        "view, train and test": "shorter side to 256, bicubic, centre crop 224, ImageNet's statistics; no "
        "augmentation",
        "memory": "all 1,281,167 training images; 50,000 validation images are classified",
        "feature": "the teacher's [CLS] after the final norm, without the head, of length 1",
        "k": "10, 20, 100, 200",
        "vote": "exp(cosine / .07) for the neighbour's class; the class with the largest sum",
        "objects": "with boxes (the ODIS authors' extension): cls, the mean of the objects' tokens, or both "
        "concatenated and then normalised once",
    },
    chosen="the best k on the validation set itself, nearly always 20; all k are printed here",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference("photographs are turned as their EXIF says", "EXIF is not looked at", True),
        Difference("equally similar neighbours: the earlier is nearer", "their order is not defined", False),
        Difference(
            "a box that the crop leaves no patch of is left out; an image without any is read by [CLS] in "
            "place of [OBJ], and counted",
            "not stated",
            False,
        ),
        Difference(
            "the precision the model was loaded with",
            "fp32 (DINO, iBOT); [CLS] in half precision (DINOv2)",
            False,
        ),
        Difference("top-1 alone", "top-1, and top-5 over min(5, k) neighbours", False),
        Difference("any number of test images", "DINO's code needs 100 or more", False),
    ),
    figures=(
        Published("DINO ViT-S/16", {"k=20": 74.5}, _DINO),
        Published("DINO ViT-B/16", {"k=20": 76.1}, _DINO),
        Published("DINO ViT-S/8", {"k=20": 78.3}, _DINO),
        Published("DINO ViT-B/8", {"k=20": 77.4}, _DINO),
        Published("iBOT ViT-S/16", {"best k": 75.2}, _IBOT),
        Published("iBOT ViT-B/16", {"best k": 77.1}, _IBOT),
        Published("iBOT ViT-L/16", {"best k": 78.0}, _IBOT),
        Published("DINOv2 ViT-S/14", {"best k": 79.0}, _DINOV2),
        Published("DINOv2 ViT-B/14", {"best k": 82.1}, _DINOV2),
        Published("DINOv2 ViT-L/14", {"best k": 83.5}, _DINOV2),
        Published("DINOv2 ViT-g/14", {"best k": 83.5}, _DINOV2),
        Published("DINOv2R ViT-S/14", {"best k": 79.1}, _DINOV2),
        Published("DINOv2R ViT-B/14", {"best k": 82.0}, _DINOV2),
        Published("Franca ViT-B/14", {"best k": 80.9}, "Franca's paper"),
    ),
    memory="test features and 200 keys for each: 50,000 x (4 D + 1,600) bytes, .16 GB at D 384; the training "
    "features are streamed",
    time="one pass over the images a model; the product of 50,000 by 1.28 million features. `--cache DIR` "
    "keeps features (2 GB at D 384); an interrupted call goes on",
)
