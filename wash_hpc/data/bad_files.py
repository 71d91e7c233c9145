"""Files that cannot be read or decoded, found when they are met: which they are, and what a batch does without them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.dali import TrialDecoder
from wash_hpc.data.encoded import EncodedImages
from wash_hpc.data.source import Positions
from wash_hpc.errors import DataError

JPEG_START, JPEG_END = (0xFF, 0xD8), (0xFF, 0xD9)


@dataclass(frozen=True)
class Request:
    """Images that make a batch.

    Attributes:
        positions: [B] int64, which images.
        draws: [B, 23] float32 as `augment.draw_windows` gives them; None: the centre, not mirrored.
    """

    positions: Positions
    draws: NDArray[np.float32] | None


class BadFiles:
    """The files of one split that were found bad so far.

    Whether a file is bad depends on the file alone, not on the window that was to be cut out of it, so that a run that
    is continued leaves out what one that never stopped does.

    Args:
        images: the split.
        skip: go on without a bad file; else it is an error.
    """

    def __init__(self, images: EncodedImages, skip: bool) -> None:
        self._images = images
        self._skip = skip
        self._bad: dict[int, str] = {}  # what is wrong, by position
        self._good: set[int] = set()  # odd ends that were decoded all the same

    @property
    def names(self) -> list[str]:
        """Of the files, in the order in which they were found."""
        return [self._images.name(position) for position in self._bad]

    def without(self, request: Request, fill: bool) -> Request:
        """A request with the bad files that are known taken out.

        Args:
            request: of any images.
            fill: the place of each is taken by the next good image of the request, round its end, which is cut by the
                window of that place; else the request becomes smaller, or empty.

        Raises:
            DataError: there is no good image to fill with.
        """
        is_bad = np.array([position in self._bad for position in request.positions.tolist()])
        if not is_bad.any():
            return request
        good = np.flatnonzero(~is_bad)
        if not fill:
            return Request(request.positions[good], None if request.draws is None else request.draws[good])
        if not len(good):
            first = self._bad[int(request.positions[0])]
            raise DataError(f"{first} (and so it is with all {len(is_bad)} images of this training batch)")
        taken = good[np.searchsorted(good, np.arange(len(is_bad))) % len(good)]
        return Request(request.positions[taken], request.draws)

    def find(self, positions: Positions) -> bool:
        """Try each of these images by itself; whether any is bad. Slow: for images among which one made DALI fail.

        Raises:
            DataError: naming the first that is bad, unless bad files are to be skipped.
        """
        trial = TrialDecoder(self._images.are_paths)
        found = {}
        for position in dict.fromkeys(positions.tolist()):
            if not trial.can_decode(self._images.inputs(np.array([position]))[0]):
                fault = self._images.find_fault(position)
                found[position] = (
                    fault or f"{self._images.name(position)}: this image cannot be decoded; is the file complete?"
                )
        if found and not self._skip:
            raise DataError(next(iter(found.values())))
        self._bad |= found
        return bool(found)

    def find_truncated(self, positions: Positions, ends: NDArray[np.uint8]) -> bool:
        """Look for JPEG files that end early; whether there are any.

        DALI decodes a window that is above the cut without a word, and below it a GPU may leave grey.

        Args:
            positions: [B], of the images.
            ends: [B, 4], the first two and the last two bytes of their files.

        Raises:
            DataError: as `find`.
        """
        odd = (ends[:, :2] == JPEG_START).all(axis=1) & (ends[:, 2:] != JPEG_END).any(axis=1)
        if not odd.any():
            return False
        doubtful = [position for position in positions[odd].tolist() if position not in self._good]
        # A file may also go on behind the image's end, which does no harm: trying it tells.
        found = bool(doubtful) and self.find(np.array(doubtful))
        self._good.update(position for position in doubtful if position not in self._bad)
        return found
