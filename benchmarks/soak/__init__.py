"""Kills of every command that writes: each is killed at random moments, again and again, until it ends by
itself, and must then have written what an undisturbed one writes, and left nothing else.

    make soak [KILLS=500] [SEED=0]
    PYTHONPATH=benchmarks python -m soak --only pretrain-two-ranks --kills 20
"""
