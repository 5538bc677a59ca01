"""What `ade20k-linear` follows."""

from odis.evaluation.protocols.about import About, Difference, Published


def _figure(network: str, value: float) -> Published:
    return Published(network, {"best mIoU": value}, "DINOv3's paper, tables 3 and 14; best of the sweep")


ABOUT = About(
    source="DINOv3 (Simeoni et al., 2025, appendix D.1), eval/segmentation and its "
    "config-ade20k-linear-training.yaml",
    settings={
        "head": "dropout of whole channels .1, batch norm, 1 x 1 convolution from N(0, .01) to 150 classes, "
        "on the last layer's patches after the final norm, without [CLS]",
        "train view": "shorter side to 512 times .5 to 2, bilinear; a crop of 512 whose largest class is at "
        "most .75 of it, 10 tries; mirrored with p .5; brightness 32, contrast and saturation .5-1.5, hue; "
        "padded with 0, labels ignored; class 0 is ignored",
        "training": "40,000 iterations of 16; AdamW (.9, .999), lr 1e-3, weight decay 1e-3, no clipping; "
        "fp32",
        "schedule": "1,500 iterations of linear warm-up from 1e-6 of lr, times 1 - t / 40,000; then the "
        "cosine that runs over all 40,000, to 0",
        "loss": "cross-entropy without class weights at the labels' size; ignored pixels stay in the mean's "
        "denominator",
        "test": "shorter side 512, windows of 512 with stride 341, scores averaged where they overlap, "
        "resized to the label map's own size; mIoU over 150 classes, accumulated over the 2,000 images of "
        "val",
        "patches of 14": "views and windows of 448, so that both have 1,024 patches",
    },
    chosen="the best of eight measurements (every 5,000 steps) and of lr 1e-4, 3e-4, 1e-3 with weight decay "
    "1e-4, 1e-3 (--sweep), on val; one fixed lr reads low",
    differences=(
        Difference("the last iteration counts", "the best of eight measurements on val", True),
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference("the loss is the mean over labelled pixels", "over all pixels, ignored ones too", True),
        Difference("the precision the model was loaded with (bf16 on a GPU)", "fp32", True),
        Difference(
            "one head, lr 1e-3 and weight decay 1e-3; with --sweep all are printed",
            "the best of the sweep",
            False,
        ),
        Difference("hue changes by up to 18 of 180; the crop of the last try is taken", "not stated", False),
        Difference("images are resized by Pillow", "by its own pipeline", False),
        Difference("photographs are turned as their label maps are", "EXIF is not looked at", False),
        Difference("batch norm over the batch of one process", "synchronised over processes", False),
        Difference("draws of our own generator", "torch's", False),
    ),
    figures=(
        _figure("DINOv2R ViT-S/14", 45.5),
        _figure("DINOv2R ViT-B/14", 48.4),
        _figure("DINOv2R ViT-L/14", 48.8),
        _figure("DINOv2R ViT-g/14", 49.5),
        _figure("DINOv3 ViT-S/16", 47.0),
        _figure("DINOv3 ViT-S+/16", 48.8),
        _figure("DINOv3 ViT-B/16", 51.8),
        _figure("DINOv3 ViT-L/16", 54.9),
        _figure("DINOv3 ViT-H+/16", 54.8),
        _figure("DINOv3 ViT-7B/16", 55.9),
        _figure("SigLIP2 B", 41.6),
        _figure("PEcore B", 37.4),
        _figure("Franca g", 46.3),
    ),
    memory="a batch of 16 views and their 1,024 patches of D each; 256 MB of pixel scores in training; of "
    "one test image 150 scores a pixel at a shorter side of 512 (.2 GB)",
    time="40,000 steps of 16 views of 512 x 512: 640,000 passes a model, whatever the number of heads. "
    "`--cache DIR` keeps the heads every 500 steps; the same call goes on there",
)
