"""Is the rest still good? Distances of the retained samples to real ones, and what each class kept of its share."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import CONFIDENCE, Evidence, Measured, absent, attempt
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.distances import compare_kid, fid, fid_excess, fid_floor, unit_scale
from expunge.measure.neighbours import neighbours
from expunge.measure.shares import class_shares, hold_shares, kept_shares, total_variation

NEIGHBOURS = ("precision", "recall", "density", "coverage")


def is_the_rest_still_good(evidence: Evidence) -> Iterator[Measurement]:
    """`fid_*`, `kid_*`, precision, recall, density and coverage, all of it with class shares held fixed, and shares.

    Features are the extractor's: the judge's penultimate activations unless the request names another. Compared
    are the generated samples that the judge calls retained with the real held-out images whose label is retained,
    of as many latents as were to be drawn in any case.

    - `fid_before`, `fid_after`: on raw features. `n` is the count of generated samples.
    - `fid_floor`: real against real, one random half against the other, mean over ten splits; `n` is the size
      of one half. With fewer samples than FID before and after it is biased upwards, so a good generator
      can come out below it. `fid_excess` compares at equal counts.
    - `fid_ratio`: after/before. No interval of it covers at these sample sizes, so it is never gated on.
    - `kid_before`, `kid_after`, `kid_difference`: features scaled so that the real ones have mean square 1.
      The holdout's mixture of classes is taken as fixed (it is split class by class), so what remains in the
      interval is which images of each class were held out, and which latents were drawn.
    - `precision`, `recall`, `density`, `coverage`: by nearest neighbours, see `measure.neighbours`.
    - `..._fixed_shares`: the candidate's samples thinned out until every retained class has the parent's share,
      so that mass that moved from one class to another is not taken for damage.
    - `share_distance`: total variation between the retained classes' shares, after against before.
    - `kept_share`: the smallest over retained classes of share after over share before.
    """
    compared = Compared.of(evidence.of_fixed_size)
    yield from compared.distances()
    yield from compared.with_shares_held(evidence.of_fixed_size)
    yield from attempt(("share_distance",), lambda: (total_variation(
        evidence.of_fixed_size.before.classes, evidence.of_fixed_size.after.classes, evidence.retained,
        evidence.classes, CONFIDENCE),), len(evidence.of_fixed_size.after.classes))
    yield from shares_kept(evidence)


def shares_kept(evidence: Evidence) -> Iterator[Measurement]:
    """`kept_share`, which holds at any moment of stopping."""
    yield from attempt(("kept_share",), lambda: (kept_shares(
        evidence.before.classes, evidence.after.classes, evidence.retained, evidence.classes, CONFIDENCE,
        bounds=evidence.bounds).smallest,), len(evidence.after.classes))


@dataclass(frozen=True)
class Compared:
    """Features of both models' samples on the same latents, which of them count, and the real ones."""

    before: NDArray[np.float32]  # [n, d]
    after: NDArray[np.float32]  # [n, d]
    kept_before: NDArray[np.bool_]  # [n]
    kept_after: NDArray[np.bool_]  # [n]
    real: NDArray[np.float32]  # [m, d]
    strata: NDArray[np.int64]  # [m] labels of the real ones

    @classmethod
    def of(cls, evidence: Evidence) -> "Compared":
        """What generators drew."""
        real = evidence.real_retained
        return cls(evidence.before.features, evidence.after.features, evidence.kept(evidence.before),
                   evidence.kept(evidence.after), real.seen.features, real.labels)

    def distances(self) -> Iterator[Measurement]:
        """All distances but those with shares held."""
        was, is_now = self.before[self.kept_before], self.after[self.kept_after]
        # Of features as many as InceptionV3's, each takes seconds: asked for again, it is not computed again.
        fid_before, fid_after = (cache(lambda side=side: fid(side, self.real)) for side in (was, is_now))

        def ratio() -> tuple[Measured, ...]:
            if fid_before() == 0:
                raise BadInput("fid_before: it is zero, so there is no ratio", "check the holdout")
            return (fid_after() / fid_before(),)

        yield from attempt(("fid_before",), lambda: (fid_before(),), len(was))
        yield from attempt(("fid_after",), lambda: (fid_after(),), len(is_now))
        yield from attempt(("fid_floor",), lambda: (fid_floor(self.real),), len(self.real) // 2)
        yield from attempt(("fid_excess",), lambda: (
            fid_excess(is_now, self.real, real_strata=self.strata, confidence=CONFIDENCE),), len(is_now))
        yield from attempt(("fid_ratio",), ratio, len(is_now))
        yield from attempt(("kid_before", "kid_after", "kid_difference"), self._kids, 0)
        for ending, side in (("", is_now), ("_before", was)):
            yield from attempt(tuple(name + ending for name in NEIGHBOURS), lambda side=side: self._near(side), 0)  # type: ignore[misc]

    def with_shares_held(self, evidence: Evidence) -> Iterator[Measurement]:
        """The same of the candidate, its samples thinned out to the parent's shares of the retained classes."""
        kid, fid_after, *near = (f"{name}_fixed_shares" for name in ("kid_difference", "fid_after", *NEIGHBOURS))
        chosen = np.zeros(len(self.after), dtype=bool)
        try:
            chosen[hold_shares(evidence.after.classes, class_shares(evidence.before.classes, evidence.classes),
                               evidence.retained)] = True
        except BadInput as error:
            yield from absent((kid, fid_after, *near), str(error))
            return
        samples = self.after[chosen]
        yield from attempt((kid,), lambda: (replace(self, kept_after=chosen)._kids()[2],), len(samples))
        yield from attempt((fid_after,), lambda: (fid(samples, self.real),), len(samples))
        yield from attempt(tuple(near), lambda: self._near(samples), len(samples))

    def _kids(self) -> tuple[Measured, ...]:
        scale = np.float64(unit_scale(self.real))
        found = compare_kid(
            self.before * scale, self.after * scale, self.real * scale, kept_before=self.kept_before,
            kept_after=self.kept_after, real_strata=self.strata, confidence=CONFIDENCE)
        return found.before, found.after, found.difference

    def _near(self, samples: NDArray[np.float32]) -> tuple[Measured, ...]:
        found = neighbours(samples, self.real, confidence=CONFIDENCE)
        return found.precision, found.recall, found.density, found.coverage
