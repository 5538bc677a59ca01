"""`roxford`: retrieval on Revisited Oxford as DINO and iBOT measure it."""

from odis.evaluation.protocols.about import Published
from odis.evaluation.protocols.retrieval.landmark_protocol import landmark_protocol

_DINO, _DINOV3, _SIZES = "DINO, table 3", "DINOv3, table 23", "DINOv3's paper"

PROTOCOL = landmark_protocol(
    "roxford",
    224,
    (
        Published("DINO ViT-S/16, ImageNet", {"medium mAP": 41.8, "hard mAP": 13.7}, _DINO),
        Published("supervised ViT-S/16, ImageNet", {"medium mAP": 33.5, "hard mAP": 8.9}, _DINO),
        Published("DINO ViT-S/16, GLDv2", {"medium mAP": 51.5, "hard mAP": 24.3}, _DINO),
        Published("DINOv2 ViT-g/14", {"medium mAP": 78.2, "hard mAP": 58.2}, _DINOV3),
        Published("DINOv3 7B", {"medium mAP": 81.1, "hard mAP": 60.7}, _DINOV3),
        Published("DINOv2 ViT-S/14", {"hard mAP": 43.2}, _SIZES),
        Published("DINOv2 ViT-B/14", {"hard mAP": 49.5}, _SIZES),
        Published("DINOv2 ViT-L/14", {"hard mAP": 54.0}, _SIZES),
        Published("DINOv3 ViT-S/16", {"hard mAP": 49.5}, _SIZES),
        Published("DINOv3 ViT-B/16", {"hard mAP": 58.5}, _SIZES),
        Published("DINOv3 ViT-L/16", {"hard mAP": 63.1}, _SIZES),
    ),
)
