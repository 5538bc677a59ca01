"""Mutation tests of the annotation formats: small valid data sets with something broken in each.

    make fuzz [N=10000] [SEED=0] [FORMAT=coco]
    PYTHONPATH=benchmarks python -m fuzz --only 1234   # one input again, with its traceback

Whatever is broken, `build_index` writes an index or raises an `OdisError`, in time, and its counts add up.
"""
