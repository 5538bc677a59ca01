"""What `linear-imagenet` follows."""

from odis.evaluation.protocols.about import About, Difference, Published

_DINO, _IBOT, _DINOV2 = "DINO's README", "iBOT's README", "DINOv2's README and model card"
_BEST = "best epoch and head"

ABOUT = About(
    source="DINO (Caron et al., 2021), eval_linear.py; iBOT (Zhou et al., 2022), evaluation/"
    "eval_linear_multi.py; DINOv2 (Oquab et al., 2023), dinov2/eval/linear.py",
    settings={
        "train view": "random resized crop 224, scale .08 to 1, bilinear (DINOv2: bicubic), flip .5",
        "test view": "shorter side to 256, bicubic, centre crop 224",
        "features, ViT-S": "[CLS] of the last 4 blocks, each through the final norm (DINOv2: also those of "
        "ViT-B, and both without and with the mean patch)",
        "features, ViT-B and L": "the last [CLS] and the mean of its patches",
        "learning rates": "DINO one, .001 x batch / 256; iBOT 45, 1 to 9 times 1e-4 to 1; DINOv2 13, 1, 2, 5 "
        "times 1e-5 to 1e-2 and .1; each with a head of its own",
        "length": "DINO and iBOT 100 epochs, cosine stepped per epoch; DINOv2 12,500 steps (10 x 1,250), "
        "cosine per step; batch 1,024",
        "optimiser": "SGD, momentum .9, no weight decay; weights N(0, .01), biases 0; the backbone is frozen",
    },
    chosen="the best head of the grid and the best epoch, both on the validation set itself; the last epoch "
    "is printed beside it",
    differences=(
        Difference(
            "top-1 is of the last epoch, its head chosen on held-out train images",
            "the test part chooses head and epoch",
            True,
        ),
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference("photographs are turned as their EXIF says", "EXIF is not looked at", True),
        Difference(
            "an epoch's last batch is smaller where images do not divide; one process holds the batch",
            "the batch is spread over GPUs",
            False,
        ),
        Difference("draws of our own generator", "torch's", False),
        Difference(
            "the ways of DINO, iBOT and DINOv2",
            "DINOv3 has another: [CLS], 15 learning rates of 1e-4 to 5, weight decay 0 and 1e-5, 10 epochs, "
            "larger images",
            False,
        ),
    ),
    figures=(
        Published("DINO ViT-S/16", {_BEST: 77.0}, _DINO),
        Published("DINO ViT-B/16", {_BEST: 78.2}, _DINO),
        Published("DINO ViT-S/8", {_BEST: 79.7}, _DINO),
        Published("DINO ViT-B/8", {_BEST: 80.1}, _DINO),
        Published("iBOT ViT-S/16", {_BEST: 77.9}, _IBOT),
        Published("iBOT ViT-B/16", {_BEST: 79.5}, _IBOT),
        Published("iBOT ViT-L/16", {_BEST: 81.0}, _IBOT),
        Published("DINOv2 ViT-S/14", {_BEST: 81.1}, _DINOV2),
        Published("DINOv2 ViT-B/14", {_BEST: 84.5}, _DINOV2),
        Published("DINOv2 ViT-L/14", {_BEST: 86.3}, _DINOV2),
        Published("DINOv2 ViT-g/14", {_BEST: 86.5}, _DINOV2),
        Published("DINOv2R ViT-S/14", {_BEST: 80.9}, _DINOV2),
        Published("DINOv2R ViT-B/14", {_BEST: 84.6}, _DINOV2),
        Published("Franca ViT-B/14", {_BEST: 82.0}, "Franca's paper"),
    ),
    memory="test features (50,000 x 5 D x 4 bytes with 4 blocks: .4 GB at D 384) and the heads (with "
    "momentum 8 bytes x D x classes x heads: .5 GB for DINOv2's 52 at D 384)",
    time="100 (DINO, iBOT) or 10 (DINOv2) epochs of forward passes a model; `--cache DIR` keeps the heads "
    "after each epoch, and the same call goes on",
)
