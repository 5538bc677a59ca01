"""What `overcluster` follows."""

from odis.evaluation.protocols.about import About, Difference, Published

_LEOPART, _NECO = "Leopart's README", "NeCo's README"

ABOUT = About(
    source="Leopart (Ziegler and Asano, 2022), experiments/overcluster/sup_overcluster.py; NeCo (Pariza et "
    "al., 2025), eval_overcluster.py",
    settings={
        "view": "val images squashed to 448 x 448; ImageNet's statistics",
        "features": "patches of the last block after the final norm, of the val set itself",
        "reduction": "each dimension to mean 0 and variance 1 over all patches, then PCA to 50",
        "clusters": "faiss' k-means: Euclidean, 100 iterations, 5 restarts, on at most 256 points a "
        "centroid; seeds 0 to 4, the mean of five",
        "maps": "clusters of patches to 100 x 100 by nearest pixel, masks too; 255 is left out",
        "matching": "K = classes: Hungarian on IoU. More: each cluster to the class of the highest "
        "precision, many to one; of equal ones the lowest",
        "score": "mIoU over all classes; a class without a cluster has 0",
        "K": "VOC 21 and 500; COCO-Things 12, -Stuff 15 and 500; ADE20K 151 with 0 left out",
    },
    chosen="nothing is known to be chosen; the clusters are matched on the scored set itself",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference(
            "every image takes part", "stops after 30 batches of 60, and drops the incomplete one", True
        ),
        Difference(
            "the mean is over classes that are labelled or predicted",
            "over all classes, absent ones as 0",
            True,
        ),
        Difference("ADE20K has 150 classes", "151: class 0 is left out and counts as IoU 0", True),
        Difference(
            "an empty cluster takes the point farthest from its centre", "faiss splits a large cluster", False
        ),
        Difference(
            "the metric of the final script", "another one is printed during training (one seed)", False
        ),
        Difference("draws of our own generator, seeds 0 to 4", "those of faiss, seeds 0 to 4", False),
    ),
    figures=(
        Published("Leopart ViT-S/16", {"VOC K=500": 53.5}, _LEOPART),
        Published("Leopart ViT-B/8", {"VOC K=500": 59.7}, _LEOPART),
        Published("Leopart ViT-S/16 + NeCo", {"VOC K=500": 55.3}, _NECO),
        Published("DINO ViT-S/16 + NeCo", {"VOC K=500": 47.9}, _NECO),
        Published("TimeT ViT-S/16 + NeCo", {"VOC K=500": 53.1}, _NECO),
        Published("DINOv2 ViT-S/14 + NeCo", {"VOC K=500": 57.7}, _NECO),
        Published("DINOv2R ViT-S/14 + NeCo", {"VOC K=500": 68.9}, _NECO),
        Published("DINOv2 ViT-B/14 + NeCo", {"VOC K=500": 71.1}, _NECO),
        Published("DINOv2R ViT-B/14 + NeCo", {"VOC K=500": 71.9}, _NECO),
    ),
    memory="patches of the test part, 1.75 GB (1,449 x 784 x 4 D bytes at D 384), then .23 GB of components; "
    "tables of classes and clusters, 30 MB (ADE20K .3 GB); distances in parts of 64 MB",
    time="one pass over the test part a model; then 25 runs of k-means for each K: at K 500, 128,000 points "
    "x 100 iterations, 16 TFLOP in all. With --cache the patches and each run of k-means are "
    "kept; an interrupted call goes on",
)
