"""`hummingbird`: in-context segmentation, patches labelled by their nearest patches in a memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.about import About, Difference, Published
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD, Protocol, results_of
from odis.evaluation.protocols.segmented_settings import SegmentedData, SegmentedSettings
from odis.evaluation.settings import check_votes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from odis.evaluation.protocols.hummingbird_memory import Memory
    from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
    from odis.evaluation.protocols.segmented import SegmentedReader
    from odis.evaluation.scores import Score
    from odis.inference import Encoder

PUBLISHED_STD = (*IMAGENET_STD[:2], 0.255)
"""The reference's deviations: ImageNet's, but for a slip in blue."""

PUBLISHED_BETA = 0.02

ALL = "all"
"""In place of a list: every train image."""


@dataclass(frozen=True, kw_only=True)
class HummingbirdSettings(SegmentedSettings):
    """Settings of the protocol.

    Args:
        memory: Patches that the memory holds, or several sizes; fewer where the images have not as many.
        passes: Views of each train image in the memory, each augmented on its own.
        k: Neighbours of a patch.
        beta: Temperatures; the class shares of neighbours are weighted by a softmax of cosine / beta.
        lists: Fractions of the train part: text files that name an image a line, comma-separated; all is the
            whole part.
        search: exact, or faiss: approximate, where it is installed; it holds the whole memory.
    """

    size: int = 512
    memory: Sequence[int] = (10_240_000,)
    passes: int = 2
    k: int = 30
    beta: Sequence[float] = (0.02, 0.07)
    lists: Sequence[str] = (ALL,)
    search: Literal["exact", "faiss"] = "exact"

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        SegmentedSettings.check(self)
        for beta in self.beta:
            check_votes((self.k,), beta)
        if not self.beta or not self.lists or not self.memory:
            raise OdisError("beta, lists and memory must have at least one value each")
        if self.passes < 1 or min(self.memory) < 1:
            raise OdisError(f"passes {self.passes} and memory {min(self.memory)} must be 1 or more")
        if self.as_published and PUBLISHED_BETA not in self.beta:
            raise OdisError(
                f"beta {','.join(f'{b:g}' for b in self.beta)}: as published it is {PUBLISHED_BETA}"
            )


def evaluate_hummingbird(
    encoders: Encoder | Sequence[Encoder],
    train: SegmentedImages,
    test: SegmentedImages,
    settings: HummingbirdSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Label the pixels of test images by the patches of train images that are most like theirs.

    Each image is read once a model, whatever the lists, memory sizes and temperatures. Test features are
    held; the memory's are searched as they come, and only its labels are held.

    Args:
        encoders: Models to compare.
        train: Images of the memory.
        test: Images to label; classes are matched by name.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; a row is a model, a list and a memory size, with `mIoU` and `matched`
        (after predicted classes were matched to true ones) at each temperature, in percent, with 95 %
        bootstrap intervals over test images. Several lists of equally many images have a row of their mean.

    Raises:
        OdisError: For classes that do not go together, a memory that is too small, or settings that do not
            fit.
    """
    from odis.evaluation.protocols.hummingbird_memory import Memory
    from odis.evaluation.protocols.layouts.segmentation import rows_of_list
    from odis.evaluation.protocols.segmented import SegmentedReader, draw_segmented
    from odis.evaluation.runner import EvaluationRun

    run = EvaluationRun("hummingbird", encoders, settings, progress, on_row)
    train_rows, test_rows = draw_segmented(run, train, test)
    parts = {
        name: list(train_rows) if name == ALL else sorted({*rows_of_list(train, name)} & {*train_rows})
        for name in settings.lists
    }
    if empty := [name for name, rows in parts.items() if not rows]:
        raise OdisError(f"{empty[0]}: none of its images is among those that were drawn")
    memories = [
        Memory(n, rows, size, settings.passes) for n, rows in parts.items() for size in settings.memory
    ]
    for source in run.encoders:
        run.start()
        encoder = source
        if settings.as_published:
            encoder = replace(source, mean=IMAGENET_MEAN, std=PUBLISHED_STD)
        measure = _MemoryReading(SegmentedReader(run, encoder, settings), settings, train, test)
        measure.read_test(test_rows)
        measure.fill(memories, train_rows)
        found: dict[tuple[int, int], list[dict[str, np.ndarray]]] = {}
        side = settings.side_of(source)
        for memory in memories:
            of_classes, counts = measure.score(memory)
            found.setdefault((memory.size, len(memory.rows)), []).append(counts)
            name = f"{Path(memory.name).name}, {len(memory.rows):,} images, memory {memory.held:,}"
            more = {"iou": of_classes, "memory": memory.held, "list": memory.name}
            run.add(source, name, measure.scores([counts]), size=side, **more)
            run.start()
        for (size, images), several in found.items():
            if len(several) > 1:
                name = f"mean of {len(several)} lists of {images:,} images, memory {size:,} asked for"
                run.add(source, name, measure.scores(several), size=side)
    return results_of(run, ABOUT, settings)


class _MemoryReading:
    """One model: its test features, and what memories say of them."""

    def __init__(
        self,
        reader: SegmentedReader,
        settings: HummingbirdSettings,
        train: SegmentedImages,
        test: SegmentedImages,
    ) -> None:
        from odis.evaluation.protocols.segmented import LabelCoding

        self.reader, self.settings, self.train, self.test = reader, settings, train, test
        published = settings.as_published
        self.side = settings.side_of(reader.encoder)
        self.test_coding = LabelCoding.of(test, train, published=published)
        self.train_coding = LabelCoding.of(train, train, published=published, fill=0 if published else None)
        self.classes = self.test_coding.classes
        self.betas = (PUBLISHED_BETA,) if published else tuple(settings.beta)
        self.labels: list[np.ndarray] = []
        self.features: Tensor | None = None

    def read_test(self, rows: Sequence[int]) -> None:
        """Embed the test images, and keep their patches on the device and their labels."""
        import numpy as np
        import torch

        from odis.evaluation.protocols.segmented import SegmentedViews
        from odis.evaluation.protocols.segmented_views import SquashBoth
        from odis.evaluation.protocols.store import Made

        def kept(number: int, patches: Tensor, labels: np.ndarray) -> Made:
            return {"patches": patches.cpu().numpy(), "labels": labels}

        views = SegmentedViews(self.test, rows, SquashBoth(self.side), self.test_coding)
        n = 0
        for _, made in self.reader.stream(views, "test", kept, what="hummingbird test"):
            if self.features is None:
                shape = (len(rows), *made["patches"].shape)
                self.features = torch.empty(shape, device=self.reader.encoder.device)
            self.features[n] = torch.from_numpy(made["patches"])
            # A byte where it will do: IGNORE becomes 255.
            self.labels.append(made["labels"].astype(np.uint8 if len(self.classes) < 255 else np.int16))
            n += 1
        if self.features is None:
            raise OdisError(f"{self.test.images.path}: none of its images could be read")
        self.features = self.features[:n]

    def fill(self, memories: Sequence[Memory], rows: Sequence[int]) -> None:
        """Embed the views of the train images, and search each memory's patches as they come."""
        import numpy as np

        from odis.evaluation.neighbours import NearestNeighbours
        from odis.evaluation.protocols.hummingbird_memory import patch_counts, sample_patches
        from odis.evaluation.protocols.hummingbird_search import FaissSearch
        from odis.evaluation.protocols.segmented import SegmentedViews
        from odis.evaluation.protocols.segmented_views import HummingbirdView
        from odis.evaluation.protocols.store import Made

        assert self.features is not None
        settings, grid = self.settings, self.reader.grid
        queries = self.features.flatten(0, 1)
        self.features = None  # the search has them
        if settings.search == "faiss":
            for memory in memories:
                memory.begin(FaissSearch(queries, settings.k))
        else:
            shared = NearestNeighbours(queries, settings.k, queries.device)
            del queries
            for memory in memories:
                memory.begin(shared.again())
        used = [row for row in rows if any(row in memory.rows for memory in memories)]
        view = HummingbirdView(self.side)
        views = SegmentedViews(
            self.train, used, view, self.train_coding, seed=settings.seed, passes=settings.passes
        )
        most = {row: max(m.most for m in memories if row in m.rows) for row in used}

        def kept(number: int, patches: Tensor, labels: np.ndarray) -> Made:
            row = views.row(number)
            counts = patch_counts(labels, grid, len(self.classes))
            rng = np.random.default_rng([settings.seed, 1, number // len(used), row])
            chosen = sample_patches(counts, most[row], rng)
            return {"patches": patches.cpu().numpy()[chosen], "counts": counts[chosen]}

        chosen = sorted(most.items())
        for number, made in self.reader.stream(views, "train", kept, what="hummingbird memory", most=chosen):
            for memory in memories:
                if views.row(number) in memory.rows:
                    memory.add(made["patches"], made["counts"])

    def score(self, memory: Memory) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """IoU by class at the first temperature, and pixel counts of each score, int64 (images, 3, C)."""
        import numpy as np

        from odis.evaluation.dense import label_pixels
        from odis.evaluation.label_maps import IGNORE
        from odis.evaluation.protocols.hummingbird_memory import soft_labels
        from odis.evaluation.protocols.segmentation_scores import by_hungarian, iou_counts, pixel_table
        from odis.evaluation.scores import iou_score

        similarity, rows, counts = memory.read(self.settings.k)
        rows, (height, width), classes = rows.cpu(), self.reader.grid, len(self.classes)
        area, patches = (self.side // height) * (self.side // width), height * width
        tables: dict[float, list[np.ndarray]] = {beta: [] for beta in self.betas}
        for i, stored in enumerate(self.labels):
            image = slice(i * patches, (i + 1) * patches)
            near = counts[rows[image]]
            labels = stored.astype(np.int16)
            labels[stored == 255] = IGNORE if stored.dtype == np.uint8 else 255
            for beta in self.betas:
                read = soft_labels(similarity[image], near, beta, area)
                predicted = label_pixels(read, self.reader.grid, labels.shape)
                tables[beta].append(pixel_table(labels, predicted, classes, classes))
        found = {}
        for beta, of_images in tables.items():
            table = np.stack(of_images)
            found[f"mIoU, beta {beta:g}"] = iou_counts(table, np.arange(classes))
            matching = by_hungarian(table.sum(0, dtype=np.int64))
            found[f"matched, beta {beta:g}"] = iou_counts(table, matching)
        _, by_class = iou_score(next(iter(found.values())), resamples=0)
        named = zip(self.classes, by_class, strict=True)
        return {name: round(float(v), 3) for name, v in named if np.isfinite(v)}, found

    def scores(self, several: Sequence[dict[str, np.ndarray]]) -> dict[str, Score]:
        """Each score, the mean over several memories."""
        import numpy as np

        from odis.evaluation.scores import iou_score

        return {
            name: iou_score(
                np.stack([one[name] for one in several]),
                all_classes=self.settings.as_published,
                seed=self.settings.seed,
            )[0]
            for name in several[0]
        }


def _run(
    models: Models,
    data: SegmentedData,
    settings: HummingbirdSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_hummingbird(models(), train, test, settings, progress, on_row)


_README = "README (v1.x)"  # of open-hummingbird-eval: beta .02, memory 10.24 M
_NECO = "NeCo's, in DIP T1"
_DIP = "DIP T1, beta .07"  # its own code, 504 pixels


def _row(network: str, source: str, voc: Sequence[float], ade: Sequence[float]) -> Published:
    parts = ("1", "1/8", "1/64", "1/128")
    values = {f"VOC {p}": v for p, v in zip(parts, voc)} | {f"ADE20K {p}": v for p, v in zip(parts, ade)}
    return Published(network, values, source)


ABOUT = About(
    source="Hummingbird (Balazevic et al., 2023), as open-hummingbird-eval measures it (Pariza et al.), "
    "hbird_eval.py; DIP, hummingbird/src/hbird_eval.py",
    settings={
        "view": "memory and test images squashed to a square of 512 pixels (patches of 16) or 504 (of 14), "
        "bilinear; masks by nearest pixel",
        "memory augmentation": "brightness, contrast, saturation, hue by up to .1, each for half of the "
        "images; then a random crop of .5 to 2 of the area, ratio 3/4 to 4/3; no mirroring; two passes",
        "features": "patches of the last block after the final norm, of length 1",
        "patches": "memory / (images x passes) of each view, those with the lowest (sum over classes shown "
        "of how many patches of the image show them) x U(0, 1)",
        "label of a patch": "the share of its pixels of each class",
        "search": "30 neighbours by inner product",
        "weights": "softmax of cosine / beta; beta .02 in the reference, .07 in DIP",
        "prediction": "soft labels, bilinear from the patches to the square, the largest; mIoU over the "
        "pixels of the square, not of the image",
        "fractions": "released lists, five a fraction: VOC 1,320, 160, 80 images; ADE20K 2,550, 300, 150; "
        "the mean of five",
        "left out when scored": "VOC 255; ADE20K class 0",
    },
    chosen="nothing is known to be; the same network differs by two points between papers",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's with a deviation of .255 in blue", True),
        Difference(
            "ignored pixels have no class in the memory; a patch without any other is not taken",
            "they are class 0: background in VOC, a wrong class in Cityscapes and COCO",
            True,
        ),
        Difference(
            "ADE20K has 150 classes",
            "151: class 0 is never right and counts as IoU 0, so the ceiling is 150/151",
            True,
        ),
        Difference(
            "the mean is over classes that are labelled or predicted",
            "over all classes, absent ones as 0",
            True,
        ),
        Difference(
            "mIoU is plain; matched is printed beside",
            "predicted classes are first matched to true ones (matched)",
            False,
        ),
        Difference("both temperatures", "beta .02 is a constant", True),
        Difference("the search is exact by default", "published figures used ScaNN, approximate", False),
        Difference(
            "a memory that the images cannot fill is smaller", "fails; DIP makes it smaller too", False
        ),
        Difference("every image takes part", "v1.x drops the last incomplete batch of VOC", False),
        Difference("augmented views are rounded to 8 bits", "crops of normalised floats", False),
        Difference("photographs are turned as their labels are", "EXIF is not looked at", False),
    ),
    figures=(
        Published("DINO ViT-S/16", {"VOC 1": 46.6}, _README),
        Published("DINO ViT-B/16", {"VOC 1": 55.7}, _README),
        Published("DINOv2 ViT-S/14", {"VOC 1": 77.0}, _README),
        Published("DINOv2 ViT-B/14", {"VOC 1": 76.9}, _README),
        _row("DINO ViT-S/16", _NECO, (48.7, 41.3, 30.5, 26.4), (17.9, 15.0, 11.0, 9.5)),
        _row("DINO ViT-B/16", _NECO, (57.3, 49.8, 37.7, 33.1), (21.5, 18.2, 13.5, 11.5)),
        _row("Leopart ViT-S/16", _NECO, (64.5, 58.4, 49.7, 44.6), (23.9, 19.6, 14.8, 12.9)),
        _row("CrIBo ViT-S/16", _NECO, (72.4, 66.9, 59.9, 53.9), (26.6, 22.7, 17.3, 14.6)),
        _row("CrIBo ViT-B/16", _NECO, (74.2, 69.2, 61.8, 55.9), (28.4, 24.4, 18.4, 15.9)),
        _row("Hummingbird ViT-B/16", _NECO, (71.8, 64.3, 57.2, 50.5), (29.6, 22.3, 15.1, 11.7)),
        _row("DINOv2R ViT-S/14", _DIP, (79.4, 75.2, 67.7, 60.7), (39.3, 33.2, 24.9, 22.6)),
        _row("NeCo on it", _DIP, (81.0, 77.3, 71.5, 65.8), (38.9, 32.5, 24.1, 21.9)),
        _row("DIP on it", _DIP, (81.0, 77.7, 71.4, 65.9), (39.7, 33.7, 25.6, 23.2)),
        _row("DINOv2R ViT-B/14", _DIP, (79.0, 75.3, 67.6, 60.3), (40.8, 35.3, 27.3, 24.9)),
        _row("NeCo on it (B/14)", _DIP, (82.4, 78.7, 71.7, 65.0), (41.2, 35.2, 27.2, 25.1)),
        _row("DIP on it (B/14)", _DIP, (82.1, 79.6, 75.1, 70.1), (42.6, 36.8, 29.4, 27.0)),
    ),
    memory="the memory's features are streamed, not held. VOC at D 384: test patches twice, 2 x 2.3 GB "
    "(1,449 x 1,024 x 4 D bytes); for each list and memory size their 30 neighbours, .36 GB, and the "
    "memory's labels, .43 GB (10.22 million x 21 x 2 bytes); test labels .38 GB. ADE20K: labels 3.1 GB",
    time="two passes over the train part and one over the test part a model, then the product of 1.48 by "
    "10.22 million patches: 11 PFLOP at D 384. With --cache features are kept (15.7 GB and 2.8 GB) and an "
    "interrupted call embeds no image again; the search starts anew",
)

PROTOCOL = Protocol(
    name="hummingbird",
    summary="In-context segmentation (Hummingbird): patches labelled by the nearest ones of a memory, mIoU",
    data=SegmentedData(),
    settings=HummingbirdSettings(),
    run=_run,
    titles={
        "hummingbird": Titles(
            "hummingbird: {test}, labelled by {train}",
            "In-context segmentation",
            "Each test patch gets the classes of the train patches most like it. mIoU; higher is better.",
        )
    },
    about=ABOUT,
)
