"""The commands as Python functions: `odis.index`, `odis.pretrain`, `odis.embed`, `odis.evaluate`,
`odis.compare`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from odis.config.arguments import with_values
from odis.config.checks import check
from odis.config.feature_tables import FeatureTableConfig
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.config.wording import did_you_mean
from odis.errors import ConfigError, OdisError
from odis.evaluation import EVALUATIONS, PROTOCOLS
from odis.evaluation.compare.settings import CompareData, CompareSettings
from odis.evaluation.evaluation import Evaluation, Progress
from odis.evaluation.periodic import periodic_knn
from odis.evaluation.results import check_writable, write_results
from odis.evaluation.settings import EvaluationSettings
from odis.inference import Encoder, load
from odis.inference.feature_tables import export_features
from odis.machine.allocator import keep_freed_memory
from odis.machine.locks import sole_owner
from odis.machine.ranks import launch
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources.recognise import recognised
from odis.train import loop
from odis.types import Skipped


def index(
    form: str,
    root: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    strict: bool = False,
    trust: bool = False,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    masks: bool = False,
    report: Callable[[Skipped], None] | None = None,
    max_skipped: float | None = None,
) -> ObjectIndex:
    """Read annotations into an object index, as `odis index` does.

    `odis.index("coco", "coco", "coco-val.parquet", split="val2017")`

    Args:
        form: Format of the annotations: `coco`, `voc`, `folder`; `odis index --help` lists all. `auto` takes
            the one that fits.
        root: Folder of the data set in its published layout.
        out: Index to write: a file (.parquet), or a folder for one in parts.
        split: Part of the data set, as the format names it.
        strict: Stop at the first file or object that cannot be used, instead of leaving it out.
        trust: Take the image sizes in the annotations and open no image.
        images: Folder of the images, if they are not where the format has them.
        annotations: File or folder of the annotations, likewise.
        masks: Read the masks that lie beside the boxes (`voc`).
        report: Called with each file and object that is left out; `OUT.skipped.jsonl` beside the index names
            all of them.
        max_skipped: Largest share of the images, and of the objects, that may be left out; by default all
            but everything.

    Returns:
        The index, open.

    Raises:
        OdisError: See `odis.objects.build.build_index`.
    """
    _require_paths(root=root, out=out)
    build_index(
        recognised(Path(root)).form if form == "auto" else form,
        root,
        out,
        split,
        strict,
        report,
        trust=trust,
        images=images,
        annotations=annotations,
        masks=masks,
        max_skipped=max_skipped,
    )
    return ObjectIndex.open(out)


def pretrain(
    config: PretrainConfig | str | Path | None,
    out: str | Path,
    *,
    restart_from: int | None = None,
    **settings: Any,
) -> Path:
    """Pretrain until the run is complete, as `odis pretrain` does; the same call resumes.

    `odis.pretrain("odis-small", "runs/photos", data="photos.parquet", train__epochs=20)`

    Args:
        config: A recipe by name or path, a whole config, or None for the defaults.
        out: Folder of the run.
        restart_from: Step of a checkpoint to go on from, with other settings of `optim`, `loss` or
            `train.precision` if given; later checkpoints are removed.
        settings: Change the recipe; `__` stands for the dot: `train__epochs=20`.

    Returns:
        `out`: it holds `model.safetensors`, `config.yaml`, `metrics.jsonl` and `checkpoints/`.

    Raises:
        OdisError: For settings that cannot train, or data that cannot be used.
    """
    recipe = ""
    _require_paths(out=out)
    if not isinstance(config, PretrainConfig | str | Path | None):
        raise ConfigError(f"config: is {config!r}, must be a recipe's name or path, a PretrainConfig or None")
    if not isinstance(config, PretrainConfig):
        recipe = Path(config).stem if config is not None else ""
        config = load_recipe(config, **settings)
    elif settings:
        raise ConfigError(f"{', '.join(settings)}: goes with a recipe; a whole config has its own settings")
    return run_pretraining(config, Path(out), recipe, restart_from)


def run_pretraining(config: PretrainConfig, out: Path, recipe: str, restart_from: int | None = None) -> Path:
    """Pretrain, with a k-NN evaluation now and then if `val` names an index; `recipe` is for the record.

    Raises:
        OdisError: See `pretrain`.
    """
    check(config)  # before `val` is read
    evaluate = periodic_knn(config) if config.val else None
    return loop.pretrain(config, out, recipe=recipe, evaluate=evaluate, restart_from=restart_from)


Model = str | Path | Encoder


def evaluate(
    name: str,
    models: Model | Sequence[Model],
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measure frozen features, as `odis evaluate` does.

    `odis.evaluate("knn", "runs/coco", train="coco-train.parquet", test="coco-val.parquet", mode="crop")`

    Args:
        name: The evaluation: `knn`, `linear`, or a protocol, `knn-imagenet`; `odis evaluate --help` and
            `odis evaluate protocol --help` list all.
        models: What `odis.load` takes, or an encoder that it returned; or several of them.
        out: Results file to write (JSON).
        progress: Called with what is read, how many images were, and how many there are.
        settings: Options of the command, `_` for `-`: `train`, `test`, `mode`, `k`, `max_train`.

    Returns:
        What the results file holds: `rows` with the scores of each model and mode, and how they were made.

    Raises:
        OdisError: For an unknown evaluation or setting, and whatever the evaluation refuses.
    """
    known = EVALUATIONS | PROTOCOLS
    if not isinstance(name, str) or name not in known:
        raise OdisError(
            f"{name}: no such evaluation{did_you_mean(str(name), list(known))}; there are {', '.join(known)}"
        )
    evaluation = known[name]
    data, of_data = with_values(evaluation.data, settings)
    chosen, of_settings = with_values(evaluation.settings, settings)
    known_names = [*of_data, *of_settings]
    for key in settings:
        if key not in known_names:
            close = did_you_mean(key, known_names)
            raise OdisError(f"{key}: {name} has no such setting{close}; it has {', '.join(known_names)}")
    if not isinstance(models, str | Path | Encoder | Sequence):
        raise OdisError(f"models: is {models!r}, must be a path, timm:NAME or an encoder, or several of them")
    sources = [models] if isinstance(models, str | Path | Encoder) else list(models)
    return run_evaluation(evaluation, sources, data, chosen, out, progress)


def run_evaluation(
    evaluation: Evaluation[Any, Any],
    models: Sequence[Model],
    data: Any,
    settings: EvaluationSettings,
    out: str | Path | None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """See `evaluate`, with data and settings as dataclasses.

    The file is written after each row: an interruption, or a refusal later on, loses no row.
    """
    settings.check()
    if out is not None:
        check_writable(out)
    read = settings.read
    with contextlib.nullcontext() if out is None else sole_owner(out):
        results = evaluation.run(
            lambda: load_models(models, device=read.device, precision=read.precision),
            data,
            settings,
            progress,
            None if out is None else lambda so_far: write_results(out, so_far | {"complete": False}),
        )
        if out is not None:
            write_results(out, results | {"complete": True})
    return results


def compare(
    before: Model,
    after: Model,
    *,
    train: str | Path,
    test: str | Path,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measure two networks on the same images, and what the second forgot, as `odis compare` does.

    `odis.compare("timm:vit_small_patch14_dinov2", "runs/photos", train="train.parquet", test="val.parquet")`

    Args:
        before: What `odis.load` takes, or an encoder that it returned.
        after: The same, of the other network.
        train: Index or folder to learn from.
        test: Index or folder to measure on.
        out: Results file to write (JSON).
        progress: Called with what is read, how many images were, and how many there are.
        settings: Options of the command, `_` for `-`: `known_train`, `known_test`, `mode`, `size`, `k`,
            `max_train`.

    Returns:
        See `odis.evaluation.compare.networks.compare_networks`: `verdict`, and of each data set the
        `measures` with `before`, `after` and `difference`.

    Raises:
        OdisError: For an unknown setting, or data on which nothing can be measured.
    """
    _require_paths(train=train, test=test)
    given = {"train": str(train), "test": str(test)} | settings
    data, of_data = with_values(CompareData(), given)
    chosen, of_settings = with_values(CompareSettings(), given)
    known = [*of_data, *of_settings]
    for key in settings:
        if key not in known:
            raise OdisError(
                f"{key}: compare has no such setting{did_you_mean(key, known)}; it has {', '.join(known)}"
            )
    return run_comparison(before, after, data, chosen, out, progress)


def run_comparison(
    before: Model,
    after: Model,
    data: CompareData,
    settings: CompareSettings,
    out: str | Path | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Compare, and write the results file if one is named.

    Raises:
        OdisError: See `compare`.
    """
    from odis.evaluation.compare.networks import compare_networks

    for name, one in (("before", before), ("after", after)):
        if not isinstance(one, str | Path | Encoder):
            raise OdisError(f"{name}: is {one!r}, must be a path, timm:NAME or an encoder")
    data.check()
    settings.check()
    read = settings.read
    if out is not None:
        check_writable(out)
    with contextlib.nullcontext() if out is None else sole_owner(out):
        results = compare_networks(
            lambda: load_models([before, after], device=read.device, precision=read.precision),
            data,
            settings,
            progress,
        )
        if out is not None:
            write_results(out, results)
    return results


def embed(
    model: Model,
    data: str | Path,
    out: str | Path,
    *,
    report: Callable[[Skipped], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Path:
    """Write the features of an index or a folder of images as Parquet, as `odis embed` does; the same call
    resumes.

    `odis.embed("runs/coco", "coco-val.parquet", "features/coco-val", mode="crop")`

    Args:
        model: What `odis.load` takes, or an encoder that it returned.
        data: Object index (.parquet) or folder of images.
        out: Folder to write: `part-00000.parquet` and so on.
        report: Called with each file and object that cannot be used.
        progress: Called with the number of images that are done, and of all of them.
        settings: Options of the command, `_` for `-`: `mode`, `images`, `size`, `dtype`, `workers`.

    Returns:
        `out`.

    Raises:
        OdisError: For a setting, model or index that cannot be used, or a folder that holds something else.
    """
    _require_paths(data=data, out=out)
    chosen, known = with_values(FeatureTableConfig(), settings)
    for key in settings:
        if key not in known:
            close = did_you_mean(key, known)
            raise OdisError(f"{key}: embed has no such setting{close}; it has {', '.join(known)}")
    run_embedding(model, data, Path(out), chosen, report, progress)
    return Path(out)


def run_embedding(
    model: Model,
    data: str | Path,
    out: Path,
    settings: FeatureTableConfig,
    report: Callable[[Skipped], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """See `embed`, with settings as a dataclass; returns the parts of this rank."""
    settings.check()
    index, here = ObjectIndex.open(data), launch()
    (encoder,) = load_models([model], device=settings.read.device, precision=settings.read.precision)
    return export_features(
        encoder, index, out, settings, rank=here.rank, world_size=here.world_size, skip=report,
        progress=progress,
    )  # fmt: skip


def _require_paths(**paths: Any) -> None:
    """Refuse what is no path, by its name.

    Raises:
        OdisError: The first of them.
    """
    for name, path in paths.items():
        if not isinstance(path, str | Path):
            raise OdisError(f"{name}: is {path!r}, must be a path")


def load_models(sources: Sequence[Model], *, device: str, precision: str) -> list[Encoder]:
    """The encoders of some sources; those that are loaded stay as they are.

    Raises:
        OdisError: See `odis.load`.
    """
    encoders = [
        one if isinstance(one, Encoder) else load(one, device=device, precision=precision) for one in sources
    ]
    if all(encoder.device.type == "cpu" for encoder in encoders):
        keep_freed_memory()
    return encoders
