"""What the server does, apart from HTTP: networks, index, pictures and the thread that runs the networks."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import PurePath
from typing import Any

import matplotlib
import numpy as np

from odis import __version__
from odis.explorer.catalogue import Catalogue
from odis.explorer.network import ExploredNetwork
from odis.explorer.pictures import PictureStore, ShownPicture
from odis.explorer.question import Question, read_region
from odis.explorer.worker import NetworkWorker
from odis.objects.index import ObjectIndex
from odis.report.drawing import fitted, region_of
from odis.types import Object

_MASK_SIDE = 320  # cells along the longer side of an object's mask on the page


class Explorer:
    """Networks that can be asked about objects of pictures, beside the objects of an index.

    Args:
        networks: At least one.
        index: What is shown and searched.
        worker: Runs the networks; it is running.
    """

    def __init__(
        self, networks: Sequence[ExploredNetwork], index: ObjectIndex, worker: NetworkWorker
    ) -> None:
        self.networks, self.index, self.worker = networks, index, worker
        self.catalogue, self.pictures = Catalogue(index), PictureStore(index)
        self._lock = threading.Lock()
        for network in networks:
            self.embed(network, next(iter(network.queries)))

    def embed(self, network: ExploredNetwork, mode: str) -> None:
        """Embed the index by a network in a mode, unless that is done or begun."""
        bank = network.banks[mode]
        with self._lock:
            if bank.started:
                return
            bank.started = True
        self.worker.add_job(bank.fill)

    def about(self) -> dict[str, Any]:
        """What the page shows before anything is asked."""
        return {
            "version": __version__,
            "colours": base64.b64encode(_colours().tobytes()).decode(),
            "networks": [network.about() for network in self.networks],
            "index": {
                "name": PurePath(self.index.path).name,
                "path": str(self.index.path),
                "images": len(self.index),
                "objects": self.index.count_objects(),
                "provenance": self.index.provenance,
                "classes": self.catalogue.classes(),
            },
        }

    def status(self) -> list[dict[str, dict[str, Any]]]:
        """How far the index is embedded: of each network, by mode."""
        return [{mode: bank.state() for mode, bank in network.banks.items()} for network in self.networks]

    def picture(self, picture: ShownPicture) -> dict[str, Any]:
        """A picture and its objects, for the page."""
        width, height = picture.size
        return {
            "name": PurePath(picture.name).name,
            "width": width,
            "height": height,
            "objects": [
                {"number": number, **self._object(item, picture.size)}
                for number, item in zip(picture.objects.numbers, picture.objects.objects)
            ],
            "unusable": [f"object {number}: {why}" for number, why in picture.objects.problems.items()],
        }

    def _object(self, item: Object, size: tuple[int, int]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "box": [round(v, 2) for v in item.box],
            "label": item.label,
            "class": self.catalogue.class_name(item.label),
            "score": None if item.score is None else round(item.score, 3),
            "mask": None,
        }
        if item.mask is not None:
            cells = fitted(*size, min(_MASK_SIDE, max(size)))
            found["mask"] = {
                "width": cells[0],
                "height": cells[1],
                "runs": runs(region_of(item, size, cells)),
            }
        return found

    def open(self, question: Question) -> ShownPicture:
        """The picture of a question.

        Raises:
            DataError: it cannot be read.
            RefusedError: it is not there.
        """
        if question.upload is not None:
            return self.pictures.of_upload(question.upload)
        assert question.row is not None
        return self.pictures.of_index(question.row)

    def ask(self, question: Question, picture: ShownPicture) -> Future[dict[str, Any]]:
        """Ask the networks; a newer question of the same page takes the place of one that waits.

        Raises:
            RefusedError: the region is none of this picture, or too much waits.
        """
        item = read_region(question.region, picture)
        for number in question.networks:
            for mode in question.modes:
                if mode in self.networks[number].queries:
                    self.embed(self.networks[number], mode)
        return self.worker.ask(question.tab, lambda: self._answer(question, picture, item))

    def _answer(self, question: Question, picture: ShownPicture, item: Object) -> dict[str, Any]:
        answers = []
        for number in question.networks:
            network = self.networks[number]
            modes: dict[str, Any] = {}
            for mode in question.modes:
                if mode not in network.queries:
                    modes[mode] = None
                    continue
                modes[mode] = network.answer(picture, item, mode, question.neighbours)
                modes[mode]["features"] = network.banks[mode].state()
                for one in modes[mode]["neighbours"]:
                    self._name(one)
            answers.append({"network": number, "modes": modes, "patches": network.patches(picture)})
        return {"answers": answers, "label": item.label, "box": [round(v, 2) for v in item.box]}

    def _name(self, neighbour: dict[str, Any]) -> None:
        """Add the class and the image's name of a neighbour."""
        row, number = neighbour["row"], neighbour["number"]
        neighbour["label"] = label = self.catalogue.label_of(row, number)
        neighbour["class"], neighbour["name"] = self.catalogue.class_name(label), self.catalogue.name(row)


def _colours() -> np.ndarray:
    """The report's colours of attention, from none to the most: uint8 (256, 3)."""
    painted: np.ndarray = matplotlib.colormaps["inferno"](0.15 + 0.85 * np.linspace(0, 1, 256))[:, :3]
    return np.round(255 * painted).astype(np.uint8)


def runs(region: np.ndarray) -> list[int]:
    """Lengths of the runs of a region, bool (rows, columns), row by row, from outside to inside and back."""
    flat = np.concatenate([[False], region.ravel()])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    found: list[int] = np.diff(np.concatenate([[0], ends, [region.size]])).tolist()
    return found
