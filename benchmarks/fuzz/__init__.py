"""Mutation tests of the annotation formats, and of recipes, configs, metrics, models and checkpoints: small
valid ones with something broken in each.

    make fuzz [N=20000] [SEED=0] [FORMAT=coco]
    PYTHONPATH=benchmarks python -m fuzz --only 1234   # one input again, with its traceback

Whatever is broken, `build_index` writes an index or raises an `OdisError`, in time, and its counts add up;
other files are read as they are, or refused.
"""
