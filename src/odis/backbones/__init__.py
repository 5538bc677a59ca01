"""timm in and out: build, load and save backbones, ask any timm model for features."""
