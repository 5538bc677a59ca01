"""The settings of a pretraining run, typed and documented. `checks.py` checks them together.

Every field is an option of `odis pretrain` (`--views.global_size 96`) and a key of a recipe file. A recipe
overrides these defaults, and the command line overrides the recipe. Durations are in epochs; one epoch is as
many images as the data has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from odis.config.discovery import DiscoverConfig
from odis.config.loading import LoaderConfig
from odis.config.pixels import IMAGENET_MEAN, IMAGENET_STD, Channels, PixelFormat

MaskShape = Literal["area", "component-boxes"]


@dataclass
class ObjectsConfig:
    """The objects that training distils.

    Args:
        use: Use the objects of the index. If false, every image is one object, as in DINO and iBOT.
        min_size: Smallest side of a box in pixels, after clipping to the image. Smaller objects are dropped.
        unit: `instances`, or `classes`: all objects of one label in an image are one object, the union of
            their areas. Objects without a label are one each.
        target: `index` draws the target object from all that the image has. `first-crop` draws the first
            global crop freely until it shows an object (`first_crop_coverage`), and takes the largest in it.
            The other global crops are drawn until they show the target (`views.min_coverage`, here of its
            area). One that never does is a free crop that counts as no view of it.
        first_crop_coverage: With `first-crop`, the share of the crop that an object must cover.
        first_crop_draws: With `first-crop`, first crops tried. If no object ever covers enough, the image
            has no target: its views are free crops, and it takes part in the patch term alone.
        sampling: With `index`, draw the target in proportion to its area, or uniformly.
        per_image: Object tokens in each view: the target, and others at random.
        min_visible: An object is visible in a view if this share of it (or of the view, if that is smaller)
            lies there. 0 is any overlap.
        rediscover_every: Epochs between discoveries. Training starts on whole images; every so many epochs
            the teacher finds the objects of all images anew, by the settings of `discover`. Annotations are
            not used. 0 uses the index as it is.
    """

    use: bool = True
    min_size: float = 1.0
    unit: Literal["instances", "classes"] = "instances"
    target: Literal["index", "first-crop"] = "index"
    first_crop_coverage: float = 0.04
    first_crop_draws: int = 10
    sampling: Literal["area", "uniform"] = "area"
    per_image: int = 1
    min_visible: float = 0.0
    rediscover_every: float = 0.0


@dataclass
class ViewsConfig:
    """Crops, photometrics and object masks.

    Args:
        global_views: Global views of an image, 2 or more.
        global_size: Side of a global view in pixels, a multiple of the patch size.
        global_scale: Area of a global crop as a share of the image: smallest and largest.
        local_views: Local views of an image.
        local_size: Side of a local view in pixels, a multiple of the patch size.
        local_scale: Area of a local crop as a share of the image: smallest and largest.
        ratio: Aspect ratio (width / height) of crops: smallest and largest.
        object_crops: Global crops cover the target object (see `min_coverage`). If false, they are free.
        min_coverage: A global crop must overlap the target by this share of the smaller of the two. 0 is any
            overlap.
        candidates: Crops tried for a view. If none covers the target enough, the best of them is used.
        local_crops: `object-aware` local crops overlap the target; `free` ones do not have to.
        local_candidates: Crops tried for an object-aware local view; by default `candidates`.
        object_masks: `[OBJ]` attends to its object's patches only. If false, to the whole view.
        local_masks: So it is in local views too. If false, `[OBJ]` attends to all of a local view, which then
            counts as a view of the target whatever it shows.
        mask_coverage: A patch belongs to an object that covers this share of it. For small and thin objects
            the share is relative to the patch that they cover most. 0 is any overlap.
        mask_shape: `area` is the patches that the object covers. `component-boxes` replaces each connected
            component of them by its bounding box.
        mask_margin: Patches by which an object mask is widened on every side: with `area` that of a box, with
            `component-boxes` also that of a mask.
        flip: Probability of mirroring a view.
        jitter: Probability of colour jitter.
        jitter_strength: Ranges of the jitter: brightness, contrast, saturation, hue.
        grayscale: Probability of converting to grayscale.
        blur: Probability of Gaussian blur in the first global view, the other global views, the local views.
        solarize: Probability of solarization in the first global view, the other global views, the local
            views.
        channels: Channels of an image, 1 to 20: saturation and hue are of three alone. Weights of three are
            adapted.
        value_ranges: Numbers of the file that become 0 and 1, such as `[[0, 4095]]`: a pair for all channels
            or one for each, for what is between. By default what the file states.
        mean: Mean of each channel, for pixels in 0..1. By default that which the start weights were trained
            with; without weights ImageNet's. Needed where `channels` is not 3.
        std: Standard deviation of each channel, likewise.
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
    local_candidates: int | None = None
    object_masks: bool = True
    local_masks: bool = True
    mask_coverage: float = 0.5
    mask_shape: MaskShape = "area"
    mask_margin: int = 0
    flip: float = 0.5
    jitter: float = 0.8
    jitter_strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    grayscale: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)
    channels: int = 3
    value_ranges: tuple[tuple[float, float], ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def statistics(self) -> tuple[Channels, Channels]:
        """Mean and deviation; ImageNet's where none is set (`backbones.published` sets those of weights)."""
        return self.mean or IMAGENET_MEAN, self.std or IMAGENET_STD

    @property
    def pixels(self) -> PixelFormat:
        """Channels of an image, and their ranges."""
        return PixelFormat(self.channels, self.value_ranges)


@dataclass
class PredictionConfig:
    """Prediction masks: the patches of a global view that the student does not see (iBOT, section 3.1).

    Args:
        probability: Probability that a global view has hidden patches.
        ratio: Mean share of hidden patches in such a view.
        spread: The share is drawn uniformly from ratio - spread to ratio + spread.
        keep_object: Patches of the target that are never hidden in a view that shows it: others are hidden
            in their place. 0 lets a view hide all of it.
    """

    probability: float = 0.5
    ratio: float = 0.3
    spread: float = 0.2
    keep_object: int = 0


@dataclass
class ModelConfig:
    """The backbone: a timm `VisionTransformer`, `Eva` (DINOv3, EVA-02) or `Beit`.

    Args:
        name: timm model name.
        weights: `timm` for timm's published weights (from the hub or its local cache), a path to a timm state
            dict (`.safetensors` or `.pth`), or nothing to train from scratch.
        object_tokens: `single` turns `[CLS]` into `[OBJ]`, which patches see. `read-only` adds object tokens
            that no other token sees, any number of them. `beside` adds one `[OBJ]` with a position of its
            own, which all other tokens see (the authors').
        object_readout: `token` represents an object by `[OBJ]`; `mean-pool` by the mean of its patches
            (Hénaff et al., 2021).
        object_sees_cls: Object tokens see `[CLS]` too. By default those of `beside` do, those of `read-only`
            do not; not for `single`, where `[CLS]` is the object token.
        pos_resize: How positions are resized to another patch grid, such as that of local views. `timm`:
            bicubic with antialias. `dino`: bicubic without, and by (grid + 0.1) / old grid, as in DINO and
            iBOT.
        patch_size: Side of a patch in pixels, to override the named model's.
        embed_dim: Width, to override the named model's.
        depth: Number of blocks, to override the named model's.
        num_heads: Attention heads, to override the named model's.
        drop_path: Stochastic depth of the student.
        drop_path_kind: `timm` drops the branches of each view by chance, with rates that rise over the
            blocks. `dinov2` skips those of a fixed number of views, with one rate for all blocks above .1.
        freeze_blocks: The first blocks, and all that is before them, are not trained.
        grad_checkpointing: Recompute the blocks in the backward pass to save memory. On a CPU, freed memory
            then returns to the system.
    """

    name: str = "vit_small_patch16_224"
    weights: str | None = None
    object_tokens: Literal["single", "read-only", "beside"] = "single"
    object_readout: Literal["token", "mean-pool"] = "token"
    object_sees_cls: bool | None = None
    pos_resize: Literal["timm", "dino"] = "timm"
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    drop_path: float = 0.1
    drop_path_kind: Literal["timm", "dinov2"] = "timm"
    freeze_blocks: int = 0
    grad_checkpointing: bool = False


@dataclass
class HeadConfig:
    """Projection heads (DINO, section 3.1; iBOT, section 3.2).

    Args:
        prototypes: K, the output dimension.
        hidden: Width of the MLP.
        bottleneck: Width before the prototypes.
        layers: Linear layers of the MLP.
        norm: `batch` adds batch norm in the MLP, and one without affine parameters before the l2 norm.
        norm_last_layer: Fix the length of every prototype at 1. If false, it is learned.
        shared: One head for object, image and patch tokens. If false, patches have their own.
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
        image_weight: Weight of the image term: the object term for the whole view. With `single` tokens it
            costs another forward pass.
        missing_pairs: A pair of views of which one does not show the object: `skip` takes the mean of the
            object term over the other pairs of the batch; `zero` takes it over all, this one as 0.
        koleo_weight: Weight of the KoLeo regularizer, which keeps the objects of a batch apart: a sum over
            global views, as in DINOv2, of unit vectors of the head over all ranks (DINOv2: of `[CLS]`, of one
            rank). It helps small batches.
        gram_weight: Weight of the Gram anchor (DINOv3): the similarities of all patches of a global view
            stay near those in the network that the run starts from. It costs a pass of that network.
        student_temp: Student temperature.
        teacher_temp: Teacher temperature after its warm-up.
        warmup_teacher_temp: Teacher temperature at the start.
        warmup_teacher_temp_epochs: Epochs over which the teacher temperature rises linearly.
        centering: What prevents collapse: a running `center` of teacher logits, or `sinkhorn`
            (Sinkhorn-Knopp).
        center_momentum: Momentum of the running center.
        center_patches: Patches whose mean logits move the center of the patch term: the `hidden` ones
            (DINOv2), or `all` of the global views (iBOT), for which the teacher's last block and head run
            over all of them, without gradient: about 4 % more arithmetic with ViT-S/16.
        sinkhorn_iterations: Iterations of Sinkhorn-Knopp.
    """

    object_weight: float = 1.0
    patch_weight: float = 1.0
    image_weight: float = 0.0
    missing_pairs: Literal["skip", "zero"] = "skip"
    koleo_weight: float = 0.0
    gram_weight: float = 0.0
    student_temp: float = 0.1
    teacher_temp: float = 0.07
    warmup_teacher_temp: float = 0.04
    warmup_teacher_temp_epochs: float = 30.0
    centering: Literal["center", "sinkhorn"] = "center"
    center_momentum: float = 0.9
    center_patches: Literal["hidden", "all"] = "hidden"
    sinkhorn_iterations: int = 3


@dataclass
class OptimConfig:
    """AdamW, its schedules, and the teacher's momentum.

    Args:
        base_lr: Learning rate for batch 256. The run uses base_lr * batch_size / 256.
        min_lr: Learning rate at the end of the cosine; not scaled with the batch.
        warmup_epochs: Epochs of linear learning-rate warm-up, at most half of the run.
        weight_decay: Weight decay at the start of its cosine.
        weight_decay_end: Weight decay at the end of its cosine.
        betas: Betas of AdamW.
        decay_tokens: Decay `[CLS]`, registers, positions, mask and object tokens too, as DINO and iBOT do. If
            false, they are left alone, as norms and biases are.
        clip_grad: Largest gradient norm. 0 does not clip.
        clip: What `clip_grad` bounds: the `global` norm of all gradients, or that of each `parameter` on its
            own, as in DINO and iBOT, whose 3.0 and 0.3 mean that.
        freeze_last_layer_epochs: Epochs in which the prototypes are frozen, at most half of the run; `always`
            never trains them.
        freeze_backbone_epochs: Epochs in which heads, mask token and object token alone train, at most half
            of the run.
        layer_decay: Factor on the learning rate from each block to the one before it, and to what is before
            the first (DINOv2: .9). Heads, the final norm and the object token have factor 1.
        patch_embed_factor: Factor on the learning rate of the patch embedding, on top (DINOv2: .2).
        momentum_teacher: EMA momentum at the start. It rises to 1 along a cosine.
    """

    base_lr: float = 5e-4
    min_lr: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    betas: tuple[float, float] = (0.9, 0.999)
    decay_tokens: bool = False
    clip_grad: float = 3.0
    clip: Literal["global", "parameter"] = "global"
    freeze_last_layer_epochs: float | Literal["always"] = 1.0
    freeze_backbone_epochs: float = 0.0
    layer_decay: float = 1.0
    patch_embed_factor: float = 1.0
    momentum_teacher: float = 0.996


@dataclass
class TrainConfig:
    """Length, batch, precision and device of a run, and when it logs and saves.

    Args:
        epochs: Length of the run in epochs.
        steps: Length of the run in steps, instead of epochs.
        batch_size: Images per step, over all ranks and micro-batches.
        accumulate: Micro-batches per step. Losses and centers are those of the whole batch; Sinkhorn-Knopp,
            batch norm and KoLeo see one micro-batch at a time, so with them another number trains otherwise.
        seed: Seed of all random numbers.
        precision: Precision of the forward and backward passes; weights stay in fp32. `auto` is bf16 on a GPU
            that computes in it, and on a CPU that is measured to be faster in it; else fp32. It is chosen at
            the start of a run and kept by a resume.
        device: `auto` (the GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.
        parallel: What several ranks share. `ddp`: the batch; each holds all weights. `fsdp`: weights,
            gradients and optimizer too, of student and teacher (FSDP2): less memory, more communication. One
            rank has nothing to share.
        compile: Compile the transformer blocks.
        threads: CPU threads of each rank. 0 leaves the choice to torch.
        log_every: Steps between lines of `metrics.jsonl`.
        checkpoint_every: Steps between checkpoints. 0 saves at the end only.
        keep: Number of checkpoints to keep.
        knn_every: Steps between k-NN evaluations on `val`. 0 evaluates at the end only.
        loggers: Where metrics go besides `metrics.jsonl`: `tensorboard`, `wandb`, `mlflow`, `trackio`, one or
            several. One that fails never stops the run.
        pictures_every: Steps between pictures of views and of the attention of `[OBJ]`, for the loggers. 0
            logs none.
        nonfinite_limit: Stop after this many steps in a row whose loss or gradient is not finite.
    """

    epochs: float = 100.0
    steps: int | None = None
    batch_size: int = 256
    accumulate: int = 1
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    threads: int = 0
    log_every: int = 10
    checkpoint_every: int = 1000
    keep: int = 2
    knn_every: int = 0
    loggers: list[str] = field(default_factory=list)
    pictures_every: int = 0
    nonfinite_limit: int = 5


@dataclass
class PretrainConfig:
    """Everything that defines a pretraining run.

    Args:
        data: An object index (`.parquet`) or a folder of images to train on.
        val: A held-out object index with labels for the periodic k-NN, or nothing.
        root: Folder that the images of the indexes are in now, if they were moved.
        strict: Stop at the first file or object that cannot be used. Otherwise it is named, counted and
            skipped.
    """

    data: str = ""
    val: str | None = None
    root: str | None = None
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
        return [plain(v) for v in value] if isinstance(value, tuple | list) else value

    sections: dict[str, Any] = plain(asdict(config))
    return sections
