"""CMC loss: the recorded reference, nested loops, and properties."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modeling_tgdt import CMCLoss, TGDTConfig, TGDTModel, token_similarity
from modeling_tgdt.objectives_tgdt import both_ways, hinge
from tests.modeling_tgdt import tiny
from tests.reference import REFERENCE, load_alignment

GLOBAL_ONLY = {"local_weight": 0.0}
LOCAL_ONLY = {"global_weight": 0.0, "intra_weight": 0.0}


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs, materialize_grads=True)


@pytest.mark.parametrize("hardest", [True, False], ids=["maxviol", "sumviol"])
@pytest.mark.parametrize(("kind", "intra_weight"), [("cmc", 1.0), ("contrastive", 0.0)])
def test_recorded_matching_loss(hardest, kind, intra_weight):
    data = load_file(REFERENCE / "losses_matching.safetensors")
    images, texts = data["im"].requires_grad_(), data["s"].requires_grad_()
    loss = CMCLoss(intra_weight=intra_weight, hardest_negatives=hardest, **GLOBAL_ONLY)(images, texts)["loss"]
    prefix = f"{'maxviol' if hardest else 'sumviol'}.{kind}"
    torch.testing.assert_close(loss, data[f"{prefix}.loss"], rtol=1e-5, atol=0)
    expected = (data[f"{prefix}.grad_im"], data[f"{prefix}.grad_s"])
    torch.testing.assert_close(gradients(loss, images, texts), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("objective", "grows"), [("hinge", 3.0), ("infonce", 1.0), ("sigmoid", 1.0)])
def test_the_consistency_term_is_a_sum_or_a_mean_as_its_objective_is(objective, grows):
    """Rows repeated three times: their largest gaps stay, a sum is three times as large and a mean the same."""
    images, texts = torch.eye(4)[:, :3].contiguous(), torch.ones(4, 3)
    loss = CMCLoss(intra_margin=0.1, objective=objective, global_weight=0, local_weight=0)
    one, three = (loss(images.repeat(n, 1), texts.repeat(n, 1))["intra"] for n in (1, 3))
    assert one > 0 and three == pytest.approx(float(grows * one))


def test_recorded_intra_term_and_single_pair():
    data = load_file(REFERENCE / "losses_matching.safetensors")
    images, texts = data["im"].requires_grad_(), data["s"].requires_grad_()
    loss = CMCLoss(global_weight=0, local_weight=0)(images, texts)["intra"]
    torch.testing.assert_close(loss, data["intra.loss"], rtol=1e-5, atol=0)
    expected = (data["intra.grad_im"], data["intra.grad_s"])
    torch.testing.assert_close(gradients(loss, images, texts), expected, rtol=0, atol=2e-5)
    assert CMCLoss(**GLOBAL_ONLY)(images[:1], texts[:1])["loss"].item() == data["single.loss"].item() == 0


def test_recorded_loss_of_embeddings_that_are_not_unit():
    data = load_file(REFERENCE / "losses_matching.safetensors")
    images, texts = data["unnorm.im"].requires_grad_(), data["unnorm.s"].requires_grad_()
    loss = CMCLoss(**GLOBAL_ONLY)(images, texts)["loss"]
    torch.testing.assert_close(loss, data["unnorm.dot.loss"], rtol=1e-5, atol=0)
    expected = (data["unnorm.dot.grad_im"], data["unnorm.dot.grad_s"])
    torch.testing.assert_close(gradients(loss, images, texts), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("hardest", [True, False], ids=["maxviol", "sumviol"])
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("name", ["equal", "ragged", "edge"])
def test_recorded_alignment_loss(name, scale, hardest):
    data, regions, words = load_alignment(name)
    images, texts = data["im_set"].requires_grad_(), data["s_seq"].requires_grad_()
    # The reference lets padded regions into the maximum with similarity 0: zero rows, no mask.
    zero_filled = (images * torch.nn.functional.pad(regions, (1, 0))[..., None])[:, 1:]
    loss_module = CMCLoss(hardest_negatives=hardest, scale=scale, **LOCAL_ONLY)
    loss = loss_module(None, None, zero_filled, texts, None, words)["loss"]
    prefix = f"x{scale:.0f}.{'maxviol' if hardest else 'sumviol'}"
    torch.testing.assert_close(loss, data[f"{prefix}.loss"], rtol=1e-5, atol=0)
    expected = (data[f"{prefix}.grad_im_set"], data[f"{prefix}.grad_s_seq"])
    torch.testing.assert_close(gradients(loss, images, texts), expected, rtol=0, atol=2e-5)


def slow_hinge(scores, ids, margin, hardest):
    total = scores.sum() * 0
    for score in (scores, scores.T):
        for i in range(len(score)):
            costs = [(margin + score[i, j] - score[i, i]).clamp(min=0) for j in range(len(score)) if ids[i] != ids[j]]
            if costs:
                total = total + (torch.stack(costs).max() if hardest else torch.stack(costs).sum())
    return total


def slow_cmc(images, texts, regions, words, region_mask, word_mask, ids, hardest):
    unit = images @ texts.T
    local = token_similarity(regions, words, region_mask, word_mask, reduction="mean")
    ranked = 4 * slow_hinge(local, ids, 0.05, hardest)  # in units of the global margin, 0.2
    intra = images.sum() * 0
    for i in range(len(images)):
        gaps = [(texts[i] @ texts[j] - images[i] @ images[j]).abs() for j in range(len(images))]
        intra = intra + (torch.stack(gaps).max() - 0.1).clamp(min=0)
    return 2 * slow_hinge(unit, ids, 0.2, hardest) + 3 * ranked + 0.5 * intra


def random_pairs(seed, batch):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.nn.functional.normalize(  # noqa: E731
        torch.randn(*shape, 6, generator=generator, dtype=torch.float64), dim=-1
    )
    masks = torch.rand(batch, 5, generator=generator) < 0.7, torch.rand(batch, 4, generator=generator) < 0.7
    ids = torch.randint(0, max(2, batch - 1), (batch,), generator=generator)
    return (draw(batch), draw(batch), draw(batch, 5), draw(batch, 4), *masks), ids


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 7), hardest=st.booleans())
def test_values_and_gradients_equal_nested_loops(seed, batch, hardest):
    inputs, ids = random_pairs(seed, batch)
    tensors = [t.clone().requires_grad_() for t in inputs[:4]]
    loss_module = CMCLoss(0.2, 0.1, 2.0, 3.0, 0.5, hardest, reduction="mean", local_margin=0.05)
    loss = loss_module(*tensors, *inputs[4:], image_ids=ids)["loss"]
    expected = slow_cmc(*tensors, *inputs[4:], ids, hardest)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, *tensors), gradients(expected, *tensors))


def local_loss(objective, wrong_words, **options):
    """The token term of two photos of twelve things each, one thing per word, which differ in `wrong_words` things."""
    things = torch.eye(24)
    words = torch.stack([things[:12], torch.cat([things[12 : 12 + wrong_words], things[wrong_words:12]])])
    config = TGDTConfig(objective=objective, **options)
    loss_module = TGDTModel.loss_module(SimpleNamespace(config=config, logit_scales=None))
    return loss_module(torch.eye(2), torch.eye(2), words, words)["local"].item()


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("objective", ["hinge", "infonce", "sigmoid"])
def test_one_wrong_word_of_twelve_settles_the_token_loss(objective, hardest):
    # The sigmoid's bias puts the even score between the two: 1 and 11/12.
    options = {"hardest_negatives": hardest, "local_sigmoid_bias": -(23 / 24) / 0.015}
    alike, told_apart = (local_loss(objective, wrong, **options) for wrong in (0, 1))
    assert told_apart < 0.1 * alike
    # With the global term's temperature and margin much of it stays, and writing the caption into every word pays.
    blunt = options | {"local_temperature": 0.05, "local_margin": 0.2, "local_sigmoid_bias": -(23 / 24) / 0.05}
    assert local_loss(objective, 1, **blunt) > 0.2 * local_loss(objective, 0, **blunt)


def test_both_hinges_charge_the_margin_for_what_is_not_told_apart():
    assert local_loss("hinge", 0) == pytest.approx(4 * 0.2)
    assert local_loss("hinge", 0, local_margin=0.01, margin=0.5) == pytest.approx(4 * 0.5)
    assert local_loss("hinge", 1, local_margin=0.2) == pytest.approx(4 * (0.2 - 1 / 12))


def test_distillation_reads_tokens_at_their_own_temperature():
    inputs, _ = random_pairs(6, 4)
    scores = token_similarity(*inputs[2:], reduction="mean")
    options = {"intra_weight": 0, "global_weight": 0, "local_weight": 0, "distill_weight": 1.0, "reduction": "mean"}
    found = CMCLoss(temperature=0.1, local_temperature=0.04, distill_temperature=0.5, **options)(*inputs)["distill"]
    expected = 0
    for teacher, student in ((scores, inputs[0] @ inputs[1].T), (scores.T, inputs[1] @ inputs[0].T)):
        target = (teacher / 0.2).softmax(1)
        expected += (target * (target.log() - (student / 0.5).log_softmax(1))).sum() / 8
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("objective", ["infonce", "sigmoid"])
def test_learned_temperatures_start_at_their_fields_and_get_their_gradient(objective):
    inputs, ids = random_pairs(9, 5)
    numbers = {"temperature": 0.2, "local_temperature": 0.1, "sigmoid_bias": -3.0, "local_sigmoid_bias": -5.0}
    options = {"objective": objective, "reduction": "mean", "intra_weight": 0}
    learned = CMCLoss(**options, **numbers, learnable_temperature=True)
    loss = learned(*inputs, image_ids=ids)["loss"]
    torch.testing.assert_close(loss, CMCLoss(**options, **numbers)(*inputs, image_ids=ids)["loss"], rtol=1e-5, atol=0)
    loss.backward()

    def fixed(**changed):
        return CMCLoss(**options, **(numbers | changed))(*inputs, image_ids=ids)["loss"].item()

    step = 1e-4
    for term, name in enumerate(("temperature", "local_temperature")):
        up, down = (fixed(**{name: numbers[name] * math.exp(-sign * step)}) for sign in (1, -1))
        assert learned.logit_scales.log_scale.grad[term].item() == pytest.approx((up - down) / (2 * step), rel=1e-3)
    for term, name in enumerate(("sigmoid_bias", "local_sigmoid_bias") if objective == "sigmoid" else ()):
        up, down = (fixed(**{name: numbers[name] + sign * step}) for sign in (1, -1))
        assert learned.logit_scales.bias.grad[term].item() == pytest.approx((up - down) / (2 * step), rel=1e-3)
    assert {name for name, _ in learned.named_parameters()} == {
        f"logit_scales.{name}" for name in (("log_scale", "bias") if objective == "sigmoid" else ("log_scale",))
    }


def test_learned_temperatures_stop_at_their_bounds_and_find_back():
    loss = CMCLoss(objective="infonce", learnable_temperature=True, **GLOBAL_ONLY, intra_weight=0)
    with torch.no_grad():
        loss.logit_scales.log_scale.fill_(20.0)
    inputs, _ = random_pairs(10, 5)
    found = loss(*inputs[:2])["loss"]
    expected = CMCLoss(objective="infonce", temperature=1 / 500, **GLOBAL_ONLY, intra_weight=0)(*inputs[:2])["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    found.backward()
    assert loss.logit_scales.log_scale.grad[0] > 0  # a wrong ranking asks for a softer one


def test_a_model_learns_its_temperatures_and_adds_them_to_a_saved_one(tmp_path):
    fixed = tiny.tiny_model(objective="sigmoid")
    fixed.save_pretrained(tmp_path)
    model = TGDTModel.from_pretrained(tmp_path, learnable_temperature=True, local_temperature=0.02)
    torch.testing.assert_close(model.logit_scales.log_scale.exp(), torch.tensor([20.0, 50.0]))
    assert model.logit_scales.bias.tolist() == [-10.0, -33.0]
    inputs = tiny.text_inputs() | tiny.region_inputs()
    output = model(**inputs, return_loss=True)
    output.loss.backward()
    assert (model.logit_scales.log_scale.grad != 0).all() and (model.logit_scales.bias.grad != 0).all()
    alone = model.loss_module()(
        output.image_embeds, output.text_embeds, output.image_token_embeds, output.text_token_embeds,
        output.image_token_mask, output.text_token_mask,
    )  # fmt: skip
    torch.testing.assert_close(alone["loss"], output.loss)


def test_zero_at_the_margin():
    similarity = torch.tensor([[0.5, 0.25], [0.25, 0.5]])
    negatives = both_ways(~torch.eye(2, dtype=torch.bool))
    assert hinge(both_ways(similarity), negatives, 0.25, True).item() == 0
    nearer = similarity + torch.tensor([[0, 0.125], [0, 0]])
    assert hinge(both_ways(nearer), negatives, 0.25, True).item() == 0.25


def test_hardest_negative_is_the_one_picked_by_hand():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0.9, 1.0, 0], [0.1, 0, 1.0]]).requires_grad_()
    CMCLoss(margin=0.5, intra_weight=0, **GLOBAL_ONLY)(images, texts)["loss"].backward()
    # image 0: captions 1 (0.9) and 2 (0.1) both stand near 1.0 - 0.5; only caption 1 is the hardest, and it pays.
    assert texts.grad[1, 0] == 2 and texts.grad[2, 0] == 0


def slow_inter(score, pairs, images, texts, is_negative, objective, hardest):
    """An inter-modal term over single cells: `score(i, j)` of image i and caption j; pairs come first on each side."""
    temperature, bias, margin = 0.1, -2.0, 0.3
    rows = [(p, [("i2t", p, j) for j in range(texts)]) for p in range(pairs)]
    rows += [(p, [("t2i", i, p) for i in range(images)]) for p in range(pairs)]
    total, seen = 0, set()
    for p, cells in rows:
        positive = score(p, p)
        found = [score(i, j) for _, i, j in cells if is_negative(i, j)]
        if objective == "hinge":
            costs = [(margin + other - positive).clamp(min=0) for other in found]
            total = total + ((max(costs) if hardest else sum(costs)) if costs else 0)
        elif objective == "infonce":
            logits = torch.stack([positive, *found]) / temperature
            total = total - logits.log_softmax(0)[0] / (2 * pairs)
        else:
            for _, i, j in cells:
                if (i, j) not in seen and (i == j or is_negative(i, j)):
                    logit = score(i, j) / temperature + bias
                    total = total - torch.nn.functional.logsigmoid(logit if i == j else -logit) / pairs
                seen.add((i, j))
    return total


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), pairs=st.integers(1, 4), more_images=st.integers(0, 3), more_texts=st.integers(0, 3),
    objective=st.sampled_from(["hinge", "infonce", "sigmoid"]), hardest=st.booleans(), named=st.booleans(),
)  # fmt: skip
def test_hard_negatives_equal_nested_loops(seed, pairs, more_images, more_texts, objective, hardest, named):
    images, texts = pairs + more_images, pairs + more_texts
    generator = torch.Generator().manual_seed(seed)
    embeds = [tensor[:count] for tensor, count in zip(random_pairs(seed, 8)[0], [images, texts] * 3, strict=True)]
    leaves = [tensor.clone().requires_grad_() for tensor in embeds[:4]]
    image_ids = torch.randint(0, 5, (images,), generator=generator) if named else None
    caption_ids = torch.randint(0, 5, (texts,), generator=generator) if named else None
    options = {"objective": objective, "temperature": 0.1, "sigmoid_bias": -2.0, "reduction": "mean"}
    loss = CMCLoss(0.3, 0.1, 2.0, 3.0, 0.5, hardest, **options)
    found = loss(*leaves, *embeds[4:], image_ids, caption_ids, pairs)["loss"]

    def is_negative(i, j):
        if i == j or (i >= pairs and j >= pairs):
            return False
        same_photo = named and j < pairs and image_ids[i] == image_ids[j]
        same_text = named and i < pairs and caption_ids[i] == caption_ids[j]
        return not (same_photo or same_text)

    local = token_similarity(leaves[2], leaves[3], *embeds[4:], reduction="mean")
    arguments = (pairs, images, texts, is_negative, objective, hardest)
    expected = 2 * slow_inter(lambda i, j: leaves[0][i] @ leaves[1][j], *arguments)
    expected = expected + 3 * slow_inter(lambda i, j: local[i, j], *arguments)
    gap = (leaves[1] @ leaves[1].T)[:pairs, :pairs] - (leaves[0] @ leaves[0].T)[:pairs, :pairs]
    intra = (gap.abs().max(1).values - 0.1).clamp(min=0).sum()
    expected = expected + 0.5 * (intra if objective == "hinge" else intra / pairs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, *leaves), gradients(expected, *leaves))


@pytest.mark.parametrize("objective", ["hinge", "infonce", "sigmoid"])
def test_cut_embeddings_are_ranked_as_whole_ones(objective):
    inputs, _ = random_pairs(11, 6)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs[:2]]
    options = {"objective": objective, "temperature": 0.1, "sigmoid_bias": -2.0, "intra_weight": 0}
    found = CMCLoss(0.3, global_weight=2.0, matryoshka_dims=[2, 3], **options, local_weight=0)(*leaves, num_pairs=4)
    arguments = (4, 6, 6, lambda i, j: i != j and min(i, j) < 4, objective, True)
    terms = [
        slow_inter(lambda i, j, d=dim: torch.cosine_similarity(leaves[0][i, :d], leaves[1][j, :d], dim=0), *arguments)
        for dim in (2, 3)
    ]
    torch.testing.assert_close(found["matryoshka"], (terms[0] + terms[1]) / 2)
    expected = 2 * slow_inter(lambda i, j: leaves[0][i] @ leaves[1][j], *arguments) + terms[0] + terms[1]
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(gradients(found["loss"], *leaves), gradients(expected, *leaves))
    untold = CMCLoss(matryoshka_dims=[2], **(options | LOCAL_ONLY))(*inputs)
    assert set(untold) == {"loss", "local"}  # without weight of the global term there is nothing to cut


def test_captions_of_one_text_are_no_negatives_of_each_others_photos():
    inputs, _ = random_pairs(7, 4)
    ids, texts = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 6, 5, 7])
    loss = CMCLoss(objective="infonce", intra_weight=0, local_weight=0)
    images, captions = (tensor.clone().requires_grad_() for tensor in inputs[:2])
    (gradient,) = gradients(loss(images, captions, image_ids=ids, caption_ids=texts)["loss"], images)
    shares = torch.linalg.lstsq(captions.T, gradient[0]).solution  # what moves photo 0: its own caption, 1 and 3
    assert abs(shares[2]) < 1e-12 < min(abs(shares[1]), abs(shares[3]))


def test_distillation_reads_hard_negatives_too():
    inputs, _ = random_pairs(8, 4)
    options = {"intra_weight": 0, "global_weight": 0, "local_weight": 0, "distill_weight": 1.0}
    rows = [tensor[:3] if side % 2 == 0 else tensor for side, tensor in enumerate(inputs)]  # a caption beyond 3 pairs
    found = CMCLoss(**options)(*rows, num_pairs=3)["distill"]
    teacher, student = token_similarity(*(rows[k] for k in (2, 3, 4, 5))) / 0.05, rows[0] @ rows[1].T / 0.05
    expected = 0
    for t, s in ((teacher, student), (teacher[:, :3].T, student[:, :3].T)):
        expected += (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum() / 6
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("objective", ["hinge", "infonce", "sigmoid"])
@pytest.mark.parametrize("hardest", [True, False])
def test_captions_of_one_photo_are_no_negatives(objective, hardest):
    inputs, _ = random_pairs(1, 4)
    ids = torch.tensor([0, 0, 1, 2])
    loss_module = CMCLoss(intra_weight=0, hardest_negatives=hardest, objective=objective, local_weight=0)
    images, texts = inputs[0].clone().requires_grad_(), inputs[1]
    similarity = (images @ texts.T).detach()
    loss = loss_module(images, texts, image_ids=ids)["loss"]
    moved = texts.clone()
    moved[1] += 0.3 * images[0].detach()  # caption 1 comes nearer to image 0, which shows the same photo
    if objective != "hinge":
        (gradient,) = torch.autograd.grad(loss, images)
        shares = torch.linalg.lstsq(texts.T, gradient[0]).solution if len(texts) <= 6 else None
        assert shares is not None and abs(shares[1]) < 1e-12 < abs(shares[2])
    else:
        only = hinge(both_ways(similarity), both_ways(ids[:, None] != ids[None]), 0.2, hardest)
        assert loss.item() == pytest.approx(only.item())
    everything_same = loss_module(images, texts, image_ids=torch.zeros(4, dtype=torch.long))["loss"]
    if objective == "hinge":
        assert everything_same.item() == 0


def test_infonce_and_sigmoid_equal_their_definitions():
    inputs, _ = random_pairs(2, 5)
    scores = inputs[0] @ inputs[1].T
    options = {"intra_weight": 0, "local_weight": 0, "temperature": 0.1}
    infonce = CMCLoss(objective="infonce", **options)(*inputs[:2])["loss"]
    rows = [
        -torch.log(torch.exp(10 * s[i, i]) / torch.exp(10 * s[i]).sum()) for s in (scores, scores.T) for i in range(5)
    ]
    torch.testing.assert_close(infonce, torch.stack(rows).mean())
    sigmoid = CMCLoss(objective="sigmoid", sigmoid_bias=-2.0, **options)(*inputs[:2])["loss"]
    cells = [
        torch.log(1 + torch.exp(-(1 if i == j else -1) * (10 * scores[i, j] - 2))) for i in range(5) for j in range(5)
    ]
    torch.testing.assert_close(sigmoid, torch.stack(cells).sum() / 5)


def test_distillation_vanishes_only_when_stage_one_agrees():
    inputs, _ = random_pairs(3, 4)
    tokens = [t[:, None].clone().requires_grad_() for t in inputs[:2]]
    options = {"intra_weight": 0, "global_weight": 0, "local_weight": 0, "distill_weight": 1.0}
    agreed = CMCLoss(**options)(*inputs[:2], *tokens)["distill"]
    assert agreed.item() == pytest.approx(0, abs=1e-12)
    images = inputs[0].clone().requires_grad_()
    other = CMCLoss(**options)(images, inputs[1].flip(0), *tokens)
    assert other["distill"] > 0.1
    other["loss"].backward()
    assert images.grad.abs().sum() > 0 and all(t.grad is None for t in tokens)  # the teacher is not taught


def test_components_follow_their_weights():
    inputs, ids = random_pairs(4, 5)
    full = CMCLoss(global_weight=2, local_weight=3, intra_weight=4, intra_margin=0.0)(*inputs, image_ids=ids)
    total = 2 * full["global"] + 3 * full["local"] + 4 * full["intra"]
    torch.testing.assert_close(full["loss"], total)
    assert set(CMCLoss(**GLOBAL_ONLY)(*inputs)) == {"loss", "global", "intra"}


def test_batch_order_changes_nothing():
    inputs, ids = random_pairs(5, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = CMCLoss()
    shuffled = loss(*(t[order] for t in inputs), image_ids=ids[order])
    torch.testing.assert_close(shuffled, loss(*inputs, image_ids=ids))


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, (torch.eye(2), torch.eye(2)), "image_tokens is missing"),
        (LOCAL_ONLY | {"local_weight": 0.0}, (torch.eye(2), torch.eye(2)), "Every weight of the loss is 0"),
        (GLOBAL_ONLY, (torch.eye(2), torch.eye(3, 2)), "batch sizes must be equal.*Pass num_pairs"),
        (GLOBAL_ONLY, (*[torch.eye(2)] * 2, *[None] * 4, torch.arange(3)), "batch sizes must be equal on each side"),
        (
            GLOBAL_ONLY,
            (*[torch.eye(2)] * 2, *[None] * 6, 3),
            "num_pairs must be between 1 and the rows of either side",
        ),
    ],
)
def test_errors_name_what_was_found(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        CMCLoss(**options)(*arguments)
    with pytest.raises(ValueError, match="objective must be"):
        CMCLoss(objective="triplet")
    with pytest.raises(ValueError, match="learnable_temperature needs"):
        CMCLoss(learnable_temperature=True)
