"""`davis`: masks of a video's first frame, carried on by the similarity of patches (DINO's protocol)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.protocol import (
    IMAGENET_MEAN,
    Protocol,
    ProtocolSettings,
    not_offered,
    results_of,
)
from odis.evaluation.protocols.publications.davis import ABOUT
from odis.evaluation.settings import require_given
from odis.types import Skipped

if TYPE_CHECKING:
    import numpy as np

    from odis.evaluation.protocols.images.store import FeatureStore, Made
    from odis.evaluation.protocols.layouts.davis import Video, Videos
    from odis.inference import Encoder

PUBLISHED_STD = (0.228, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class DavisData:
    """The videos.

    Args:
        test: Folder of DAVIS 2017 (JPEGImages/480p, Annotations/480p, ImageSets/2017).
        split: A list of ImageSets/2017.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("test",)

    test: str = ""
    split: str = "val"

    def open(self) -> Videos:
        """The videos.

        Raises:
            OdisError: They are not given.
            DataError: They cannot be read.
        """
        from odis.evaluation.protocols.layouts.davis import open_davis

        require_given(self)
        return open_davis(self.test, self.split)


@dataclass(frozen=True, kw_only=True)
class DavisSettings(ProtocolSettings):
    """Settings of the protocol; at most `max_test` videos are taken.

    Args:
        short: Shorter side in pixels at which frames are shown, for patches that tile 64 pixels; others get
            as many patches as 16-pixel ones tile it.
        frames: Frames before the current one that are looked at, besides the first.
        radius: Patches of the context lie in a square of 2 radius + 1 patches.
        top: Patches that give their labels.
        temperature: A patch has the weight exp(cosine / temperature).
        cache: Folder in which the scores of each video are kept; an interrupted call goes on there.
    """

    max_train: int | None = not_offered()
    short: int = 480
    frames: int = 7
    radius: int = 12
    top: int = 5
    temperature: float = 0.1
    cache: str | None = None

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        for name, least in (("short", 16), ("frames", 0), ("radius", 0), ("top", 1)):
            if getattr(self, name) < least:
                raise OdisError(f"{name} {getattr(self, name)} must be {least} or more")
        if not self.temperature > 0:
            raise OdisError(f"temperature {self.temperature:g} must be above 0")

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; the models must take frames of any shape.

        Raises:
            OdisError: Naming the model, or the side that its patches do not tile.
        """
        from odis.evaluation.protocols.images.patches import check_any_shape

        ProtocolSettings.check_models(self, encoders)
        check_any_shape(encoders, "davis")
        for encoder in encoders:
            if 64 % encoder.patch_size == 0 and self.short % encoder.patch_size:
                raise OdisError(
                    f"short {self.short} must be a multiple of the patch size {encoder.patch_size}"
                )


def evaluate_davis(
    encoders: Encoder | Sequence[Encoder],
    videos: Videos,
    settings: DavisSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Carry the masks of each video's first frame through the video, and compare them with the true ones.

    Each frame is shown once to a model. Memory holds the features of the context of one video, and at most
    128 MB of similarities.

    Args:
        encoders: Models to compare.
        videos: Videos with a label map of every frame.
        settings: How.
        progress: Called after each video.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; J&F, J and F in percent, means over objects, with 95 % bootstrap intervals
        over videos. A row is a model; then come the first mask kept in its place, and the true masks sent
        through the patch grid of each model.

    Raises:
        OdisError: Settings or models that do not fit.
        DataError: A frame or a label map that cannot be read, or has another size than the first.
    """

    from odis.evaluation.protocols.images.store import FeatureStore, files_key, model_key
    from odis.evaluation.protocols.layouts.davis import read_map
    from odis.evaluation.protocols.projection import Work, project
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.subset import draw_rows

    run = EvaluationRun("davis", encoders, settings, progress, on_row)
    chosen = draw_rows(len(videos.videos), settings.max_test, settings.seed)
    videos = replace(videos, videos=tuple(videos.videos[i] for i in chosen))
    for one in videos.videos:
        if not read_map(one.maps[0]).any():
            raise DataError(f"{one.maps[0]}: shows no object; there is nothing to carry on")
    counts = {"images": sum(len(one.frames) for one in videos.videos), "videos": len(videos.videos)}
    run.sides["test"] = {"index": videos.path, "provenance": "label maps", **counts, "classes": 0}
    files, asked = files_key(videos.files), settings.as_dict()

    def store(kind: str, **key: Any) -> FeatureStore:
        folder = settings.cache or ""
        return FeatureStore(
            folder, {"protocol": "davis", "kind": kind, "files": files} | key if folder else {}, chunk=1
        )

    def scores(
        what: str, kept: FeatureStore, find: Callable[[Video], Iterator[np.ndarray]]
    ) -> dict[str, Any]:
        found: list[Made] = []
        for number, made in kept.stream(len(videos.videos), lambda n: _made(videos, n, find)):
            assert not isinstance(made, Skipped)
            found.append(made)
            if progress is not None:
                progress(what, number + 1, len(videos.videos))
        run.sides["test"]["objects"] = sum(len(one["J"]) for one in found)
        return _scores(found, settings.seed)

    def shown_to(source: Encoder) -> tuple[Encoder, FeatureStore]:
        encoder = source
        if settings.as_published:
            encoder = replace(source, mean=IMAGENET_MEAN, std=PUBLISHED_STD)
        more = {name: value for name, value in asked.items() if name != "max_test"}
        return encoder, store("model", settings=more, **(model_key(encoder) if settings.cache else {}))

    def works(source: Encoder) -> Iterator[Work]:
        encoder, kept = shown_to(source)
        frames = counts["images"] * kept.missing(len(videos.videos)) / len(videos.videos)
        yield Work("frames", round(frames), _seconds(encoder, videos.videos[0], settings))

    project(run, works)
    for source in run.encoders:
        run.start()
        encoder, kept = shown_to(source)
        found = scores(f"{source.source or 'model'}, videos", kept, _propagated(encoder, settings))
        run.add(source, "patches", found, size=f"{_short(encoder.patch_size, settings)} px")
    run.start()
    still = scores("first mask kept", store("still"), _kept_still)
    run.add_bound("chance", "the first mask stays in its place", still, provenance="annotated")
    for patch in sorted({encoder.patch_size for encoder in run.encoders}):
        run.start()
        through = scores(
            f"patches of {patch}",
            store("ceiling", patch=patch, short=settings.short),
            _through_grid(patch, settings),
        )
        run.add_bound("ceiling", f"true masks, patches of {patch} px", through, provenance="annotated")
    return results_of(run, ABOUT, settings) | {"resampled": "videos"}


def _seconds(encoder: Encoder, video: Video, settings: DavisSettings) -> float:
    """What a frame takes, measured on the first ones of a video, with a context of all frames."""
    from odis.evaluation.protocols.layouts.davis import read_map
    from odis.evaluation.protocols.projection import seconds_each
    from odis.evaluation.protocols.video.video_scores import video_scores

    every = settings.frames + 3
    frames = (video.frames * every)[:every]
    first = replace(video, frames=frames, maps=(video.maps[0],) * every)
    truth = read_map(video.maps[0])

    def carry(_: int) -> None:
        found = list(_propagated(encoder, settings)(first))
        video_scores(found, [truth] * every, int(truth.max()))

    return seconds_each(carry, 1, encoder.device) / every


def _short(patch: int, settings: DavisSettings) -> int:
    from odis.evaluation.protocols.video.propagation import shown_size

    return min(shown_size(854, 480, patch, settings.short))


def _made(
    videos: Videos, numbers: Sequence[int], find: Callable[[Video], Iterator[np.ndarray]]
) -> Iterator[tuple[int, Made | Skipped]]:
    """Scores of the label maps that are found in each video."""
    import numpy as np

    from odis.evaluation.protocols.layouts.davis import read_map
    from odis.evaluation.protocols.video.video_scores import video_scores

    for number in numbers:
        video = videos.videos[number]
        truth = [read_map(path) for path in video.maps]
        for path, one in zip(video.maps, truth):
            if one.shape != truth[0].shape:
                raise DataError(f"{path}: is of another size than the first frame")
        objects = max(int(one.max()) for one in truth)
        similarity, accuracy = video_scores(list(find(video)), truth, objects)
        yield number, {"J": similarity, "F": accuracy, "video": np.full(objects, number)}


def _propagated(encoder: Encoder, settings: DavisSettings) -> Callable[[Video], Iterator[np.ndarray]]:
    """What a model carries on: label maps at the video's own size."""
    from odis.evaluation.protocols.images.patches import patch_tokens
    from odis.evaluation.protocols.images.stream import Pictures, read_items
    from odis.evaluation.protocols.images.views import Stretch
    from odis.evaluation.protocols.layouts.davis import read_map
    from odis.evaluation.protocols.video import propagation as carried

    patch = encoder.patch_size
    how = carried.Propagation(settings.frames, settings.radius, settings.top, settings.temperature)

    def find(video: Video) -> Iterator[np.ndarray]:
        first = read_map(video.maps[0])
        height, width = first.shape
        size = carried.shown_size(width, height, patch, settings.short)
        grid = size[1] // patch, size[0] // patch

        def features() -> Iterator[Any]:
            pictures = Pictures(video.frames, Stretch(*size), turn=not settings.as_published)
            for item in read_items(pictures, settings.read):
                if isinstance(item, Skipped):
                    raise DataError(f"{item.what}: {item.why}")
                yield patch_tokens(encoder, item[None])[0][0]

        labels = carried.one_hot(first, grid, size, int(first.max()))
        yield first
        for shares in carried.propagate(features(), labels, grid, how):
            yield carried.to_frame(shares, grid, patch, width, height)

    return find


def _kept_still(video: Video) -> Iterator[np.ndarray]:
    from odis.evaluation.protocols.layouts.davis import read_map

    first = read_map(video.maps[0])
    yield from [first] * len(video.maps)


def _through_grid(patch: int, settings: DavisSettings) -> Callable[[Video], Iterator[np.ndarray]]:
    """The true masks as patches of a size can hold them."""
    from odis.evaluation.protocols.layouts.davis import read_map
    from odis.evaluation.protocols.video import propagation as carried

    def find(video: Video) -> Iterator[np.ndarray]:
        for path in video.maps:
            labels = read_map(path)
            height, width = labels.shape
            size = carried.shown_size(width, height, patch, settings.short)
            grid = size[1] // patch, size[0] // patch
            shares = carried.one_hot(labels, grid, size, int(labels.max()))
            yield carried.to_frame(shares, grid, patch, width, height)

    return find


def _scores(found: Sequence[Made], seed: int) -> dict[str, Any]:
    import numpy as np

    from odis.evaluation.scores import mean_score

    similarity, accuracy, video = (
        np.concatenate([one[name] for one in found]) for name in ("J", "F", "video")
    )
    values = {"J&F": (similarity + accuracy) / 2, "J": similarity, "F": accuracy}
    return {name: mean_score(of, video, seed=seed) for name, of in values.items()}


def _run(
    models: Models,
    data: DavisData,
    settings: DavisSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    videos = data.open()
    return evaluate_davis(models(), videos, settings, progress, on_row)


PROTOCOL = Protocol(
    name="davis",
    summary="DAVIS 2017 (DINO): the first frame's masks carried through the video by patches; J and F",
    data=DavisData(),
    settings=DavisSettings(),
    run=_run,
    titles={
        "davis": Titles(
            "davis: {test}",
            "DAVIS 2017, label propagation",
            "The masks of the first frame, carried on by the similarity of patches. J is the overlap of "
            "masks, F that of their boundaries; higher is better.",
        )
    },
    about=ABOUT,
)
