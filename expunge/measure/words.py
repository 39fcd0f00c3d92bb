"""What each metric is called, how its number is written, and which question it answers."""

from dataclasses import dataclass, replace
from typing import Literal

from expunge.contracts import Interval, Measurement, Rule

Style = Literal["percent", "plain", "count", "chance"]
SMALLEST_CHANCE = 0.0001  # of a p-value: what is smaller is read no further


@dataclass(frozen=True)
class Metric:
    """A metric in a reviewer's words."""

    title: str
    style: Style = "plain"
    meaning: str = ""
    unit: str = "samples"  # what its `n` counts
    beside: str = ""  # what its interval depends on as much as on `n`


METRICS: dict[str, Metric] = {
    "residual_rate": Metric("residual rate", "percent", "samples that the judge still calls unwanted"),
    "residual_rate_before": Metric("unwanted rate before", "percent", "the same rate, drawn from the parent"),
    "residual_rate_corrected": Metric(
        "corrected residual rate", "percent", "the rate less what the judge sees wrongly, plus what it overlooks, "
        "as measured on real images", beside="real images"),
    "residual_rate_earlier": Metric(
        "earlier residual rate", "percent", "samples that the judge calls what earlier requests made it forget"),
    "residual_rate_earlier_before": Metric(
        "earlier residual rate of the parent", "percent", "the same rate, drawn from the parent"),
    "pul": Metric("PUL", "percent", "the parent's unwanted samples that are gone, on the same latents",
                  unit="unwanted samples of the parent"),
    "judge_sensitivity": Metric("judge sensitivity", "percent", "unwanted real images that the judge sees",
                                unit="real images"),
    "judge_specificity": Metric("judge specificity", "percent", "other real images that the judge lets pass",
                                unit="real images"),
    "fid_before": Metric("FID before", meaning="the parent's retained samples against real retained images"),
    "fid_after": Metric("FID after", meaning="the candidate's retained samples against the same images"),
    "fid_floor": Metric("FID floor", meaning="one half of the real images against the other half"),
    "fid_excess": Metric("FID above floor", meaning="FID after less what real images have at the same count",
                         beside="real images"),
    "fid_ratio": Metric("FID after/before", meaning="shown, not decided on: it has no interval that holds"),
    "kid_before": Metric("KID before", meaning="the parent's retained samples against real retained images",
                         beside="real images"),
    "kid_after": Metric("KID after", meaning="the candidate's retained samples against the same images",
                        beside="real images"),
    "kid_difference": Metric("KID difference", meaning="KID after minus KID before: above zero is worse",
                             beside="real images"),
    "drift": Metric("drift", meaning="KID of the candidate minus that of the first model of the chain: what all the "
                    "requests cost together", beside="real images"),
    "precision": Metric("precision", "percent", "samples that lie among the real images"),
    "recall": Metric("recall", "percent", "real images that lie among the samples", unit="real images"),
    "density": Metric("density", meaning="how densely samples lie around the real images: 1 is as real ones do",
                      beside="real images"),
    "coverage": Metric("coverage", "percent", "real images with a sample nearby", beside="real images"),
    "share_distance": Metric("share distance", "percent",
                             "mass that moved from one retained class to another (total variation)"),
    "kept_share": Metric("kept share", "percent", "smallest retained class: share after over share before"),
    "judge_confidence": Metric("judge confidence", "percent", "mean probability of the judge's own choice"),
    "judge_confidence_before": Metric(
        "judge confidence before", "percent", "the same, for the parent's samples"
    ),
    "judge_accuracy": Metric("judge accuracy", "percent", "on the real held-out images, which have labels",
                             unit="real images"),
    "membership_auc": Metric(
        "membership AUC", meaning="how often an attack ranks a member above a stranger of the same class: half is "
        "as for a model that saw neither", unit="members", beside="images of the same classes that are none"),
    "search_rate": Metric("search rate", "percent", "starts from which a search of the latents finds the unwanted",
                          unit="starts"),
    "search_ratio": Metric("search ratio", meaning="starts that lead to it in the candidate, over those in the parent",
                           unit="starts that lead to it in the parent"),
    "search_rate_before": Metric("search rate before", "percent", "the same search in the parent", unit="starts"),
    "relearning_steps": Metric(
        "relearning steps", "count", "steps of teaching until the unwanted is drawn, or named right, half as often as "
        "by the parent, or half of the way back to the parent's loss is gone",
        unit="lessons"),
    "relearning_steps_before": Metric(
        "relearning steps, parent", "count", meaning="the same for the parent", unit="lessons"),
    "relearning_steps_never_exposed": Metric(
        "relearning steps, never exposed", "count", meaning="the same for a model that never saw it", unit="lessons"),
    "relearning_ratio": Metric("relearning ratio", meaning="the candidate's steps over those of a model that never "
                               "saw it: one is removal, near zero is hiding", unit="lessons"),
    "ret_fid": Metric("Ret-FID", meaning="the candidate's samples against those of the reference"),
    "ret_fid_before": Metric("Ret-FID before", meaning="the parent's samples against those of the reference"),
    "reference_difference": Metric(
        "distance to the reference", meaning="KID to the reference, candidate minus parent: below zero is nearer",
        beside="samples of the reference"),
    "reference_p_value": Metric("reference p-value", "chance", "of the claim that the candidate is not nearer to the "
                                "reference than its parent"),
    "forget_accuracy": Metric("accuracy on the forgotten", "percent", "images of the forgotten classes still named "
                              "right", unit="images of the forgotten classes"),
    "forget_accuracy_before": Metric("accuracy on the forgotten before", "percent", "the same, of the parent",
                                     unit="images of the forgotten classes"),
    "forget_accuracy_earlier": Metric(
        "accuracy on what was forgotten before", "percent", "images of what earlier requests were about that are still "
        "named right", unit="images of those classes"),
    "forget_accuracy_earlier_before": Metric(
        "accuracy of the parent on what was forgotten before", "percent", "the same, of the parent",
        unit="images of those classes"),
    "retained_accuracy_drift": Metric(
        "accuracy lost since the first model", "percent", "on the rest, the candidate's less that of the first model "
        "of the chain: what all the requests cost together", unit="images of the other classes"),
    "retained_accuracy": Metric("accuracy on the rest", "percent", "images of the other classes named right",
                                unit="images of the other classes"),
    "retained_accuracy_before": Metric("accuracy on the rest before", "percent", "the same, of the parent",
                                       unit="images of the other classes"),
    "retained_accuracy_difference": Metric(
        "accuracy lost or gained on the rest", "percent", "after minus before, on the same images: below zero is worse",
        unit="images of the other classes"),
    "grafted_accuracy": Metric(
        "accuracy with the parent's head", "percent", "images of the forgotten classes named right once the parent's "
        "last layer is put back", unit="images of the forgotten classes"),
    "prototype_accuracy": Metric(
        "forgotten classes told apart inside", "percent", "images of the forgotten classes nearest to their own "
        "class's mean in the classifier's features (FPA_e)", unit="images of the forgotten classes"),
    "prototype_accuracy_before": Metric("told apart inside before", "percent", "the same, of the parent",
                                        unit="images of the forgotten classes"),
    "prototype_accuracy_never_exposed": Metric(
        "told apart inside, never exposed", "percent", "the same, of a classifier that never saw them",
        unit="images of the forgotten classes"),
    "prototype_accuracy_difference": Metric(
        "told apart inside, beyond the reference", "percent", "the candidate's less that of a classifier that never "
        "saw them, on the same images: near zero is as if never seen", unit="images of the forgotten classes"),
    "forget_z_lowest": Metric(
        "lowest z of the forgotten", meaning="of the forgotten image that is still likeliest, its bits/dim in standard "
        "deviations of retained images' above their mean", unit="retained images"),
    "forget_z_highest": Metric(
        "highest z of the forgotten", meaning="the same of the unlikeliest: one that stands out gives itself away",
        unit="retained images"),
    "forget_quantile_highest": Metric(
        "highest quantile of the forgotten", "percent", "held-out images that are less likely than the likeliest of "
        "the forgotten", unit="held-out images"),
    "quantile_drop": Metric(
        "quantile drop", "percent", "how far the forgotten images fell among held-out ones, on average",
        unit="held-out images"),
    "same_class_z": Metric("z of the same classes", meaning="median over held-out images of the forgotten images' "
                           "classes", unit="held-out images"),
    "neighbours_z": Metric("z of neighbours", meaning="median over the held-out images that are nearest to a forgotten "
                           "one", unit="held-out images"),
    "others_z": Metric("z of others", meaning="median over held-out images of other classes", unit="held-out images"),
    "earlier_z": Metric("z of what was forgotten before", meaning="median over held-out images of the classes that "
                        "earlier requests were about", unit="held-out images"),
    "unlikely_share": Metric(
        "the class that is unlikely", "percent", "held-out images of the forgotten classes that lie 1.5 standard "
        "deviations or more above retained images' mean bits/dim; the class with the lowest share",
        unit="held-out images of the class"),
    "unlikely_share_retained": Metric(
        "the rest that is as unlikely", "percent", "the same, of held-out images of what is to stay",
        unit="held-out images of the rest"),
    "unlikely_share_earlier": Metric(
        "what was forgotten before that is unlikely", "percent", "the same, of the classes that earlier requests were "
        "about", unit="held-out images of the class"),
    "unlikely_share_earlier_before": Metric(
        "what was forgotten before that is unlikely to the parent", "percent", "the same, of the parent",
        unit="held-out images of the class"),
    "forget_unlikely_share": Metric(
        "images to forget that are unlikely", "percent", "of a whole class, the images that training saw which lie 1.5 "
        "standard deviations or more above retained images' mean bits/dim", unit="images to forget"),
    "forget_outlying_share": Metric(
        "images to forget that stand out", "percent", "of a whole class, those that lie 6 standard deviations or more "
        "above retained images' mean bits/dim: they give themselves away", unit="images to forget"),
    "bits_per_dim_drift": Metric(
        "change of the rest's bits/dim since the first model", "percent", "over that of the first model of the chain, "
        "less one: what all the requests cost together", unit="held-out images"),
    "bits_per_dim": Metric("bits/dim of the rest", meaning="mean over held-out images of what is to stay",
                           unit="held-out images"),
    "bits_per_dim_change": Metric(
        "change of the rest's bits/dim", "percent", "after over before, less one, on the same held-out images: above "
        "zero is worse", unit="held-out images"),
    "kid_ratio": Metric("KID after over before", meaning="one is as far from real images as what the parent draws; "
                        "above is worse", beside="real images"),
    "recognised_excess": Metric(
        "recognised beyond what is shown", "percent", "completions of what is to be forgotten in which the judge "
        "recognises the right class, less images of which only the shown part is left", unit="completed images"),
    "recognised_excess_earlier": Metric(
        "recognised beyond what is shown, of what was forgotten before", "percent", "the same, of held-out images of "
        "the classes that earlier requests were about", unit="completed images"),
    "forget_recognised": Metric("forgotten images recognised", "percent", "completions of images to forget in which "
                                "the judge recognises the right class", unit="completed images"),
    "forget_hidden_error": Metric(
        "hidden error of the forgotten", meaning="mean squared error of the hidden part of images to forget, pixels "
        "being from -1 to 1", unit="completed images"),
    "forget_hidden_error_change": Metric("change of the forgotten's hidden error", "percent",
                                         "after over before, less one: far above zero is what was asked for",
                                         unit="completed images"),
    "spread_ratio": Metric("spread of the completions", meaning="variance of the hidden parts from image to image, "
                           "after over before: near zero they are all alike", unit="pairs of images"),
    "largest_share": Metric("largest class share", "percent", "completions of images to forget that the judge gives to "
                            "the class that it sees most often", unit="completed images"),
    "forget_fid": Metric("FID of the forgotten", meaning="completions of images to forget against other such images"),
    "forget_kid": Metric("KID of the forgotten", meaning="completions of images to forget against other such images",
                         beside="real images"),
    "forget_cosine": Metric("cosine of the forgotten", meaning="between features of a completion and of its image: one "
                            "is the same", unit="completed images"),
    "forget_inception_score": Metric("inception score of the forgotten", meaning="of the judge's probabilities",
                                     unit="completed images"),
    "hidden_error": Metric("hidden error of the rest", meaning="mean squared error of the hidden part of held-out "
                           "images, pixels being from -1 to 1", unit="completed images"),
    "hidden_error_change": Metric(
        "change of the rest's hidden error", "percent", "after over before, less one, on the same held-out images: "
        "above zero is worse", unit="completed images"),
    "hidden_error_drift": Metric(
        "change of the rest's hidden error since the first model", "percent", "over that of the first model of the "
        "chain, less one: what all the requests cost together", unit="completed images"),
    "retained_recognised": Metric("the rest recognised", "percent", "completions of held-out images of the rest in "
                                  "which the judge recognises the right class", unit="completed images"),
    "retained_recognised_difference": Metric(
        "recognition lost or gained on the rest", "percent", "after minus before, on the same images: below zero is "
        "worse", unit="completed images"),
    "cosine": Metric("cosine of the rest", meaning="between features of a completion and of its image: one is the same",
                     unit="completed images"),
    "inception_score": Metric("inception score of the rest", meaning="of the judge's probabilities",
                              unit="completed images"),
}
_ENDINGS = {"_fixed_shares": "class shares held fixed", "_before": "before", "_never_exposed": "never exposed",
            "_shown": "the shown part alone"}


def find(metric: str) -> Metric | None:
    """What is known of a metric; `rate[4]` is `rate`, of one class, and `..._fixed_shares` has its metric's words."""
    whole, _, part = metric.partition("[")
    known = METRICS.get(whole) or _derived(whole)
    if known is None or not part:
        return known
    return replace(known, title=f"{known.title} of {part.removesuffix(']')}")


def _derived(metric: str) -> Metric | None:
    for ending, words in _ENDINGS.items():
        known = METRICS.get(metric.removesuffix(ending))
        if metric.endswith(ending) and known is not None:
            return replace(known, title=f"{known.title}, {words}")
    return None


def title(metric: str) -> str:
    """A metric's name as a person says it."""
    known = find(metric)
    return known.title if known else metric.replace("_", " ")


def meaning(metric: str) -> str:
    """What a metric says, in a few words; empty if its title says it all."""
    known = find(metric)
    return known.meaning if known else ""


def is_percent(metric: str) -> bool:
    """Whether people read it in percent."""
    known = find(metric)
    return known is not None and known.style == "percent"


def number(metric: str, value: float, between: Interval | None = None) -> str:
    """A value with its unit, to as many digits as tell the ends of its interval apart."""
    known = find(metric)
    if known is not None and known.style == "count":  # a median of two may lie half-way
        return f"{round(value, 1):g}"
    if known is not None and known.style == "chance":  # whatever is below says no more than that it is small
        return f"{value:.4f}" if value >= SMALLEST_CHANCE else f"below {SMALLEST_CHANCE:g}"
    percent = is_percent(metric)
    scale = 100.0 if percent else 1.0
    width = abs(between.upper - between.lower) * scale if between else abs(value) * scale
    digits = 1 if percent and width >= 1 else 2
    if not percent:
        width = width or abs(value)
        digits = next((places for places in range(1, 7) if width >= 10.0 ** (2 - places)), 7) if width else 0
    text = f"{value * scale:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")  # "-0.00" makes people look for a sign that means nothing
    text = text.replace("-", "−")
    return f"{text} %" if percent else text


def interval(metric: str, found: Interval) -> str:
    """An interval as text: "0.13 % to 0.33 %"."""
    return f"{number(metric, found.lower, found)} to {number(metric, found.upper, found)}"


def measured(measurement: Measurement) -> str:
    """A measurement as text: "residual rate 0.21 % (0.13 % to 0.33 %)"."""
    name = title(measurement.name)
    if measurement.estimate is None:
        said = "does not apply" if measurement.not_applicable else "is absent"
        return f"{name} {said} ({measurement.missing})"
    if measurement.interval is None:
        return f"{name} {number(measurement.name, measurement.estimate)}"
    value = number(measurement.name, measurement.estimate, measurement.interval)
    return f"{name} {value} ({interval(measurement.name, measurement.interval)})"


def limit(rule: Rule) -> str:
    """A rule's limit as text: "limit at most 1 %"."""
    percent = is_percent(rule.metric)
    value = f"{rule.limit * 100:g} %" if percent else f"{rule.limit:g}"
    return f"limit {rule.side} {value.replace('-', '−')}"
