"""What `nyu-depth-linear` follows."""

from odis.evaluation.protocols.about import About, Difference, Published


def _figure(network: str, error: float) -> Published:
    return Published(network, {"RMSE": error}, "DINOv3's paper, table 14; best of the sweep")


ABOUT = About(
    source="DINOv3 (Simeoni et al., 2025, appendix D.2), eval/depth and its config-nyu.yaml",
    settings={
        "data": "BTS's copy of NYU Depth v2, 654 test images; depth / 1,000, known from .001 to 10 m",
        "train view": "crop to columns 43-608 and rows 45-472; turned by up to 2.5 degrees with p .5; "
        "mirrored with p .5; random crop 416 x 544; colour with p .5 (gamma .9-1.1, brightness .75-1.25, "
        "channels .9-1.1)",
        "features": "patches of the last block after the final norm; the image is padded around to whole "
        "patches",
        "head": "batch norm, 1 x 1 convolution to 256; depth is the sum of (ReLU + .1) / sum times 256 "
        "linear bins from .001 to 10 m",
        "loss": "root of the variance of the log difference plus .15 times its squared mean; the first 100 "
        "iterations without the variance",
        "training": "38,400 iterations of 16; AdamW 3e-4, weight decay 1e-4, beta2 .99, gradients clipped at "
        "35",
        "schedule": "12,800 iterations of linear warm-up from lr / 1,000, times a cosine over all iterations "
        "to lr / 25,000; beta1 is 0 in the warm-up, then .85 to .95",
        "test": "the whole 480 x 640 image and its mirror image averaged, bilinear to the truth, clamped; "
        "Eigen's crop, rows 45-471 and columns 41-601; RMSE of each image, then the mean",
        "head that counts": "that of the last iteration",
    },
    chosen="the best of lr 1e-4, 3e-4, 1e-3 and weight decay 1e-4, 1e-3, by the figures themselves (--sweep)",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference("beta1 is .85 in the warm-up", "0, a side effect", True),
        Difference("the precision the model was loaded with (bf16 on a GPU)", "fp32", True),
        Difference(
            "one head, lr 3e-4 and weight decay 1e-4; with --sweep all are printed",
            "the best of the sweep",
            False,
        ),
        Difference(
            "what was padded is cut off before depth maps are compared (none for patches of 16)",
            "not stated",
            False,
        ),
        Difference("photographs are turned as their EXIF says", "EXIF is not looked at", True),
        Difference("batch norm over the batch of one process", "synchronised over processes", False),
        Difference("beta1 rises as a cosine; colours change on values from 0 to 1", "not stated", False),
        Difference("draws of our own generator", "torch's", False),
    ),
    figures=(
        _figure("DINOv2R ViT-S/14", 0.446),
        _figure("DINOv2R ViT-B/14", 0.416),
        _figure("DINOv2R ViT-L/14", 0.394),
        _figure("DINOv2R ViT-g/14", 0.372),
        _figure("DINOv3 ViT-S/16", 0.403),
        _figure("DINOv3 ViT-S+/16", 0.399),
        _figure("DINOv3 ViT-B/16", 0.373),
        _figure("DINOv3 ViT-L/16", 0.352),
        _figure("DINOv3 ViT-7B/16", 0.309),
    ),
    memory="a batch of 16 views and their patches (884 of D each for patches of 16), and for each head 256 "
    "values a patch",
    time="38,400 steps of 16 views of 416 x 544: 614,400 passes a model, whatever the number of heads. "
    "`--cache DIR` keeps the heads every 500 steps; the same call goes on there",
)
