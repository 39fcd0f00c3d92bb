"""A small flow of handwritten digits, tamed as it should be, not at all, and too much."""

import functools
import json

import numpy as np
import pytest
from given_images import RoomOfImages, Split, columns, judge, judged
from small_flow import SMALL_GLOW, digits, fresh_glow, small_flow
from tests_support import counted_again

from components.evaluate.page import render_page
from expunge.contracts import (
    Candidate,
    EarlierRequest,
    Forget,
    Interface,
    Sampling,
    read_record,
    write_record,
)
from expunge.errors import BadInput
from expunge.measure.likelihoods import OUTLYING, UNLIKELY
from expunge.measure.policy import AS_EXPECTED, preset, rules_for
from expunge.measure.proportions import clopper_pearson

DIGIT, FORGOTTEN = 3, 4

@functools.cache
def split():
    labels = digits()[1].numpy()
    held = np.arange(len(labels)) % 3 == 0
    forget = np.zeros(len(labels), bool)
    forget[np.flatnonzero((labels == DIGIT) & ~held)[:FORGOTTEN]] = True
    return Split(forget, ~held & ~forget, held)


def of_class():
    """The split where the whole digit is to go."""
    rows, digit = split(), digits()[1].numpy() == DIGIT
    return Split(digit & ~rows.holdout, ~digit & ~rows.holdout, rows.holdout)


@functools.cache
def tamed(steps=90, alpha=0.6, forget_loss="threshold", rows=split, **more):
    """The small flow's weights after taming the images to forget."""
    import torch

    from expunge.methods.taming_flow import METHOD, Params
    from expunge.methods.training import Material, Samples, Session

    torch.set_num_threads(1)
    images, rows = digits()[0], rows()
    material = Material(None, None, forget=Samples(images[rows.forget]), retain=Samples(images[rows.retain]))
    params = Params(steps=steps, rate=3e-3, batch=32, statistics=512, refresh_images=128, alpha=alpha,
                    forget_loss=forget_loss, **more)
    session, parent = Session(seed=0), small_flow()
    return METHOD.unlearn(parent, METHOD.adapt(parent, material, params, session), material, params, session)


def class_tamed():
    """The small flow's weights after taming all images of the digit that training may see."""
    return tamed(steps=80, alpha=0.9, rows=of_class, stop="never")


class Room(RoomOfImages):
    """The room's inputs for flows."""

    family, method, claim = "flow", "taming_flow", "output suppression"
    digits, split = staticmethod(digits), staticmethod(split)

    @property
    def source(self):
        return {"architecture": "glow", "config": SMALL_GLOW}

    def put_models(self):
        self.put("checkpoint", small_flow().state_dict())
        self.put("candidate", tamed())

    def ask(self, *, digit=DIGIT, images=(0,), evaluate=500, earlier=(), **more):
        self.write(Forget(classes=(digit,), images=images, earlier=earlier), Sampling(evaluate=evaluate), **more)

    def ask_for_class(self, candidate, **more):
        """A request about the whole digit, and what came of it."""
        self.ask(images=(), **more)
        for role in ("forget", "retain"):
            self.give(role, getattr(of_class(), role))
        self.put("candidate", candidate)

    def put(self, name, state, **config):
        config = SMALL_GLOW | config
        self.put_model(name, state, "glow", config, Interface(range=(-0.5, 0.5), bits=config["bits"]))


@pytest.fixture
def room(house, request):
    return Room(house.beside(f"flows-{request.node.name[-60:]}"))


def table(folder, name="likelihoods"):
    return columns(folder / f"{name}.parquet")


def between(measurement):
    return measurement.interval.lower, measurement.interval.upper


def test_a_tamed_flow_passes_and_every_control_comes_out_as_it_must(room):
    report = room.report("tamed")
    verdict, rules = judged(report)
    assert verdict.controls == dict.fromkeys(
        ("parent", "noise", "worn images", "again", "worn draws", "real"), AS_EXPECTED)
    assert {key: rule.outcome for key, rule in rules.items()} == {
        ("forget_z_lowest", "at least"): "PASS", ("forget_z_highest", "at most"): "PASS",
        ("bits_per_dim_change", "at most"): "PASS", ("kid_ratio", "at most"): "PASS"}
    assert {file.name for file in report.files} >= {"likelihoods.parquet", "scores.parquet", "features.safetensors"}
    covered = {metric for control in report.controls for metric in control.covers}
    assert {rule.metric for policy in ("debug", "standard", "strict")
            for rule in rules_for(preset(policy), "flow", images=True)} <= covered


def test_the_numbers_follow_from_the_tables(room):
    report = room.report("followed")
    found = table(room.folder)
    of = {name: found["set"] == name for name in ("forget", "retain", "holdout", "noise", "worn", "again")}
    same = found["label"] == DIGIT
    assert (of["forget"].sum(), of["retain"].sum(), of["holdout"].sum()) == (FORGOTTEN, 500, split().holdout.sum())

    def z(bits, rows):
        return (bits[rows] - bits[of["retain"]].mean()) / bits[of["retain"]].std(ddof=1)

    fell = []
    for ending, bits in (("", found["bits_after"]), ("_before", found["bits_before"])):
        assert report.measurement(f"forget_z_lowest{ending}").estimate == pytest.approx(z(bits, of["forget"]).min())
        assert report.measurement(f"forget_z_highest{ending}").estimate == pytest.approx(z(bits, of["forget"]).max())
        less_likely = np.array([(bits[of["holdout"]] > one).mean() for one in bits[of["forget"]]])
        assert report.measurement(f"forget_quantile_highest{ending}").estimate == pytest.approx(less_likely.max())
        fell.append(less_likely.mean())
        assert report.measurement(f"bits_per_dim{ending}").estimate == pytest.approx(bits[of["holdout"]].mean())
        for name, rows in (("same_class_z", of["holdout"] & same), ("others_z", of["holdout"] & ~same),
                           ("neighbours_z", found["neighbour"])):
            assert report.measurement(name + ending).estimate == pytest.approx(np.median(z(bits, rows)))
    assert report.measurement("quantile_drop").estimate == pytest.approx(fell[1] - fell[0])
    before = found["bits_before"]
    usual = before[of["holdout"]].mean()
    assert report.measurement("bits_per_dim_change").estimate == pytest.approx(
        found["bits_after"][of["holdout"]].mean() / usual - 1)
    controls = {control.name: {one.name: one.estimate for one in control.measurements} for control in report.controls}
    assert controls["noise"]["forget_z_highest"] == pytest.approx(z(before, of["noise"]).max())
    assert controls["worn images"]["bits_per_dim_change"] == pytest.approx(before[of["worn"]].mean() / usual - 1)
    assert controls["again"]["bits_per_dim_change"] == pytest.approx(before[of["again"]].mean() / usual - 1)
    assert controls["again"]["bits_per_dim_change"] != 0


def test_the_ratio_follows_from_the_features(room):
    from safetensors.numpy import load_file

    report = room.report("ratio")
    of = {name: array.astype(np.float64) for name, array in load_file(room.folder / "features.safetensors").items()}

    def kid(x, y):
        scale = 1 / np.sqrt((y**2).mean())

        def mean(a, b, diagonal):
            products = (scale**2 * a @ b.T / a.shape[1] + 1) ** 3
            return ((products.sum() - np.trace(products)) / (len(a) * (len(a) - 1))) if diagonal else products.mean()

        return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)

    assert report.measurement("kid_ratio").estimate == pytest.approx(
        kid(of["after"], of["real"]) / kid(of["before"], of["real"]), rel=1e-6)
    controls = {control.name: control.measurements[0].estimate for control in report.controls}
    assert controls["worn draws"] == pytest.approx(kid(of["worn"], of["real"]) / kid(of["before"], of["real"]), rel=1e-6)
    labels = of["real.label"]
    drawn = np.zeros(len(labels), bool)
    for label in range(10):
        drawn[np.flatnonzero(labels == label)[::2]] = True
    first, second = of["real"][drawn], of["real"][~drawn]
    assert controls["real"] == pytest.approx(kid(first, second) / kid(of["before"], second), rel=1e-6, abs=1e-9)


def test_bits_per_dim_are_the_flows_own_at_points_of_the_images_bins(room):
    import torch

    room.report("own")
    found, flow = table(room.folder), small_flow()
    images = digits()[0][split().forget]
    with torch.no_grad():
        middle = flow.bits_per_dim(flow.log_prob(flow.points(flow.levels(images)))).numpy()
    rows = found["set"] == "forget"
    assert found["bits_before"][rows] == pytest.approx(middle, abs=0.1)
    assert (found["error_before"][rows] > 0).all()


def test_the_parent_planted_as_candidate_fails(room):
    room.put("candidate", small_flow().state_dict())
    report = room.report("planted")
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"
    assert rules["forget_z_lowest", "at least"].reason.startswith("an image is still likely")
    assert report.measurement("bits_per_dim_change").estimate == 0
    assert report.measurement("kid_ratio").estimate == 1
    assert report.measurement("quantile_drop").estimate == 0


def test_images_that_lost_all_likelihood_fail_for_over_unlearning(room):
    room.put("candidate", tamed(steps=40, alpha=0.9, forget_loss="descent"))
    report = room.report("overdone")
    assert report.measurement("forget_z_highest").interval.lower > 6
    _, rules = judged(report)
    assert rules["forget_z_lowest", "at least"].outcome == "PASS"
    assert rules["forget_z_highest", "at most"].outcome == "FAIL"
    assert "over-unlearning" in rules["forget_z_highest", "at most"].reason


def test_damage_to_the_rest_fails(room):
    import torch

    random = torch.Generator().manual_seed(0)
    room.put("candidate", {name: tensor + 0.05 * torch.randn(tensor.shape, generator=random)
                           if tensor.is_floating_point() and tensor.ndim == 4 else tensor
                           for name, tensor in tamed().items()})
    _, rules = judged(room.report("damaged"))
    assert rules["bits_per_dim_change", "at most"].outcome == "FAIL"


# ---------------------------------------------------------------------------------- of a whole class, by shares


@pytest.fixture(scope="module")
def of_a_class(house):
    """The report on a whole class that was tamed, and its table."""
    room = Room(house.beside("flows-of-a-class"))
    room.ask_for_class(class_tamed())
    report = room.report("class-tamed")
    assert counted_again(room.folder) == {f"{name}{ending}" for ending in ("", "_before") for name in (
        "unlikely_share", "forget_unlikely_share", "forget_outlying_share")}
    return report, table(room.folder)


def test_of_a_whole_class_the_share_of_unlikely_images_decides(of_a_class):
    report, found = of_a_class
    alike = (found["set"] == "holdout") & (found["label"] == DIGIT)
    rest = (found["set"] == "holdout") & (found["label"] != DIGIT)
    for ending in ("", "_before"):
        bits = found[f"bits{ending or '_after'}"]
        usual = bits[found["set"] == "retain"]
        z = (bits - usual.mean()) / usual.std(ddof=1)
        for name, rows, threshold in (
                ("unlikely_share", alike, UNLIKELY), ("forget_unlikely_share", found["set"] == "forget", UNLIKELY),
                ("forget_outlying_share", found["set"] == "forget", OUTLYING)):
            share, hits = report.measurement(name + ending), int((z[rows] >= threshold).sum())
            exact = clopper_pearson(hits, int(rows.sum()))
            assert (share.estimate, share.n) == (pytest.approx(hits / rows.sum()), rows.sum())
            assert between(share) == pytest.approx((exact.lower, exact.upper))
        if not ending:
            assert report.measurement("unlikely_share_retained").estimate == pytest.approx((z[rest] >= UNLIKELY).mean())
    assert report.measurement("unlikely_share").estimate > 0.8 > 0.2 > report.measurement("unlikely_share_before").estimate
    assert report.measurement("unlikely_share_retained").estimate < 0.2

    verdict, rules = judged(report)
    assert {name: verdict.controls[name] for name in ("parent", "rest", "noise")} == dict.fromkeys(
        ("parent", "rest", "noise"), AS_EXPECTED)
    assert not {"forget_z_lowest", "forget_z_highest"} & {metric for metric, _ in rules}, "they are for single images"
    too_few = rules["unlikely_share", "at least"]
    assert too_few.outcome == "INCONCLUSIVE"
    assert "more held-out images of the class" in too_few.reason
    assert rules["forget_outlying_share", "at most"].outcome == "PASS"
    assert judged(report, "debug")[1]["unlikely_share", "at least"].outcome == "PASS"


@pytest.mark.parametrize("candidate", [lambda: small_flow().state_dict(), lambda: tamed(
    steps=40, alpha=0.0, gamma=0.0, rows=of_class, stop="never")], ids=["the parent", "fine-tuned on the rest"])
def test_a_class_that_nobody_made_unlikely_fails(room, candidate):
    room.ask_for_class(candidate())
    report = room.report("class-kept")
    for policy in ("standard", "debug"):
        assert judged(report, policy)[1]["unlikely_share", "at least"].outcome == "FAIL"
    _, rules = judged(report)
    assert rules["unlikely_share", "at least"].reason.startswith("the class is still likely")
    assert rules["forget_unlikely_share", "at least"].reason.startswith("images of the class are still likely")


def test_of_single_images_no_share_of_their_class_is_asked(report_of_tamed):
    share = report_of_tamed.measurement("unlikely_share")
    assert share.not_applicable
    assert "others of their class stay" in share.missing
    assert not [metric for metric, _ in judged(report_of_tamed)[1] if metric.endswith("_share")]
    spared = report_of_tamed.model_copy(update={"single_images": None})  # who hides it is asked about the class
    assert judged(spared)[1]["unlikely_share", "at least"].outcome == "INVALID"


# ---------------------------------------------------------------------------------------- one after the other


def test_a_class_that_went_before_stays_unlikely_and_what_all_requests_took_is_added_up(room):
    room.put("checkpoint", class_tamed())
    room.put("candidate", class_tamed())
    room.put("origin", small_flow().state_dict())
    room.ask(digit=5, images=(), earlier=(DIGIT,))
    labels, held = digits()[1].numpy(), split().holdout
    room.give("forget", (labels == 5) & ~held)
    room.give("retain", ~np.isin(labels, (5, DIGIT)) & ~held)
    report = room.report("second")
    found = table(room.folder)
    rest = (found["set"] == "holdout") & ~np.isin(found["label"], (5, DIGIT))
    assert report.measurement("bits_per_dim_drift").estimate == pytest.approx(
        found["bits_after"][rest].mean() / found["bits_origin"][rest].mean() - 1)
    assert report.measurement("bits_per_dim_change").estimate == 0, "it is its own parent: only the first is another"
    assert report.measurement("unlikely_share_earlier").estimate > 0.8
    assert "unlikely_share_earlier" in counted_again(room.folder)
    verdict, rules = judged(report)
    assert verdict.controls["origin"] == AS_EXPECTED
    assert {("unlikely_share_earlier", "at least"), ("bits_per_dim_drift", "at most")} <= set(rules)
    page = render_page(room.folder, verdict, preset("standard"), "safety")
    assert "Does what was forgotten before stay forgotten?" in page
    assert "What was forgotten before" in page

    room.put("candidate", small_flow().state_dict())
    relapsed = judged(room.report("relapsed"))[1]["unlikely_share_earlier", "at least"]
    assert relapsed.outcome == "FAIL"
    assert relapsed.reason.startswith("what an earlier request was about is back")


def test_after_single_images_there_is_a_drift_and_no_class_that_could_be_back(room):
    before = EarlierRequest(request_id="first", request_sha256="1" * 64, candidate_sha256="2" * 64, classes=(5,), images=4)
    room.ask(came_before=(before,))
    room.put("origin", small_flow().state_dict())
    report = room.report("after-images")
    assert report.measurement("bits_per_dim_drift").estimate == pytest.approx(
        report.measurement("bits_per_dim_change").estimate)
    _, rules = judged(report)
    assert ("bits_per_dim_drift", "at most") in rules
    assert ("unlikely_share_earlier", "at least") not in rules
    assert "forget single images" in render_page(room.folder)


# --------------------------------------------------------------------------------------------- the ruler


def test_a_parent_that_finds_them_unlikely_already_makes_the_verdict_invalid(room):
    room.put("checkpoint", tamed())
    room.put("candidate", tamed())
    verdict, _ = judged(room.report("tamed-parent"))
    assert verdict.outcome == "INVALID"
    assert verdict.controls["parent"].startswith("must FAIL, came out PASS")


def test_a_judge_that_sees_nothing_makes_the_verdict_invalid(room):
    room.put_judge({name: tensor * 0 for name, tensor in judge(digits).items()})
    report = room.report("blind")
    assert report.measurement("kid_ratio").missing
    assert judged(report)[0].outcome == "INVALID"


@pytest.mark.parametrize(("control", "metric", "estimate"), [
    ("parent", "forget_z_lowest", 4.0), ("noise", "forget_z_highest", 4.0), ("worn images", "bits_per_dim_change", 0.0),
    ("worn draws", "kid_ratio", 1.0), ("again", "bits_per_dim_change", 0.2), ("real", "kid_ratio", 3.0)])
def test_each_control_can_come_out_wrong(report_of_tamed, control, metric, estimate):
    """Planted values: what would be seen if the ruler did not see what the control is made of."""
    def planted(found):
        if found.name != metric:
            return found
        return found.model_copy(update={"estimate": estimate, "interval": found.interval.model_copy(
            update={"lower": estimate - 0.001, "upper": estimate + 0.001})})

    controls = tuple(
        each.model_copy(update={"measurements": tuple(map(planted, each.measurements))}) if each.name == control else each
        for each in report_of_tamed.controls)
    verdict, _ = judged(report_of_tamed.model_copy(update={"controls": controls}))
    assert verdict.outcome == "INVALID"
    assert verdict.controls[control].startswith("must")
    assert all(came == AS_EXPECTED for name, came in verdict.controls.items() if name != control)


@pytest.mark.parametrize(("control", "metric", "estimate"), [
    ("parent", "unlikely_share", 0.95), ("rest", "unlikely_share", 0.95), ("noise", "forget_outlying_share", 0.0)])
def test_each_control_of_a_class_can_come_out_wrong(of_a_class, control, metric, estimate):
    report, n = of_a_class[0], 1000
    exact = clopper_pearson(round(estimate * n), n)

    def planted(found):
        if found.name not in (metric, f"forget_{metric}"):
            return found
        return found.model_copy(update={"estimate": estimate, "n": n, "interval": exact})

    controls = tuple(each.model_copy(update={"measurements": tuple(map(planted, each.measurements))})
                     if each.name == control else each for each in report.controls)
    verdict, _ = judged(report.model_copy(update={"controls": controls}))
    assert verdict.controls[control].startswith("must FAIL, came out")


@pytest.fixture(scope="module")
def report_of_tamed(house):
    return Room(house.beside("flows-for-controls")).report("tamed")


# ------------------------------------------------------------------------------------- sets, classes, strangers


def test_of_a_whole_class_nothing_is_among_the_rest(room):
    labels, rows = digits()[1].numpy(), split()
    room.ask(images=())
    room.give("forget", (labels == DIGIT) & ~rows.holdout)
    room.give("retain", (labels != DIGIT) & ~rows.holdout)
    report = room.report("class")
    found = table(room.folder)
    held = found["set"] == "holdout"
    others = held & (found["label"] != DIGIT)
    assert report.measurement("bits_per_dim").n == others.sum() < held.sum()
    assert report.measurement("forget_quantile_highest").n == others.sum()
    assert not (found["neighbour"] & (found["label"] == DIGIT)).any()
    drawn = table(room.folder, "scores")
    assert report.measurement("residual_rate").estimate == (drawn["class_after"] == DIGIT).mean()
    assert report.measurement("fid_after").n == (drawn["class_after"] != DIGIT).sum()


def test_members_are_told_apart_by_likelihood(room):
    from sklearn.metrics import roc_auc_score

    labels, rows = digits()[1].numpy(), split()
    room.give("members", (labels == DIGIT) & ~rows.holdout)
    report = room.report("members")
    seen = table(room.folder, "membership")
    assert report.measurement("membership_auc").estimate == pytest.approx(roc_auc_score(seen["member"], seen["score"]))
    found = table(room.folder)
    of_class = (found["set"] == "holdout") & (found["label"] == DIGIT)
    assert np.array_equal(-seen["score"][~seen["member"]], found["bits_after"][of_class])


def test_a_flow_that_never_saw_them_says_where_an_honest_one_would_put_them(room):
    room.put("reference", small_flow().state_dict())
    report = room.report("reference")
    for end in ("lowest", "highest"):
        never, before = (report.measurement(f"forget_z_{end}_{ending}") for ending in ("never_exposed", "before"))
        assert never.estimate == pytest.approx(before.estimate)
    room.put("reference", fresh_glow(bits=5).state_dict(), bits=5)
    missing = room.report("other-reference").measurement("forget_z_lowest_never_exposed").missing
    assert "reference: its images are 1x8x8 of 5 bits, the parent's 1x8x8 of 4 bits" in missing


def test_what_was_forgotten_before_is_looked_at_again(room):
    room.ask(earlier=(5,))
    report = room.report("earlier")
    found = table(room.folder)
    rows = (found["set"] == "holdout") & (found["label"] == 5)
    retained = found["bits_after"][found["set"] == "retain"]
    assert report.measurement("earlier_z").estimate == pytest.approx(
        np.median((found["bits_after"][rows] - retained.mean()) / retained.std(ddof=1)))


def test_the_same_bytes_give_the_same_report(room, report_of_tamed):
    assert room.report("again") == report_of_tamed


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_without_the_images_that_it_is_about_a_flow_is_not_evaluated(room, role):
    room.house.leave_out(role)
    with pytest.raises(BadInput, match=rf"{role}: there is no such set"):
        room.report("without")


def test_a_candidate_of_another_depth_is_refused(room):
    room.put("candidate", fresh_glow(bits=5).state_dict(), bits=5)
    with pytest.raises(BadInput, match=r"candidate: its images are 1x8x8 of 5 bits, the parent's 1x8x8 of 4 bits"):
        room.report("deeper")


def test_a_candidate_of_another_size_is_refused(room):
    room.put("candidate", fresh_glow(side=16).state_dict(), side=16)
    with pytest.raises(BadInput, match=r"candidate: its images are 1x16x16 of 4 bits, the parent's 1x8x8"):
        room.report("larger")


def test_held_out_images_between_the_levels_are_refused(room):
    images, labels = digits()
    room.house.with_images("holdout", (images * 0.9).numpy(), labels.numpy())
    with pytest.raises(BadInput, match=r"holdout: .* lie between the 16 levels"):
        room.report("between")


def test_another_set_than_the_candidate_was_made_from_is_refused(room):
    record = read_record(Candidate, room.house.root / "candidate")
    write_record(room.house.root / "candidate", record.model_copy(update={"forget_id": "f" * 64}))
    with pytest.raises(BadInput, match=r"forget: it is another set than the one that the candidate was made from"):
        room.report("other-set")


def test_a_holdout_of_nothing_but_what_is_forgotten_is_refused(room):
    labels = digits()[1].numpy()
    room.ask(images=())
    room.give("holdout", split().holdout & (labels == DIGIT))
    with pytest.raises(BadInput, match=r"holdout: every image is of a class that is to be forgotten"):
        room.report("nothing-else")


def test_a_class_that_nobody_held_out_is_said_to_be_missing(room):
    room.give("holdout", split().holdout & (digits()[1].numpy() != DIGIT))
    report = room.report("none-held-out")
    assert "holdout: it has no such image" in report.measurement("same_class_z").missing
    assert report.holdout_lacks == (DIGIT,)


def test_likelihoods_that_are_no_numbers_are_never_a_number(room):
    room.put("candidate", {name: tensor * float("nan") if tensor.is_floating_point() else tensor
                           for name, tensor in small_flow().state_dict().items()})
    report = room.report("nan")
    for name in ("forget_z_lowest", "forget_z_highest", "bits_per_dim", "bits_per_dim_change", "same_class_z"):
        assert report.measurement(name).missing.startswith("candidate: "), name
    assert "quantile_drop" in {found.name for found in report.measurements if found.missing}
    for name in ("kid_ratio", "residual_rate"):
        assert "candidate: 100 of 100 images that it draws hold NaN" in report.measurement(name).missing
    assert report.measurement("bits_per_dim_before").estimate > 0
    verdict, _ = judged(report)
    assert verdict.outcome == "INVALID"
    assert not (room.folder / "scores.parquet").exists()


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_marks_every_image_to_forget_and_shows_none(room):
    report = room.report("page")
    page = render_page(room.folder, judged(report)[0], preset("standard"), "safety")
    assert "<h1>Forgetting 4 images of class 3</h1>" in page
    assert page.count('class="tick was"') == page.count('class="tick gone"') == FORGOTTEN
    for words in ("Is it unlikely?", "The likeliest of the forgotten", "Image by image", "KID after over before",
                  "no picture of them is in this report", "worn draws"):
        assert words in page
    assert "their class stays" in page
    assert "-after still" not in page  # nobody asked for the class to go
    for words in ("Residual rate, closer", "named right", "predictions.parquet"):
        assert words not in page
    tiles = json.loads((room.folder / "pictures.json").read_bytes())["groups"]["unwanted"]["tiles"]
    drawn = table(room.folder, "scores")
    assert [tile["latent"] for tile in tiles] == np.flatnonzero(drawn["class_before"] == DIGIT)[:len(tiles)].tolist()


def test_the_page_of_a_whole_class_draws_its_images_as_a_histogram(room):
    labels, rows = digits()[1].numpy(), split()
    room.ask(images=())
    room.give("forget", (labels == DIGIT) & ~rows.holdout)
    room.give("retain", (labels != DIGIT) & ~rows.holdout)
    report = room.report("page")
    page = render_page(room.folder, judged(report)[0], preset("standard"), "privacy")
    count = int(((labels == DIGIT) & ~rows.holdout).sum())
    assert f"<h1>Forgetting {count} images of class 3</h1>" in page
    assert 'class="tick' not in page
    assert "their class stays" not in page
    assert page.count('class="gone dotted"') == 1
    assert "unwanted-before {" not in page  # what the parent drew is not shown for privacy
    assert "-after still" in render_page(room.folder, judged(report)[0], preset("standard"), "safety")


def test_the_page_says_what_is_no_number(room):
    room.put("candidate", {name: tensor * float("nan") if tensor.is_floating_point() else tensor
                           for name, tensor in small_flow().state_dict().items()})
    report = room.report("page")
    page = render_page(room.folder, judged(report)[0], preset("standard"), "safety")
    assert "INVALID" in page
    assert "images to forget have no finite likelihood" in page
