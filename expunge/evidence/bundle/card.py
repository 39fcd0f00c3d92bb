"""The released model's card in the form of Hugging Face: front matter that programs read, and a page for people."""

import json

import yaml

from expunge.evidence.bundle.gathered import Gathered
from expunge.measure import words

TASKS = {"gan": "unconditional-image-generation", "flow": "unconditional-image-generation",
         "classifier": "image-classification", "image_to_image": "image-to-image"}


def model_card(found: Gathered) -> str:
    """The card of a release: names nobody, and shows nothing of what was to be forgotten."""
    release, candidate = found.release, found.candidate
    front = {
        "library_name": _library(found),
        "pipeline_tag": TASKS[candidate.family],
        "tags": ["machine-unlearning", "expunge", candidate.method.replace("_", "-")],
        "expunge": {
            "claim": candidate.claim, "method": candidate.method, "architecture": candidate.architecture,
            "released_sha256": release.weights.sha256, "parent_sha256": release.parent_sha256,
            "report_sha256": release.report_sha256, "policy": found.policy.name,
            "policy_sha256": found.verdict.policy_sha256}}
    rows = "\n".join(f"| {words.title(one.rule.metric)} | {one.reason.replace('|', '/')} | {one.outcome} |"
                     for one in found.verdict.rules)
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {release.model}, generation {release.generation}

This model was made from another one by `{candidate.method}`, on a request to forget. What is claimed of it is
**{candidate.claim}**, and no more: that something was forgotten cannot be proved.

| rule | measured | outcome |
| --- | --- | --- |
{rows}

Architecture `{candidate.architecture}`. Weights `{release.weights.name}`, SHA-256 `{release.weights.sha256}`; made from
`{release.parent_sha256}`, which may not be served any more. The evidence is in a bundle that `verify.py` checks.

It can do no more than its parent could, and for what it is fit that one's card says. Not shown: how it behaves on
anything but what the rules ask.
"""


def _library(found: Gathered) -> str:
    """Whose format the released files are in: their configuration says it."""
    config = found.released / "config.json"
    if not config.is_file():
        return "safetensors"
    return "diffusers" if "_class_name" in json.loads(config.read_bytes()) else "transformers"
