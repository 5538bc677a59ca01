"""Small detectors with random weights, saved as the real ones are: made once, read by the code under test
like any other.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """uint8 RGB images of several sizes, two of them equal: blocks of colour on noise."""
    draw = np.random.default_rng(0)
    made = []
    for height, width in ((60, 80), (80, 60), (60, 80), (100, 50), (3, 70)):
        picture = draw.integers(0, 80, (height, width, 3), dtype=np.uint8)
        for _ in range(3):
            y, x = draw.integers(0, height), draw.integers(0, width)
            picture[y : y + 30, x : x + 30] = draw.integers(0, 256, 3)
        made.append(picture)
    return made


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Grounding DINO of one encoder layer; its words: a, cat, dog, dogs, red, object,
    person.
    """
    from transformers import (
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        SwinConfig,
    )
    from transformers import GroundingDinoImageProcessor as ImageProcessor
    from transformers import GroundingDinoProcessor as Processor

    folder = tmp_path_factory.mktemp("tiny-grounding-dino")
    # The network knows the special tokens by BERT's numbers: 101, 102, 1012 for the full stop, 1029 for the
    # question mark.
    words = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    words |= dict(enumerate(["a", "cat", "dog", "red", "object", "person", "##s"], start=1013))
    (folder / "vocab.txt").write_text("\n".join(words.get(i, f"[unused{i}]") for i in range(1030)) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            window_size=7,
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            out_indices=[2, 3, 4],
        ),
        text_config={
            "model_type": "bert",
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "max_position_embeddings": 64,
            "vocab_size": 1030,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=64,
    )
    GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
    Processor(ImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}), tokenizer).save_pretrained(
        folder
    )
    return folder


def clip_tokenizer(folder: Path, length: int):
    """A CLIP tokenizer that spells, and the number of its tokens."""
    from transformers import CLIPTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["!", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizerFast(*files, pad_token="!", model_max_length=length), len(words)


def owl(folder: Path, family: str) -> Path:
    """A folder with an OWL-ViT (`OwlViT`) or OWLv2 (`Owlv2`) of one layer and 16 patches."""
    import transformers

    tokenizer, count = clip_tokenizer(folder, 16)
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": count,
        "max_position_embeddings": 16,
        "bos_token_id": count - 2,
        "eos_token_id": count - 1,
    }
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        text_config=part | text, vision_config=part | {"image_size": 64, "patch_size": 16}, projection_dim=16
    )
    getattr(transformers, f"{family}ForObjectDetection")(config).eval().save_pretrained(folder)
    image_processor = getattr(transformers, f"{family}ImageProcessor")(size={"height": 64, "width": 64})
    getattr(transformers, f"{family}Processor")(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def owl_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `owl`."""
    return owl(tmp_path_factory.mktemp("tiny-owlv2"), "Owlv2")


@pytest.fixture(scope="session")
def owl_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `owl`."""
    return owl(tmp_path_factory.mktemp("tiny-owlvit"), "OwlViT")


@pytest.fixture(scope="session")
def omdet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an OmDet-Turbo of one layer."""
    from transformers import (
        DetrImageProcessor,
        OmDetTurboConfig,
        OmDetTurboForObjectDetection,
        OmDetTurboProcessor,
        SwinConfig,
    )

    folder = tmp_path_factory.mktemp("tiny-omdet")
    tokenizer, count = clip_tokenizer(folder, 77)
    torch.manual_seed(0)
    config = OmDetTurboConfig(
        backbone_config=SwinConfig(
            window_size=7,
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            out_indices=[2, 3, 4],
        ),
        text_config={
            "model_type": "clip_text_model",
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 77,
            "vocab_size": count,
            "projection_dim": 24,
            "bos_token_id": count - 2,
            "eos_token_id": count - 1,
        },
        use_timm_backbone=False,
        backbone=None,
        apply_layernorm_after_vision_backbone=False,
        image_size=64,
        num_projection_layers=1,
        decoder_num_layers=1,
        decoder_hidden_dim=16,
        decoder_num_heads=2,
        decoder_dim_feedforward=32,
        class_embed_dim=24,
        text_projection_in_dim=24,
        text_projection_out_dim=24,
        task_encoder_hidden_dim=16,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 32, 64],
        encoder_dim_feedforward=32,
        encoder_attention_heads=2,
        vision_features_channels=[16, 16, 16],
        num_queries=10,
    )
    OmDetTurboForObjectDetection(config).eval().save_pretrained(folder)
    OmDetTurboProcessor(DetrImageProcessor(size={"height": 64, "width": 64}), tokenizer).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SAM of one layer that sees 64 x 64 pixels."""
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    folder = tmp_path_factory.mktemp("tiny-sam")
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "mlp_dim": 16,
            "window_size": 4,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 8,
            "image_embedding_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    SamModel(config).eval().save_pretrained(folder)
    sizes = {"mask_size": {"longest_edge": 16}, "mask_pad_size": {"height": 16, "width": 16}}
    SamProcessor(
        SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, **sizes)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SAM 2 that sees 128 x 128 pixels."""
    transformers = pytest.importorskip("transformers", minversion="4.57")

    folder = tmp_path_factory.mktemp("tiny-sam2")
    torch.manual_seed(0)
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 12,
                "num_attention_heads": 1,
                "image_size": [128, 128],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [12, 24, 48, 96],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_positional_embedding_background_size": [7, 7],
                "window_size_per_stage": [8, 4, 14, 7],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [96, 48, 24, 12],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 128,
            "patch_size": 16,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
    )
    transformers.Sam2Model(config).eval().save_pretrained(folder)
    name = "Sam2ImageProcessor" if hasattr(transformers, "Sam2ImageProcessor") else "Sam2ImageProcessorFast"
    image_processor = getattr(transformers, name)(
        size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32}
    )
    transformers.Sam2Processor(image_processor).save_pretrained(folder)
    return folder
