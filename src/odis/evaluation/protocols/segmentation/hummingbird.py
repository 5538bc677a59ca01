"""`hummingbird`: in-context segmentation, patches labelled by their nearest patches in a memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.protocol import IMAGENET_MEAN, IMAGENET_STD, Protocol, results_of
from odis.evaluation.protocols.publications.hummingbird import ABOUT
from odis.evaluation.protocols.segmentation.segmented_settings import SegmentedData, SegmentedSettings
from odis.evaluation.settings import check_votes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from odis.evaluation.protocols.images.store import Made
    from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
    from odis.evaluation.protocols.projection import Work
    from odis.evaluation.protocols.segmentation.hummingbird_memory import Memory
    from odis.evaluation.protocols.segmentation.segmented import Finish, SegmentedViews
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import Score
    from odis.inference import Encoder

PUBLISHED_STD = (*IMAGENET_STD[:2], 0.255)
"""The reference's deviations: ImageNet's, but for a slip in blue."""

PUBLISHED_BETA = 0.02

TEST, MEMORY = "hummingbird test", "hummingbird memory"
"""What is kept of test images and of views of the memory."""

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
    from odis.evaluation.protocols.layouts.segmentation import rows_of_list
    from odis.evaluation.protocols.projection import project
    from odis.evaluation.protocols.segmentation.hummingbird_memory import Memory
    from odis.evaluation.protocols.segmentation.segmented import draw_segmented
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
    project(run, lambda source: _MemoryReading(run, source, settings, train, test).works(test_rows, memories))
    for source in run.encoders:
        run.start()
        measure = _MemoryReading(run, source, settings, train, test)
        measure.read_test(test_rows)
        measure.fill(memories)
        found: dict[tuple[int, int], list[dict[str, np.ndarray]]] = {}
        side = settings.side_of(source)
        for memory in memories:
            of_classes, counts = measure.score(memory)
            found.setdefault((memory.size, len(memory.rows)), []).append(counts)
            name = f"{Path(memory.name).name}, {counted(len(memory.rows), 'image')}, memory {memory.held:,}"
            more = {"iou": of_classes, "memory": memory.held, "list": memory.name}
            run.add(source, name, measure.scores([counts]), size=side, **more)
            run.start()
        for (size, images), several in found.items():
            if len(several) > 1:
                name = (
                    f"mean of {counted(len(several), 'list')} of {counted(images, 'image')}, memory {size:,} "
                    f"asked for"
                )
                run.add(source, name, measure.scores(several), size=side)
    return results_of(run, ABOUT, settings)


class _MemoryReading:
    """One model: its test features, and what memories say of them."""

    def __init__(
        self,
        run: EvaluationRun,
        source: Encoder,
        settings: HummingbirdSettings,
        train: SegmentedImages,
        test: SegmentedImages,
    ) -> None:
        from odis.evaluation.protocols.segmentation.segmented import LabelCoding, SegmentedReader

        published = settings.as_published
        encoder = replace(source, mean=IMAGENET_MEAN, std=PUBLISHED_STD) if published else source
        self.reader, self.settings, self.train, self.test = (
            SegmentedReader(run, encoder, settings), settings, train, test
        )  # fmt: skip
        self.side = settings.side_of(encoder)
        self.test_coding = LabelCoding.of(test, train, published=published)
        self.train_coding = LabelCoding.of(train, train, published=published, fill=0 if published else None)
        self.classes = self.test_coding.classes
        self.betas = (PUBLISHED_BETA,) if published else tuple(settings.beta)
        self.labels: list[np.ndarray] = []
        self.features: Tensor | None = None
        self.asked: dict[str, Any] = {}

    def test_views(self, rows: Sequence[int]) -> SegmentedViews:
        """The test images as they are shown."""
        from odis.evaluation.protocols.segmentation.segmented import SegmentedViews
        from odis.evaluation.protocols.segmentation.segmented_views import SquashBoth

        return SegmentedViews(self.test, rows, SquashBoth(self.side), self.test_coding)

    def memory_views(self, memories: Sequence[Memory]) -> SegmentedViews:
        """The views of all train images that a memory holds."""
        from odis.evaluation.protocols.segmentation.segmented import SegmentedViews
        from odis.evaluation.protocols.segmentation.segmented_views import HummingbirdView

        used = sorted(frozenset[int]().union(*(memory.rows for memory in memories)))
        view, settings = HummingbirdView(self.side), self.settings
        return SegmentedViews(
            self.train, used, view, self.train_coding, seed=settings.seed, passes=settings.passes
        )

    def most(self, memories: Sequence[Memory]) -> dict[int, int]:
        """How many patches of each view of a row are needed."""
        used = sorted(frozenset[int]().union(*(memory.rows for memory in memories)))
        return {row: max(m.most for m in memories if row in m.rows) for row in used}

    def kept(self, number: int, patches: Tensor, labels: np.ndarray) -> Made:
        """Of a test image all patches and labels."""
        return {"patches": patches.cpu().numpy(), "labels": labels}

    def chosen(self, views: SegmentedViews, most: Mapping[int, int]) -> Finish:
        """Of a view the patches that a memory takes, and their labels."""
        import numpy as np

        from odis.evaluation.protocols.segmentation.hummingbird_memory import patch_counts, sample_patches

        def kept(number: int, patches: Tensor, labels: np.ndarray) -> Made:
            row = views.row(number)
            counts = patch_counts(labels, self.reader.grid, len(self.classes))
            rng = np.random.default_rng([self.settings.seed, 1, number // len(views.rows), row])
            chosen = sample_patches(counts, most[row], rng)
            return {"patches": patches.cpu().numpy()[chosen], "counts": counts[chosen]}

        return kept

    def works(self, test_rows: Sequence[int], memories: Sequence[Memory]) -> Iterator[Work]:
        """What there is to do for the model, measured."""
        import numpy as np
        import torch

        from odis.evaluation.protocols.projection import Work, seconds_each, seconds_searched
        from odis.evaluation.protocols.segmentation.hummingbird_search import LISTS, SEARCHED

        reader, settings = self.reader, self.settings
        views, device = self.test_views(test_rows), reader.encoder.device
        found, reader.grid = reader.patches(np.zeros((1, 3, self.side, self.side), np.uint8), "test")
        patches, width = found.shape[1:]
        seconds = reader.seconds(views, self.kept)
        yield Work("test images", reader.store(views, what=TEST).missing(len(views)), seconds)
        views, most = self.memory_views(memories), self.most(memories)
        left = reader.store(views, what=MEMORY, most=sorted(most.items())).missing(len(views))
        yield Work("memory", left, reader.seconds(views, self.chosen(views, most)))
        pairs = sum(len(test_rows) * patches * memory.full for memory in memories)
        if settings.search == "faiss":
            device, pairs = torch.device("cpu"), pairs * SEARCHED // LISTS
        yield Work("search", pairs, seconds_searched(width, settings.k, device))
        classes, k = len(self.classes), settings.k

        def label(n: int) -> None:
            for _ in range(n):
                counts = torch.zeros(patches, k, classes, dtype=torch.int16)
                self.label(torch.zeros(patches, k), counts, np.zeros((self.side, self.side), np.int16), 1.0)

        images = len(test_rows) * len(memories) * len(self.betas)
        yield Work("labels", images, seconds_each(label, 8, reader.encoder.device))

    def read_test(self, rows: Sequence[int]) -> None:
        """Embed the test images, and keep their patches on the device and their labels."""
        import numpy as np
        import torch

        views, n = self.test_views(rows), 0
        self.asked = {"test": self.reader.key(views)} if self.settings.cache else {}
        for _, made in self.reader.stream(views, "test", self.kept, what=TEST):
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

    def fill(self, memories: Sequence[Memory]) -> None:
        """Embed the views of the train images, and search each memory's patches as they come."""
        from odis.evaluation.neighbours import NearestNeighbours
        from odis.evaluation.protocols.segmentation.hummingbird_search import ExactSearch, FaissSearch

        assert self.features is not None
        settings = self.settings
        queries = self.features.flatten(0, 1)
        self.features = None  # the search has them
        views, most = self.memory_views(memories), self.most(memories)
        chosen = sorted(most.items())
        if settings.search == "faiss":
            for memory in memories:
                memory.begin(FaissSearch(queries, settings.k, self._saved(memory, views)))
        else:
            shared = NearestNeighbours(queries, settings.k, queries.device)
            del queries
            for memory in memories:
                memory.begin(ExactSearch(shared.again(), self._saved(memory, views)))
        keep = self.chosen(views, most)
        for number, made in self.reader.stream(views, "train", keep, what=MEMORY, most=chosen):
            for memory in memories:
                if views.row(number) in memory.rows:
                    memory.add(made["patches"], made["counts"])

    def _saved(self, memory: Memory, views: SegmentedViews) -> Path | None:
        """Where the search of a memory is kept, if there is a cache."""
        from odis.evaluation.protocols.images.store import key_digest

        if not self.settings.cache:
            return None
        key = self.asked | {"train": self.reader.key(views), "rows": sorted(memory.rows)}
        key |= {"most": memory.most, "k": self.settings.k, "search": self.settings.search}
        return Path(self.settings.cache) / f"hummingbird-{key_digest(key)}.safetensors"

    def label(self, similarity: Tensor, near: Tensor, labels: np.ndarray, beta: float) -> np.ndarray:
        """Pixels of each class with each prediction in an image, (C, C).

        Args:
            similarity: (P, k), of its patches.
            near: (P, k, C), pixels of each class in their neighbours.
            labels: (S, S).
            beta: Temperature.
        """
        from odis.evaluation.dense import label_pixels
        from odis.evaluation.protocols.segmentation.hummingbird_memory import soft_labels
        from odis.evaluation.protocols.segmentation.segmentation_scores import pixel_table

        height, width = self.reader.grid
        area = (self.side // height) * (self.side // width)
        read = soft_labels(similarity, near, beta, area)
        classes = len(self.classes)
        return pixel_table(labels, label_pixels(read, self.reader.grid, labels.shape), classes, classes)

    def score(self, memory: Memory) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """IoU by class at the first temperature, and pixel counts of each score, int64 (images, 3, C)."""
        import numpy as np

        from odis.evaluation.label_maps import IGNORE
        from odis.evaluation.protocols.segmentation.segmentation_scores import by_hungarian, iou_counts
        from odis.evaluation.scores import iou_score

        similarity, rows, counts = memory.read(self.settings.k)
        rows, classes = rows.cpu(), len(self.classes)
        patches = self.reader.grid[0] * self.reader.grid[1]
        tables: dict[float, list[np.ndarray]] = {beta: [] for beta in self.betas}
        what = f"{self.reader.encoder.source or 'model'}, labels, {Path(memory.name).name}, {memory.held:,}"
        for i, stored in enumerate(self.labels):
            image = slice(i * patches, (i + 1) * patches)
            near = counts[rows[image]]
            labels = stored.astype(np.int16)
            labels[stored == 255] = IGNORE if stored.dtype == np.uint8 else 255
            for beta in self.betas:
                tables[beta].append(self.label(similarity[image], near, labels, beta))
            if self.reader.run.progress is not None:
                self.reader.run.progress(what, i + 1, len(self.labels))
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
