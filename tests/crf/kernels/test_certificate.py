"""Float32 against float64 where probability space is in danger: exact, or refused and exact.

The other side of every comparison is a log-space recursion in float64 NumPy, written here.
"""

import numpy as np
import pytest
from keras import ops

import drawn
from crf.autodiff import BACKEND, evaluate, gradients
from finegrain.crf import LinearChain
from finegrain.crf.chain import Chain
from finegrain.crf.checks import checked_chain
from finegrain.crf.kernels import probability_space

SCORES = ("emissions", "transitions", "start", "end")


def log_sum_exp(x, axis):
    peak = x.max(axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - peak).sum(axis)) + peak.squeeze(axis)


def reference(emissions, transitions, start, end, mask, tags):
    """The log-partition, log-probability and expected counts of each example, in float64."""
    emissions, transitions, start, end = (
        np.asarray(part, "float64") for part in (emissions, transitions, start, end)
    )
    batch, time, num_tags = emissions.shape
    rows = np.arange(batch)
    begun = np.zeros(batch, bool)
    before = np.full((time, batch, num_tags), -np.inf)  # the message that reaches each position
    message, score, last = np.zeros((batch, num_tags)), np.zeros(batch), np.zeros(batch, int)
    links = np.zeros((batch, time), bool)
    origin = np.zeros((batch, time), int)
    for t in range(time):
        valid = mask[:, t]
        links[:, t], origin[:, t] = valid & begun, last
        before[t] = message
        arrived = log_sum_exp(message[:, :, None] + transitions, 1)
        arrived = np.where(begun[:, None], arrived, start)
        used = np.where(begun, transitions[last, tags[:, t]], start[tags[:, t]])
        score += np.where(valid, used + emissions[rows, t, tags[:, t]], 0)
        last = np.where(valid, tags[:, t], last)
        message = np.where(valid[:, None], arrived + emissions[:, t], message)
        begun = begun | valid
    score += np.where(begun, end[last], 0)
    total = np.where(begun, log_sum_exp(message + end, 1), 0)

    following = np.broadcast_to(end, (batch, num_tags))
    marginals, pairs = np.zeros_like(emissions), np.zeros((batch, num_tags, num_tags))
    of_start, of_end = np.zeros((batch, num_tags)), np.zeros((batch, num_tags))
    is_last = begun.copy()
    for t in reversed(range(time)):
        valid, linked = mask[:, t], links[:, t][:, None, None]
        ahead = emissions[:, t] + following
        pair = before[t][:, :, None] + transitions + ahead[:, None] - total[:, None, None]
        pair = np.where(linked, np.exp(np.where(linked, pair, -np.inf)), 0)
        first = np.exp(np.where((valid & ~links[:, t])[:, None], start + ahead, -np.inf).T - total)
        marginals[:, t] = pair.sum(1) + first.T
        pairs += pair
        of_start += first.T
        of_end += np.where((valid & is_last)[:, None], marginals[:, t], 0)
        is_last &= ~valid
        behind = log_sum_exp(transitions + ahead[:, None], 2)
        following = np.where(valid[:, None], behind, following)
    gold = np.zeros_like(pairs)
    np.add.at(gold, (*np.nonzero(links)[:1], origin[links], tags[links]), 1)
    known = np.eye(num_tags)[tags] * mask[:, :, None]
    firsts = (known * (mask & ~links)[:, :, None]).sum(1)
    expected = {
        "emissions": known - marginals,
        "transitions": (gold - pairs).sum(0),
        "start": (firsts - of_start).sum(0),
        "end": (np.eye(num_tags)[last] * begun[:, None] - of_end).sum(0),
    }
    with np.errstate(invalid="ignore"):
        log_prob = np.where(score == -np.inf, -np.inf, score - total)
    return {"total": total, "log_prob": log_prob, "marginals": marginals, "gradients": expected}


def values(parts, fixed):
    chain = LinearChain(**parts, mask=fixed["mask"])
    scores = [parts[name] for name in SCORES]
    shifted, offset = checked_chain(*scores, fixed["mask"]).shifted()
    total, counts, exact = probability_space.counts(shifted)
    return {
        "total": chain.log_partition(),
        "log_prob": chain.log_prob(fixed["tags"]),
        "marginals": chain.marginals(),
        "fast": {"total": total + offset, "marginals": counts.emissions, "exact": exact},
    }


def total_log_prob(parts, fixed):
    return ops.sum(LinearChain(**parts, mask=fixed["mask"]).log_prob(fixed["tags"]))


def torch_refuses(parts, mask, tags):
    """Whether the sums of the PyTorch backend, which have a certificate of their own, refuse."""
    from finegrain.crf.kernels import torch_sums

    chain: Chain = checked_chain(*(parts[name] for name in SCORES), mask)
    found = torch_sums.sums(chain.scores, chain.mask, ops.convert_to_tensor(tags))
    return found.backward is torch_sums._log_space_backward


def compare(parts, tags, mask=None, bounds=None, rounding=0.0):
    """Everything against float64.

    Args:
        parts: The scores of a chain.
        tags: (batch, time) possible tags.
        mask: (batch, time), or None.
        bounds: Of the gradients' errors, by name.
        rounding: What a message in log space loses of its digits at each position, where it holds
            what is far behind beside what is ahead.

    Returns:
        Whether probability space proved itself exact.
    """
    parts = {name: np.asarray(parts[name], "float32") for name in SCORES}
    batch, time, _ = parts["emissions"].shape
    mask = np.ones((batch, time), bool) if mask is None else mask
    tags = np.asarray(tags, "int32")
    fixed = {"mask": mask, "tags": tags}
    expected = reference(**parts, mask=mask, tags=tags)
    found = evaluate(values, parts, fixed, graph=True)
    slopes = gradients(total_log_prob, parts, fixed, graph=True)

    finite = np.where(np.isfinite(parts["emissions"]), np.abs(parts["emissions"]), 0)
    largest = finite.max(2).sum(1).max() + sum(_largest(parts[name]) for name in SCORES[1:])
    # The log-partition is a sum over positions, as are the scores of the tags.
    digits = 1e-5 * max(1, time / 16) + 4 * 2.0**-23 * largest
    digits += 2 * 2.0**-23 * np.abs(expected["log_prob"][np.isfinite(expected["log_prob"])]).max()
    _close(found["total"], expected["total"], digits, "log-partition")
    _close(found["log_prob"], expected["log_prob"], digits, "log_prob")
    usual = 2e-5 + rounding
    _close(found["marginals"], expected["marginals"], usual, "marginals")
    accepts = bool(found["fast"]["exact"])
    if accepts:
        _close(found["fast"]["total"], expected["total"], digits, "accepted log-partition")
        _close(found["fast"]["marginals"], expected["marginals"], 2e-5, "accepted marginals")
    usual = {"emissions": usual, "transitions": (2e-6 + rounding) * batch * time + 2e-5}
    usual |= {"start": 8e-5 + usual["emissions"], "end": 8e-5 + usual["emissions"]}
    for name, bound in (usual | (bounds or {})).items():
        _close(slopes[name], expected["gradients"][name], bound, f"gradient of {name}")
    if BACKEND == "torch" and not accepts:
        assert torch_refuses(parts, mask, tags)
    return accepts


def _largest(x):
    return float(np.abs(x[np.isfinite(x)]).max(initial=0))


def _close(ours, theirs, bound, name):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=name)


def normal(random, batch, time, num_tags, scale=1.0):
    shapes = [(batch, time, num_tags), (num_tags, num_tags), num_tags, num_tags]
    return {n: scale * random.normal(size=s) for n, s in zip(SCORES, shapes, strict=True)}


def lost_behind(lead):
    """What float32 loses of a message's digits at each position, beside one that leads by so much.

    Half of the last digit of `lead`, and as much again where scores are added to it.
    """
    return 2.0**-23 * lead


def blocks(between):
    """Two pairs of tags that do not meet, or at a price."""
    transitions = drawn.generator(0).normal(size=(4, 4)) / 4
    transitions[:2, 2:] = transitions[2:, :2] = between
    return transitions


def overtaken(d, time=24, tags=4):
    """Emissions: the first tags lead by d at the beginning and have lost it at the end."""
    random = drawn.generator(1)
    emissions = random.normal(size=(2, time, tags)) / 4
    emissions[0, 0, :2] += d
    emissions[0, -1, 2:] += d
    return emissions


LABELS = np.stack([np.arange(24) % 2, 2 + np.arange(24) % 2])


@pytest.mark.full
@pytest.mark.parametrize("between", [-np.inf, -1e4, -200.0, -80.0])
def test_disconnected_chains(between):
    """One part leads by d here, the other there: exact at any d, and refused when far apart."""
    accepted = {}
    for d in (10, 30, 50, 56, 58, 60, 62, 64, 68, 80, 87, 100, 150, 200):
        parts = {"emissions": overtaken(d), "transitions": blocks(between)}
        parts |= {"start": np.zeros(4), "end": np.zeros(4)}
        accepted[d] = compare(parts, LABELS, rounding=lost_behind(d))
    assert accepted[10]
    assert accepted[30]
    if between < -100:
        assert not any(accepted[d] for d in accepted if d >= 68), accepted


@pytest.mark.full
def test_slowly_overtaken():
    """The lead comes and goes by a little at each position, where no single score is large."""
    accepted = {}
    for slope in (1, 3, 6, 8, 12, 20):
        emissions = overtaken(0)
        emissions[0, :12, :2] += slope
        emissions[0, 12:, 2:] += slope
        parts = {"emissions": emissions, "transitions": blocks(-np.inf)}
        parts |= {"start": np.zeros(4), "end": np.zeros(4)}
        accepted[slope] = compare(parts, LABELS, rounding=lost_behind(12 * slope))
    assert accepted[1]
    assert not accepted[8]
    assert not accepted[20]


@pytest.mark.selected("-inf")
@pytest.mark.parametrize("between", [-np.inf, -1e4, -120.0])
def test_sandwich(between):
    """A path d behind, 2.2 d ahead, d behind: it wins, though each end makes it look lost."""
    for d in (20, 45, 60, 70, 85, 100, 150):
        emissions = overtaken(0)
        emissions[0, :8, 2] -= d / 8
        emissions[0, 8:16, 2] += 2.2 * d / 8
        emissions[0, 16:, 2] -= d / 8
        emissions[:, :, 3] -= 300
        parts = {"emissions": emissions, "transitions": blocks(between)}
        parts |= {"start": np.zeros(4), "end": np.zeros(4)}
        labels = np.stack([LABELS[0], np.full(24, 2)])
        accepts = compare(parts, labels, rounding=lost_behind(1.2 * d))
        if d <= 20:
            assert accepts
        if d >= 85:
            assert not accepts


@pytest.mark.selected("50", "5000")
@pytest.mark.parametrize("d", [20, 50, 70, 100, 200, 5000])
def test_far_apart_boundaries(d):
    """What the start rules out the end demands."""
    parts = {"emissions": overtaken(0), "transitions": blocks(-np.inf)}
    parts["start"] = np.array([0.0, 0, -d, -d])
    parts["end"] = np.array([-d, -d, 0.0, 0])
    accepts = compare(parts, LABELS, rounding=lost_behind(d))
    assert accepts if d == 20 else not (accepts and d >= 70)


@pytest.mark.selected("20", "85")
@pytest.mark.parametrize("d", [20, 70, 85, 120, 200, 5000])
def test_lead_of_what_is_forbidden(d):
    """At one position a tag leads by d that can neither be reached nor left."""
    transitions = drawn.generator(2).normal(size=(4, 4)) / 4
    transitions[0], transitions[:, 0] = -np.inf, -np.inf
    parts = {"emissions": overtaken(0), "transitions": transitions}
    parts |= {"start": np.array([-np.inf, 0, 0, 0]), "end": np.array([-np.inf, 0, 0, 0])}
    parts["emissions"][0, 12, 0] += d
    accepts = compare(parts, 1 + LABELS % 3, rounding=lost_behind(d))
    assert accepts if d == 20 else not (accepts and d >= 85)


@pytest.mark.selected("70")
@pytest.mark.parametrize("d", [20, 70, 85, 200])
def test_lead_of_what_the_end_forbids(d):
    """At the last position a tag leads by d that no sequence may end with."""
    parts = {"emissions": overtaken(0), "transitions": drawn.generator(2).normal(size=(4, 4))}
    parts |= {"start": np.zeros(4), "end": np.array([-np.inf, 0, 0, 0])}
    parts["emissions"][0, -1, 0] += d
    accepts = compare(parts, 1 + LABELS % 3)
    assert accepts == (d == 20)


TAGS_AT_HAND = [1, 2, 9, 11, 17, 50]


@pytest.mark.selected("11")
@pytest.mark.parametrize("num_tags", TAGS_AT_HAND)
def test_ordinary_scores(num_tags):
    """Each number of tags that has loops of its own, ragged: accepted, and exact."""
    random = drawn.generator(num_tags)
    mask = random.random((3, 24)) < 0.8
    mask[0], mask[1, :7], mask[2, 15:] = True, False, False
    tags = random.integers(0, num_tags, (3, 24))
    for scale in (0.1, 1.0, 3.0, 10.0):
        parts = normal(random, 3, 24, num_tags, scale)
        parts["emissions"][~mask] = np.nan
        assert compare(
            parts | {"emissions": np.where(mask[:, :, None], parts["emissions"], 0)}, tags, mask
        ), scale


@pytest.mark.full
@pytest.mark.parametrize("num_tags", TAGS_AT_HAND)
def test_large_scores(num_tags):
    """Transitions up to hundreds and emissions up to 10⁴, accepted or not: exact."""
    random = drawn.generator(num_tags)
    mask = random.random((3, 24)) < 0.8
    mask[0], mask[1, :7], mask[2, 15:] = True, False, False
    tags = random.integers(0, num_tags, (3, 24))
    for of_emissions, of_transitions in [(1, 50), (30, 100), (1, 200), (3000, 1), (3000, 200)]:
        parts = normal(random, 3, 24, num_tags)
        # Of few binary digits, so that rounding of the scores themselves plays no part.
        parts = {n: np.round(np.clip(x, -3, 3) * 64) / 64 for n, x in parts.items()}
        parts["emissions"] *= of_emissions
        parts["transitions"] *= of_transitions
        compare(parts, tags, mask)


@pytest.mark.full
@pytest.mark.parametrize("forbidden", [-np.inf, -1e4])
def test_forbidden_transitions(forbidden):
    """A third of the transitions and a start forbidden, by −inf or a large number."""
    random = drawn.generator(5)
    mask = np.ones((3, 24), bool)
    mask[1, :9], mask[2, [3, 4, 17]] = False, False
    parts = normal(random, 3, 24, 9, 2.0)
    cells = random.random((9, 9)) < 0.33
    np.fill_diagonal(cells, False)
    parts["transitions"][cells] = forbidden
    parts["start"][4] = forbidden
    tags = np.stack([np.full(24, tag) for tag in (0, 3, 8)])
    assert compare(parts, tags, mask)


@pytest.mark.full
def test_one_position_far_ahead():
    """Emissions of ±10⁴ that leave one tag at each position, along dear transitions."""
    random = drawn.generator(6)
    parts = normal(random, 2, 24, 4)
    parts["emissions"] = np.where(random.random((2, 24, 4)) < 0.5, 1e4, -1e4)
    parts["transitions"] = np.round(random.uniform(-30, 30, (4, 4)))
    assert compare(parts, random.integers(0, 4, (2, 24)))


@pytest.mark.full
def test_thousands_of_positions():
    """4096 positions of ordinary scores in float32, with gradients near those of float64."""
    random = drawn.generator(7)
    parts, tags = normal(random, 4, 4096, 4), random.integers(0, 4, (4, 4096))
    assert compare(parts, tags, bounds={"emissions": 1e-6, "transitions": 1e-2})
