"""The pictures of the report: the same images through every run's model, runs beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from odis.config.query import QueryConfig
from odis.config.wording import counted
from odis.errors import DataError
from odis.inference import Encoder
from odis.objects.pixels import load_picture
from odis.report.drawing import close_up, cut_out, outlined, overlaid, patches, photo
from odis.report.features import (
    NEAREST,
    AttentionMaps,
    Neighbour,
    attention_maps,
    depth,
    nearest,
    no_attention,
    patch_colours,
    patch_features,
)
from odis.report.overview import trained_on_masks
from odis.report.page import Html, concat, element, paragraph, scrolled
from odis.report.runs import Run
from odis.report.samples import OBJECTS, ReportSample, SampleImage
from odis.types import Object

_PHOTO, _PATCHES, _CUT = 260, 200, 76  # pixels of the page on a picture's longer side

_LOOKS = (
    "Each cell is one head of one layer, close to the object: dark to bright is from no attention to the "
    "most of this head. Below it is the share of its brightest patch. [OBJ] sees its own object's patches "
    "only, so the rest stays grey. Good: heads look at different parts, and the last layer at what tells the "
    "object. Bad: all heads look alike, or everywhere the same."
)
_COMPONENTS = (
    "Each patch of the whole image in three colours: the first three principal components of the features of "
    "all images shown. Good: the same kind of object has the same colours, also across images, and edges "
    "follow the objects. Bad: colours follow the place in the image, or are noise. Colours of different runs "
    "cannot be compared."
)
_ALIKE = (
    "Left the query object, then the nearest objects of other images, with their cosines. Good: the same "
    "kind of object, in other colours and places. Bad: the same background or colour, or all cosines near 1."
)


@dataclass(frozen=True, slots=True)
class ReportModel:
    """A run's model and how it is queried."""

    number: int  # of the run
    run: Run
    encoder: Encoder
    query: QueryConfig  # of objects; its size is set
    whole_size: int  # side in pixels of whole images

    def label(self, alone: bool) -> str:
        """The run's name; empty if it is the only run."""
        return "" if alone else self.run.label


def pictures(
    sample: ReportSample,
    source: str,
    seed: int,
    models: Sequence[ReportModel],
    progress: Callable[[str, int, int], None],
) -> Html:
    """All pictures.

    Args:
        sample: What is shown and searched.
        source: In words, where the index is from.
        seed: What drew the images, for the text.
        models: At least one.
        progress: Called with what is done, how many images were, and of how many.
    """
    alone = len(models) == 1
    count = counted(len(sample.shown), "image")
    same = "" if alone else " Every run is given the same ones."
    return concat(
        [
            paragraph(
                f"{count} of {sample.index.path} ({source}; objects: {sample.index.provenance}), drawn by "
                f"seed {seed}. "
                f"In each its largest objects are queried, {OBJECTS} at most.{same}"
            ),
            *[paragraph(_queried(model, alone), class_="quiet") for model in models],
            element("h3", "Where [OBJ] looks"),
            _attention(sample, models, alone),
            element("h3", "What patches are like"),
            _components(sample, models, alone),
            element("h3", "Objects most alike"),
            _nearest(sample, models, alone, progress),
        ]
    )


def _queried(model: ReportModel, alone: bool) -> str:
    encoder, size, context = model.encoder, model.query.size, model.query.context
    where = "in the whole image" if context is None else f"in a window of {context:g} x the box"
    sizes = f"at about {size} x {size} px"
    if model.whole_size != size:
        sizes += f" (whole images: {model.whole_size} x {model.whole_size})"
    about = (
        f"objects are queried {where}, {sizes}, in patches of {encoder.patch_size} px. It was "
        f"trained at {encoder.image_size} px."
    )
    return f"{about[0].upper()}{about[1:]}" if alone else f"{model.run.label}: {about}"


def object_name(sample: ReportSample, item: Object) -> str:
    """Its class, or what there is to say of it."""
    if item.label is not None and item.label < len(sample.index.classes):
        return f"class {sample.index.classes[item.label]}"
    return "no class"


def _attention(sample: ReportSample, models: Sequence[ReportModel], alone: bool) -> Html:
    parts: list[Html] = []
    readable = []
    for model in models:
        if (why := no_attention(model.encoder)) is not None:
            parts.append(paragraph(f"{model.run.label}: {why}", class_="note"))
            continue
        readable.append(model)
        if not trained_on_masks(model.run):
            what = "It was trained without object masks: reading one object is nothing it has learned."
            parts.append(paragraph(f"{model.run.label}: {what}", class_="note"))
    if readable:
        parts.insert(0, paragraph(_LOOKS))
        for shown in sample.shown:
            found = [attention_maps(n.encoder, shown.shown, shown.objects, n.query) for n in readable]
            parts.append(_attention_of(sample, shown, readable, found, alone))
    return concat(parts)


def _attention_of(
    sample: ReportSample,
    shown: SampleImage,
    models: Sequence[ReportModel],
    found: Sequence[Sequence[AttentionMaps]],
    alone: bool,
) -> Html:
    names = [f"Object {k + 1} ({object_name(sample, item)})" for k, item in enumerate(shown.objects)]
    alt = f"{shown.name} with outlines of {' and '.join(names)}"
    caption = element(
        "figcaption", f"{shown.name}, {shown.item.width} x {shown.item.height} pixels. {', '.join(names)}."
    )
    figures = []
    for k in range(len(names)):
        for model, answers in zip(models, found):
            words = " ".join(
                filter(None, [names[k], f"in {shown.name}", f"by {model.run.label}" if not alone else ""])
            )
            figures.append(
                element(
                    "figure",
                    scrolled(f"Attention: {words}", _grid(shown, k, answers[k], model)),
                    element("figcaption", f"{words}."),
                )
            )
    photograph = element("figure", outlined(shown.image, shown.objects, _PHOTO, alt), caption)
    return element("div", photograph, element("div", *figures), class_="strip looks")


def _grid(shown: SampleImage, k: int, answer: AttentionMaps, model: ReportModel) -> Html:
    """A row a layer, a column a head."""
    heads, count = answer.weights.shape[1], depth(model.encoder)
    close = close_up(answer.picture, answer.region, answer.mask, 104 if heads <= 6 else 84)
    top = element("tr", element("td"), *[element("th", f"head {h + 1}", scope="col") for h in range(heads)])
    rows = []
    for layer, weights in zip(answer.layers, answer.weights):
        cells = []
        for h, one in enumerate(weights):
            alt = f"Attention of head {h + 1}, layer {layer + 1}, to object {k + 1} of {shown.name}"
            picture = overlaid(close, one, answer.mask, k, alt)
            cells.append(
                element(
                    "td", picture, element("small", f"{100 * one.max():.{0 if one.max() > 0.1 else 1}f} %")
                )
            )
        rows.append(
            element(
                "tr",
                element("th", f"layer {layer + 1}", element("small", f"of {count}"), scope="row"),
                *cells,
            )
        )
    return element("table", element("thead", top), element("tbody", *rows), class_="heads")


def _components(sample: ReportSample, models: Sequence[ReportModel], alone: bool) -> Html:
    images = [shown.shown for shown in sample.shown]
    painted: list[list[np.ndarray]] = []
    shares = []
    for model in models:
        colours, share = patch_colours(patch_features(model.encoder, images, model.whole_size))
        painted.append(colours)
        shares.append(f"{model.label(alone)} {100 * share:.0f} %".strip())
    strips = []
    for i, shown in enumerate(sample.shown):
        figures = [
            element(
                "figure",
                photo(shown.image, _PATCHES, f"The image {shown.name}"),
                element("figcaption", shown.name),
            )
        ]
        for model, colours in zip(models, painted):
            rows, columns = colours[i].shape[:2]
            alt = " ".join(
                filter(
                    None,
                    [
                        "Patch features of",
                        shown.name,
                        "as colours",
                        "by " * (not alone) + model.label(alone),
                    ],
                )
            )
            caption = ", ".join(filter(None, [model.label(alone), f"{rows} x {columns} patches"]))
            figures.append(
                element(
                    "figure", patches(colours[i], shown.image, _PATCHES, alt), element("figcaption", caption)
                )
            )
        strips.append(element("div", *figures, class_="strip"))
    held = f"Of the variance of the features the three components hold: {', '.join(shares)}."
    return concat([paragraph(f"{_COMPONENTS} {held}"), *strips])


def _nearest(
    sample: ReportSample,
    models: Sequence[ReportModel],
    alone: bool,
    progress: Callable[[str, int, int], None],
) -> Html:
    found: list[dict[tuple[int, int], list[Neighbour]]] = []
    searched = 0
    for model in models:
        answers, searched = nearest(
            model.encoder,
            sample,
            model.query,
            _named(progress, model.run.label, len(sample.searched)),
        )
        found.append(answers)
    rows = []
    for shown in sample.shown:
        for k, (number, item) in enumerate(zip(shown.numbers, shown.objects)):
            name = object_name(sample, item)
            for model, answers in zip(models, found):
                picture = cut_out(shown.image, item, _CUT, f"Object {k + 1} of {shown.name}: {name}")
                whose = None if alone else element("small", model.run.label)
                head = element("th", f"{shown.name}, object {k + 1}", whose, scope="row")
                cells = [_neighbour(sample, item, one) for one in answers.get((shown.row, number), [])]
                rows.append(
                    element(
                        "tr", head, element("td", picture, element("small", name), class_="query"), *cells
                    )
                )
    if not any(any(answers.values()) for answers in found):
        return paragraph("There is no object of another image to compare with.")
    heads = ["", "query", "most alike", *[f"{n}." for n in range(2, NEAREST + 1)]]
    top = element(
        "thead",
        element("tr", *[element("th", text, scope="col") if text else element("td") for text in heads]),
    )
    labelled = any(item.label is not None for shown in sample.shown for item in shown.objects)
    marks = (
        " Below each its class; = is the class of the query, ≠ another. Training reads no class."
        if labelled
        else ""
    )
    about = (
        f"{_ALIKE} Searched: {counted(searched, 'object')} of {sample.index.path} "
        f"({sample.index.provenance}).{marks}"
    )
    return concat(
        [
            paragraph(about),
            scrolled("Objects most alike", element("table", top, element("tbody", *rows), class_="alike")),
        ]
    )


def _named(progress: Callable[[str, int, int], None], name: str, total: int) -> Callable[[int], None]:
    return lambda done: progress(name, done, total)


def _neighbour(sample: ReportSample, query: Object, one: Neighbour) -> Html:
    row = sample.index[one.row]
    item = row.objects[one.number]
    name = object_name(sample, item)
    try:
        image = load_picture(sample.index.image_path(one.row), (row.width, row.height)).image
    except DataError:  # it was there a moment ago
        return element("td", "gone", element("small", f"{one.cosine:.2f}"))
    picture = cut_out(image, item, _CUT, f"An object most alike: {name}, cosine {one.cosine:.2f}")
    mark = None
    if query.label is not None and item.label is not None:
        same = item.label == query.label
        mark = element(
            "small",
            f"{'=' if same else '≠'} {name.removeprefix('class ')}",
            class_="same" if same else "other",
        )
    return element("td", picture, element("small", f"{one.cosine:.2f}"), mark)
