"""Leave with the model: folders for timm, transformers, ONNX Runtime, `torch.export` and the hub.

Each target is written, opened again by the library it is for, and held against odis' own outputs before the
folder gets its name.
"""
