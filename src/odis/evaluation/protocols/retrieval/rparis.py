"""`rparis`: retrieval on Revisited Paris as DINO and iBOT measure it."""

from odis.evaluation.protocols.about import Published
from odis.evaluation.protocols.retrieval.landmark_protocol import landmark_protocol

_DINO, _DINOV3 = "DINO, table 3", "DINOv3, table 23"

PROTOCOL = landmark_protocol(
    "rparis",
    512,
    (
        Published("DINO ViT-S/16, ImageNet", {"medium mAP": 63.1, "hard mAP": 34.4}, _DINO),
        Published("supervised ViT-S/16, ImageNet", {"medium mAP": 63.0, "hard mAP": 37.2}, _DINO),
        Published("DINO ViT-S/16, GLDv2", {"medium mAP": 75.3, "hard mAP": 51.6}, _DINO),
        Published("DINOv2 ViT-g/14", {"medium mAP": 92.7, "hard mAP": 84.6}, _DINOV3),
        Published("DINOv3 7B", {"medium mAP": 93.3, "hard mAP": 87.1}, _DINOV3),
    ),
)
