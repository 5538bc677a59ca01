"""The settings of a pretraining run: typed, documented where they are declared, (`config_check.py` checks
them together).

Every field is an option of `odis pretrain` (`--views.global_size 96`) and a key of a recipe file. Recipes
override these defaults, the command line overrides the recipe. Durations are in epochs: one epoch is as many
images as the data has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass
class LoaderConfig:
    """How images are read. No setting changes what is computed, except for the rounding of pixels to 8 bits
    and what JPEG loses in copies on disk.

    Args:
        workers: Data loading processes on each rank; 0 loads in the training process.
        prefetch: Batches each worker prepares ahead.
        keep: Where decoded images are kept, in order of preference, for example `[device:20GiB, memory,
            disk:DIR]` (in quotes on a command line). `memory` or `memory:8GiB`: in memory that the workers
            share, at most three quarters of it. `disk:DIR`: large photographs as smaller copies in a folder,
            which later epochs and other runs read. `device:20GiB`: on the training device, with `render:
            device`, so that images are sent once. By default every image is read from its file each time.
        render: Where views are rendered: by the workers (`cpu`), or on the training device, so that workers
            only decode. For a GPU that they cannot keep busy.
    """

    workers: int = 4
    prefetch: int = 2
    keep: list[str] = field(default_factory=list)
    render: Literal["cpu", "device"] = "cpu"


@dataclass
class ObjectsConfig:
    """Which objects of an image training distils.

    Args:
        use: Take the objects of the index; if false every image is one object, as in DINO and iBOT.
        min_size: Objects whose box has a side under this many pixels, after clipping to the image, are
            dropped.
        sampling: How the target object is drawn: in proportion to its area, or uniformly.
        per_image: Object tokens in each view. 1 takes the target alone; more take the target and others at
            random.
        min_visible: Share of an object (or of the view, if that is smaller) that must lie in a view for the
            object to count as visible there; 0 is any overlap.
        rediscover_every: Epochs between discoveries: training begins with whole images, and every so many
            epochs the teacher finds the objects of all images anew (section `discover` says how). Annotated
            objects are not looked at. 0 takes the index as it is.
    """

    use: bool = True
    min_size: float = 1.0
    sampling: Literal["area", "uniform"] = "area"
    per_image: int = 1
    min_visible: float = 0.0
    rediscover_every: float = 0.0


@dataclass
class ViewsConfig:
    """Crops, photometrics and object masks.

    Args:
        global_views: Global views an image (2 or more).
        global_size: Side of a global view in pixels, a multiple of the patch size.
        global_scale: Area of a global crop as a share of the image, from and to.
        local_views: Local views an image.
        local_size: Side of a local view in pixels, a multiple of the patch size.
        local_scale: Area of a local crop as a share of the image, from and to.
        ratio: Aspect ratio (width / height) of crops, from and to.
        object_crops: Global crops must cover the target object (`min_coverage`); if false they are free.
        min_coverage: Least overlap / min(object area, crop area) of a global crop with the target; 0 is any
            overlap.
        candidates: Crops drawn a view before the one that covers the target best is taken.
        local_crops: `object-aware` local crops overlap the target; `free` ones fall anywhere.
        object_masks: `[OBJ]` reads its object's patches only; if false the whole view.
        mask_coverage: Share of a patch an object must cover for the patch to belong to it, measured by the
            patch that it covers most (which is all of a patch, unless the object is small or thin).
        mask_margin: Patches by which the object mask of a box object is widened on every side.
        flip: Probability of mirroring a view.
        jitter: Probability of colour jitter.
        jitter_strength: Brightness, contrast, saturation and hue ranges of the jitter.
        grayscale: Probability of dropping colour.
        blur: Probability of Gaussian blur in the first global view, the other global views, the local views.
        solarize: Probability of solarisation in the first global view, the other global views, the local
            views.
        mean: Channel means subtracted from pixels in 0..1.
        std: Channel deviations pixels are divided by.
    """

    global_views: int = 2
    global_size: int = 224
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_views: int = 10
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.25)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    object_crops: bool = True
    min_coverage: float = 0.5
    candidates: int = 20
    local_crops: Literal["object-aware", "free"] = "object-aware"
    object_masks: bool = True
    mask_coverage: float = 0.5
    mask_margin: int = 0
    flip: float = 0.5
    jitter: float = 0.8
    jitter_strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    grayscale: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass
class PredictionConfig:
    """Prediction masks: which patches of a global view are hidden from the student (iBOT, section 3.1).

    Args:
        probability: Probability that a global view has hidden patches at all.
        ratio: Mean share of hidden patches in a view that has some.
        spread: The share is drawn uniformly from ratio - spread to ratio + spread.
    """

    probability: float = 0.5
    ratio: float = 0.3
    spread: float = 0.2


@dataclass
class ModelConfig:
    """The backbone: any timm `VisionTransformer`.

    Args:
        name: timm model name.
        weights: `timm` for timm's published weights (downloads, or reads the local hub cache), a path to a
            timm state dict (`.safetensors` or `.pth`), or nothing to train from scratch.
        object_tokens: `single` is the paper's (`[CLS]` becomes `[OBJ]`, patches see it); `read-only` puts
            object tokens beside `[CLS]` that no other token sees.
        object_readout: `token` reads objects with `[OBJ]`; `mean-pool` averages the object's patches (Hénaff
            et al., 2021).
        patch_size: Patch side in pixels, if other than the named model's.
        embed_dim: Width, if other than the named model's.
        depth: Blocks, if other than the named model's.
        num_heads: Attention heads, if other than the named model's.
        drop_path: Stochastic depth of the student.
        grad_checkpointing: Recompute blocks in the backward pass to save memory; on a CPU, what is freed also
            goes back to the system.
    """

    name: str = "vit_small_patch16_224"
    weights: str | None = None
    object_tokens: Literal["single", "read-only"] = "single"
    object_readout: Literal["token", "mean-pool"] = "token"
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    drop_path: float = 0.1
    grad_checkpointing: bool = False


@dataclass
class HeadConfig:
    """Projection heads (DINO, section 3.1; iBOT, section 3.2).

    Args:
        prototypes: K, the output dimensions.
        hidden: Width of the MLP.
        bottleneck: Width before the prototypes.
        layers: Linear layers of the MLP.
        norm: Batch norm inside the MLP, and without affine before the l2 norm; or none.
        norm_last_layer: Fix the length of every prototype at 1; if false it is learned.
        shared: One head for object, image and patch tokens; if false patches have their own.
    """

    prototypes: int = 8192
    hidden: int = 2048
    bottleneck: int = 256
    layers: int = 3
    norm: Literal["none", "batch"] = "none"
    norm_last_layer: bool = True
    shared: bool = True


@dataclass
class LossConfig:
    """Weights, temperatures and centering of the losses.

    Args:
        object_weight: Weight of the object term.
        patch_weight: Weight of the patch term.
        image_weight: Weight of the image term (all-true object masks). With `single` tokens it costs another
            pass.
        koleo_weight: Weight of the KoLeo regulariser, which keeps the objects of a batch apart in the head;
            for small batches.
        student_temp: Student temperature.
        teacher_temp: Teacher temperature after its warm-up.
        warmup_teacher_temp: Teacher temperature at the start.
        warmup_teacher_temp_epochs: Epochs over which the teacher temperature rises linearly.
        centering: Against collapse: a running `center` of teacher logits, or `sinkhorn` (Sinkhorn-Knopp).
        center_momentum: Momentum of the running center.
        sinkhorn_iterations: Sinkhorn-Knopp iterations.
    """

    object_weight: float = 1.0
    patch_weight: float = 1.0
    image_weight: float = 0.0
    koleo_weight: float = 0.0
    student_temp: float = 0.1
    teacher_temp: float = 0.07
    warmup_teacher_temp: float = 0.04
    warmup_teacher_temp_epochs: float = 30.0
    centering: Literal["center", "sinkhorn"] = "center"
    center_momentum: float = 0.9
    sinkhorn_iterations: int = 3


@dataclass
class OptimConfig:
    """AdamW, its schedules, and the teacher's momentum.

    Args:
        base_lr: Learning rate at batch 256; the one used is base_lr * batch_size / 256.
        min_lr: Learning rate at the end of the cosine (not scaled).
        warmup_epochs: Epochs of linear learning-rate warm-up.
        weight_decay: Weight decay at the start of its cosine.
        weight_decay_end: Weight decay at its end.
        betas: AdamW betas.
        clip_grad: Largest global gradient norm; 0 clips nothing.
        freeze_last_layer_epochs: Epochs in which the prototypes do not move.
        momentum_teacher: EMA momentum at the start; it rises to 1 by a cosine.
    """

    base_lr: float = 5e-4
    min_lr: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: float = 3.0
    freeze_last_layer_epochs: float = 1.0
    momentum_teacher: float = 0.996


@dataclass
class TrainConfig:
    """How long, how large, how exact, and what is written when.

    Args:
        epochs: Length of the run in epochs.
        steps: Length of the run in steps, instead of epochs.
        batch_size: Images a step, over all ranks and accumulation.
        accumulate: Micro-batches a step; each is normalised and centred on its own.
        seed: Seed of everything random.
        precision: Arithmetic of the forward and backward passes; weights stay fp32. `auto` is bf16 on a GPU
            that computes in it, and on a CPU on which bf16 products are clearly faster, else fp32. A run
            chooses once, when it starts, and a resume keeps the choice.
        device: `auto` (the GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.
        compile: Compile the transformer blocks.
        threads: CPU threads of each rank; 0 leaves torch's choice.
        log_every: Steps between lines of `metrics.jsonl`.
        checkpoint_every: Steps between checkpoints; 0 writes one at the end only.
        keep: Checkpoints kept.
        knn_every: Steps between k-NN evaluations on `val`; 0 for none before the end.
        tensorboard: Write TensorBoard events too.
        nonfinite_limit: Non-finite losses in a row after which training stops.
    """

    epochs: float = 100.0
    steps: int | None = None
    batch_size: int = 256
    accumulate: int = 1
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    compile: bool = False
    threads: int = 0
    log_every: int = 10
    checkpoint_every: int = 1000
    keep: int = 2
    knn_every: int = 0
    tensorboard: bool = False
    nonfinite_limit: int = 5


@dataclass
class DiscoverConfig:
    """How objects are found without annotations, in a network's own features.

    Args:
        method: `spectral`: repeated normalised cuts (TokenCut, CVPR 2022; MaskCut, CVPR 2023). `seeds`:
            growing from the patch that agrees with fewest others (LOST, BMVC 2021).
        size: Side in pixels of the square whose area images are resized to, their aspect kept; by default the
            size the model was trained at. Objects should be some patches high.
        facet: Which features of the last attention layer: `key`, `query`, `value`, or `token`, the patches
            that come out. By default `key`, and `token` for a model without such a layer.
        grayscale: Show the network images without colour: for one that was trained so (`views.grayscale` 1),
            whose features colour would disturb.
        center: Subtract the mean feature of the image first, which small networks need: all their patches
            agree with it.
        max_objects: Objects looked for in an image.
        tau: `spectral`: cosine above which two patches belong together.
        seeds_k: `seeds`: patches that may join the seed, those with the fewest correlations.
        edge_radius: Masks are drawn to edges of the image this many patches away (guided filter); 0 leaves
            them as the patches say.
        min_area: Least area of an object's mask, as a share of the image.
        max_area: Largest area.
        max_overlap: Of two boxes with more IoU than this, the less clear one goes.
        min_score: Least clearness of an object, 0 to 1: half the amount by which the object's patches agree
            more with its mean feature than those around it do. An image without a clear object yields none.
        batch_size: Images of one shape that go through the network at once.
    """

    method: Literal["spectral", "seeds"] = "spectral"
    size: int | None = None
    facet: Literal["key", "query", "value", "token"] | None = None
    grayscale: bool = False
    center: bool = False
    max_objects: int = 3
    tau: float = 0.2
    seeds_k: int = 100
    edge_radius: float = 1.0
    min_area: float = 0.01
    max_area: float = 0.8
    max_overlap: float = 0.8
    min_score: float = 0.1
    batch_size: int = 32


@dataclass
class PretrainConfig:
    """Everything that defines a pretraining run.

    Args:
        data: An object index (`.parquet`) or a folder of images to train on.
        val: A held-out object index with labels for the periodic k-NN, or nothing.
        strict: Stop at the first file or object that cannot be used, instead of naming, counting and skipping
            it.
    """

    data: str = ""
    val: str | None = None
    strict: bool = False
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    discover: DiscoverConfig = field(default_factory=DiscoverConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)


def as_dict(config: PretrainConfig) -> dict[str, Any]:
    """The config as nested plain dicts (tuples become lists), as written to `config.yaml`."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    sections: dict[str, Any] = plain(asdict(config))
    return sections
