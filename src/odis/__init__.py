"""odis: pretrain Vision Transformers by object-level self-distillation."""

__version__ = "0.1.0"
