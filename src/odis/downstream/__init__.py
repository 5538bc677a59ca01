"""Downstream tasks: a backbone fine-tuned, or kept frozen, as a detector, a segmenter or a classifier.

    odis.finetune("detection", ["random", "runs/coco"], train="coco-train.parquet", test="coco-val.parquet",
                  out="coco-detection")

`settings.py` says what can be set, a task has a file each (`detection.py`, `semantic.py`,
`classification.py`), `training.py` is the loop, and `compare.py` the table of the starting points.
"""
