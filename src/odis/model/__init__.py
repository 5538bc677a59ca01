"""The network: a timm ViT that reads objects, projection heads, student and teacher."""
