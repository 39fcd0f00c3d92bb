"""How far the room is, over all that it is going to do: one bar with one estimate of the time left."""

from collections.abc import Callable, Mapping

Share = Callable[[float], None]
"""Takes how much of a part is done, a fraction."""


def nobody(_: float) -> None:
    """Nobody asks how far it is."""


class Effort:
    """Parts of different kinds, each weighed by the images that are drawn and looked at in it.

    What ends early, since it was decided or was there before, counts as done: the bar then makes a leap.
    """

    def __init__(self, progress: Callable[[int, int], None], images: Mapping[str, int]) -> None:
        self._progress, self._images = progress, dict(images)
        self._done = dict.fromkeys(images, 0.0)

    def of(self, part: str) -> Share:
        """Who is to be told how much of that part is done."""

        def done(share: float) -> None:
            self._done[part] = max(self._done[part], min(share, 1.0))
            self._progress(round(sum(self._done[name] * images for name, images in self._images.items())),
                           sum(self._images.values()))

        return done
