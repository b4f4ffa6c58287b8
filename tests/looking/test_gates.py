"""Every mechanism: which pictures it has, and that these are what it did."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import attnsurgeon
from attnsurgeon.attention.pictures import PICTURES
from attnsurgeon.attention.registry import mechanisms
from tests.looking.operated import fresh, handed, image, looked, operated

# What a person of the field would draw of each; the main one first.
MAIN = {
    "se": "channel",
    "cmpe-se": "fusion",
    "ge": "channel",
    "gsop": "channel",
    "srm": "channel",
    "sk": "branches",
    "dia": "channel",
    "eca": "channel",
    "spa": "channel",
    "fca": "channel",
    "psa": "branches",
    "tse": "both",
    "nam": "both weights",
    "ran": "both",
    "sge": "both",
    "ulsam": "both",
    "scse": "both",
    "bam": "both",
    "sa": "both",
    "triplet": "both",
    "cbam": "channel spatial",
    "sc": "both",
    "coord": "both",
    "simam": "both",
    "dca": "channel",
    "we": "weights",
    "atac": "both",
    "aff": "fusion",
    "iaff": "fusion",
    "aw": "weights",
    "ba2m": "samples",
    "interflow": "stages",
    "csra": "classes",
    "crisscross": "attention blend",
    "s2": "branches",
    "soca": "channel",
    "gam": "both",
    "ese": "channel",
    "gct": "channel",
    "gc": "attention",
    "nl": "attention",
    "generalized": "attention blend",
    "a2": "attention",
    "bat": "attention",
    "danet": "attention",
    "external": "attention",
    "lka": "both",
    "ela": "both",
    "mlca": "both",
    "mca": "both",
    "ema": "both",
    "polarized": "both",
    "dyrelu": "branches",
    "frelu": "branches",
    "acon": "both",
    "cot": "branches attention",
    "splat": "branches",
    "involution": "attention",
    "bot": "attention",
    "halo": "attention",
    "lambda": "attention",
    "odconv": "branches",
    "dyconv": "branches",
    "condconv": "branches",
    "attention-gate": "spatial",
}
BLENDED = ["ge", "sk", "psa", "nam", "ran", "ulsam", "bam", "sc", "simam", "atac", "csra", "s2"]
BLENDED += ["polarized", "dyrelu", "frelu", "acon", "cot", "splat", "involution"]
BLENDED += ["bot", "halo", "lambda"]
BLENDED += ["attention-gate", "bat"]
# Whose picture is a factor that goes through a convolution, which is then blended in.
INSIDE = ["attention-gate"]
# Of what is replaced for good, nothing is left to compare with.
GONE = ["sk", "psa", "sc", "atac", "csra"]
GONE += ["dyrelu", "frelu", "acon", "cot", "splat", "involution", "bot", "halo", "lambda"]
# One of each kind while working; all of them in the slow suite.
FAST = ["se", "cbam", "sa", "sk", "aff", "csra"]
# Of what is asked of no map.
FLAT = ["we", "aw", "interflow", "odconv", "dyconv", "condconv"]
# Whose code multiplies once, so that the same product gives the same last digit.
ONE_PRODUCT = [
    "se",
    "gsop",
    "srm",
    "eca",
    "spa",
    "fca",
    "soca",
    "dia",
    "dca",
    "ran",
    "tse",
    "simam",
    "ese",
    "gct",
]
starts = pytest.mark.parametrize("init", ["identity", "paper"])


def of(names):
    """Cases of the mechanisms, of which some are for the slow suite."""
    marks = ((), (pytest.mark.slow,))
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=marks[n not in FAST]) for n in names]
    )


each = of(MAIN)


def test_every_mechanism_is_in_the_table():
    assert list(MAIN) == list(mechanisms())


@pytest.mark.parametrize("name", MAIN)
def test_a_card_says_which_pictures_a_mechanism_has(name):
    card = mechanisms()[name]
    assert card.picture.names == tuple(MAIN[name].split())
    assert set(card.picture.names) <= set(PICTURES)
    assert card.picture.how.strip()
    assert not card.picture.how.endswith(".")


@each
@starts
def test_a_mechanism_has_the_pictures_that_its_card_names(name, init):
    model, found, given = looked(name, init)
    assert list(found) == list(given)
    for path, site in found.items():
        expected = MAIN[name].split()
        if init == "identity" and name in BLENDED:
            expected.append("blend")
        if not (init == "paper" and name in GONE):
            expected.append("change")
        assert list(site) == expected
        assert site.mechanism == name
        assert site.kind == mechanisms()[name].kind
        assert not site.off
        values, _ = given[path]
        for picture in site.values():
            assert not picture.requires_grad
            assert picture.isfinite().all()
        if "blend" in site:
            part = model.get_submodule(path)
            weights = [p for n, p in part.named_parameters() if n.endswith(("g", "gamma"))]
            assert torch.equal(site["blend"], weights[0].reshape(()))
        if "channel" in site:
            assert site["channel"].shape == values[0].shape[:2]
        if "both" in site and name != "sc":
            assert site["both"].shape == values[0].shape
        assert site.resolution == (() if name in FLAT else values[0].shape[2:])


GATES = [n for n, names in MAIN.items() if {"channel", "spatial", "both"} & {*names.split()}]


def product(site, x: Tensor) -> Tensor:
    """The value times what the pictures say that it is multiplied by."""
    if "channel" in site:
        x = x * site["channel"][(..., *[None] * (x.dim() - 2))]
    if "spatial" in site:
        x = x * site["spatial"].unsqueeze(1)
    return x * site["both"] if "both" in site else x


@of([n for n in GATES if n not in ("sc", "atac", "acon", *INSIDE)])
@starts
def test_what_a_site_hands_on_is_what_it_was_given_times_its_gates(name, init):
    _, found, given = looked(name, init)
    for path, (values, output) in given.items():
        made = product(found[path], values[0])
        if name == "sa" and init == "paper":
            made = F.channel_shuffle(made, 2)
        torch.testing.assert_close(made, output, rtol=1e-12, atol=1e-12)
        blended = init == "identity" and name in BLENDED
        if name in ONE_PRODUCT and not blended:
            assert torch.equal(made, output)
    assert any(not torch.equal(made, values[0]) for values, made in given.values())


@of(["cmpe-se", "aff", "iaff"])
@starts
def test_a_fusion_adds_its_terms_times_their_weights(name, init):
    _, found, given = looked(name, init)
    for path, ((branch, shortcut), output) in given.items():
        weights = found[path]["fusion"]
        weights = weights if weights.dim() == 5 else weights[..., None, None]
        made = branch * weights[:, 0] + shortcut * weights[:, 1]
        torch.testing.assert_close(made, output, rtol=1e-12, atol=1e-12)
        assert found[path]["fusion"].dim() == (3 if name == "cmpe-se" else 5)


@pytest.mark.parametrize(
    "args",
    [{}, *(pytest.param({"form": f}, marks=pytest.mark.slow) for f in ("mwe", "both"))],
    ids=str,
)
@starts
def test_a_weight_is_multiplied_by_its_picture(args, init):
    _, found, given = looked("we", init, **args)
    for path, ((weight,), output) in given.items():
        torch.testing.assert_close(weight * found[path]["weights"], output, rtol=1e-12, atol=1e-12)
        assert found[path]["change"].shape == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("args", [{}, {"residual": False}, {"shared": 16}], ids=str)
@starts
def test_each_image_has_a_weight_of_its_own(args, init):
    _, found, given = looked("aw", init, **args)
    for path, ((weight, _value), output) in given.items():
        made = weight * found[path]["weights"]
        whole = sum(output) if isinstance(output, tuple) else output
        torch.testing.assert_close(made, whole.expand_as(made), rtol=1e-12, atol=1e-12)
        assert found[path]["weights"].shape == (2, *weight.shape)
    assert any(not torch.equal(*site["weights"]) for site in found.values())


@each
def test_a_start_as_identity_changes_nothing_yet(name):
    for site in attnsurgeon.gates(fresh(name), image()).values():
        assert torch.equal(site["change"], torch.zeros_like(site["change"]))
        assert site.get("blend", 0) == 0
        if site.kind in ("gate", "linked") and name not in INSIDE:
            for picture in {"channel", "spatial", "both", "samples"} & {*site}:
                assert torch.equal(site[picture], torch.ones_like(site[picture]))


@each
def test_change_is_the_ratio_of_two_norms(name):
    _, found, given = looked(name, "identity")
    for path, (values, output) in given.items():
        kind = mechanisms()[name].kind
        old = values[0]
        if kind == "fusion":
            old = values[0] + values[1]
        elif kind in ("conv", "activation") or name == "csra":
            old = values[-1]
        if kind == "weight":
            made = sum(output) if isinstance(output, tuple) else output[None]
            pairs = [(old, one) for one in made]
        else:
            pairs = list(zip(old, output, strict=True))
        expected = torch.tensor([float((m - o).norm() / o.norm()) for o, m in pairs]).double()
        torch.testing.assert_close(found[path]["change"], expected, rtol=1e-6, atol=1e-12)


# Plain equations of the mechanisms, from the module's weights and what it was given.
def sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-z))


def normed(norm, z: Tensor) -> Tensor:
    """A batch norm in evaluation, its channels on axis 1."""
    shape = (1, -1, *[1] * (z.dim() - 2))
    mean, var = (t.reshape(shape) for t in (norm.running_mean, norm.running_var))
    scale, shift = (t.reshape(shape) for t in (norm.weight, norm.bias))
    return (z - mean) / torch.sqrt(var + norm.eps) * scale + shift


def by_se(m, x):
    hidden = torch.relu(x.mean((2, 3)) @ m.fc1.weight.T + m.fc1.bias)
    return {"channel": sigmoid(hidden @ m.fc2.weight.T + m.fc2.bias)}


def by_eca(m, x):
    pooled = x.mean((2, 3))
    k = m.conv.weight.flatten()
    wide = F.pad(pooled, (len(k) // 2, len(k) // 2))
    z = sum(k[i] * wide[:, i : i + pooled.shape[1]] for i in range(len(k)))
    return {"channel": sigmoid(z)}


def by_srm(m, x):
    z = m.w[:, 0] * x.mean((2, 3)) + m.w[:, 1] * torch.sqrt(x.var((2, 3)) + 1e-5)
    return {"channel": sigmoid(normed(m.norm, z))}


def by_ge(m, x):
    return {"channel": sigmoid(x.mean((2, 3)))}


def by_soca(m, x):
    pooled = []
    for one in x.flatten(2):
        covariance = torch.cov(one, correction=0)
        trace = covariance.trace()
        y, z = covariance / trace, torch.eye(len(one)).double()
        for _ in range(m.iterations):
            t = 0.5 * (3 * torch.eye(len(one)).double() - z @ y)
            y, z = y @ t, t @ z
        pooled.append((y * trace.sqrt()).mean(0))
    hidden = torch.relu(torch.stack(pooled) @ m.fc1.weight.T + m.fc1.bias)
    return {"channel": sigmoid(hidden @ m.fc2.weight.T + m.fc2.bias)}


def by_cbam(m, x):
    def mlp(z):
        return torch.relu(z @ m.fc1.weight.T + m.fc1.bias) @ m.fc2.weight.T + m.fc2.bias

    channel = sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))
    u = x * channel[..., None, None]
    planes = torch.stack((u.amax(1), u.mean(1)), dim=1)
    spatial = sigmoid(normed(m.norm, F.conv2d(planes, m.conv.weight, padding=3)))
    return {"channel": channel, "spatial": spatial[:, 0]}


def by_simam(m, x):
    d = (x - x.mean((2, 3), keepdim=True)) ** 2
    n = x.shape[2] * x.shape[3] - 1
    return {"both": sigmoid(d / (4 * (d.sum((2, 3), keepdim=True) / n + m.e_lambda)) + 0.5)}


def by_bam(m, x):
    channel = m.fc2(torch.relu(normed(m.norm, m.fc1(x.mean((2, 3))))))
    return {"both": 1 + sigmoid(channel[..., None, None] * m.conv(m.dilate(m.reduce(x))))}


def by_scse(m, x):
    hidden = torch.relu(x.mean((2, 3)) @ m.fc1.weight.T + m.fc1.bias)
    c = sigmoid(hidden @ m.fc2.weight.T + m.fc2.bias)[..., None, None].expand_as(x)
    s = sigmoid(F.conv2d(x, m.conv.weight, m.conv.bias)).expand_as(x)
    tied = (c + s) / 2  # where x is 0
    return {"both": torch.where(x * c > x * s, c, torch.where(x * c < x * s, s, tied))}


def by_sge(m, x):
    n, channels = x.shape[:2]
    gate = torch.empty_like(x)
    width = channels // m.groups
    for image_ in range(n):
        for group in range(m.groups):
            part = x[image_, group * width : (group + 1) * width]
            t = (part * part.mean((1, 2), keepdim=True)).sum(0)
            t = (t - t.mean()) / (t.std() + 1e-5)
            gate[image_, group * width : (group + 1) * width] = sigmoid(
                m.weight[group] * t + m.bias[group]
            )
    return {"both": gate}


def by_triplet(m, x):
    total = torch.zeros_like(x)
    for axis, (conv, norm) in enumerate(zip(m.convs, m.norms, strict=True), start=1):
        turned = x.transpose(1, axis)
        pooled = torch.stack((turned.amax(1), turned.mean(1)), dim=1)
        gate = sigmoid(normed(norm, F.conv2d(pooled, conv.weight, padding=3)))
        total = total + gate.transpose(1, axis)
    return {"both": total / 3}


def by_coord(m, x):
    rows, columns = x.mean(3), x.mean(2)
    z = F.hardswish(normed(m.norm, m.conv(torch.cat((rows, columns), dim=2))))
    a, b = z[..., : x.shape[2]], z[..., x.shape[2] :]
    return {"both": sigmoid(m.convs[0](a))[..., None] * sigmoid(m.convs[1](b))[:, :, None]}


def by_ulsam(m, x):
    z = torch.relu(normed(m.norm, x * m.weight[:, None, None] + m.bias[:, None, None]))
    z = F.max_pool2d(z, 3, 1, 1)
    width = x.shape[1] // m.groups
    maps = []
    for g in range(m.groups):
        part = z[:, g * width : (g + 1) * width]
        maps.append((part * m.point[g][:, None, None]).sum(1) + m.point_bias[g])
    lit = torch.relu(normed(m.point_norm, torch.stack(maps, dim=1)))
    lit = lit.flatten(2).softmax(2).reshape(lit.shape)
    return {"both": 1 + lit.repeat_interleave(width, dim=1)}


def by_nam(m, x):
    w = m.norm.weight.abs() / m.norm.weight.abs().sum()
    return {"both": sigmoid(w[:, None, None] * normed(m.norm, x)), "weights": w}


def by_sa(m, x):
    gate = torch.empty_like(x)
    width = x.shape[1] // (2 * m.groups)
    for g in range(m.groups):
        a = slice(2 * g * width, (2 * g + 1) * width)
        b = slice((2 * g + 1) * width, (2 * g + 2) * width)
        by_mean = sigmoid(m.channel_weight * x[:, a].mean((2, 3)) + m.channel_bias)
        gate[:, a] = by_mean[..., None, None]
        part = x[:, b]
        mean, var = part.mean((2, 3), keepdim=True), part.var((2, 3), keepdim=True, correction=0)
        normal = (part - mean) / torch.sqrt(var + 1e-5)
        normal = normal * m.norm_weight[:, None, None] + m.norm_bias[:, None, None]
        gate[:, b] = sigmoid(
            m.spatial_weight[:, None, None] * normal + m.spatial_bias[:, None, None]
        )
    return {"both": gate}


def by_gam(m, x):
    u = torch.einsum("mc,nchw->nmhw", m.fc1.weight.flatten(1), x) + m.fc1.bias[:, None, None]
    c = torch.einsum("cm,nmhw->nchw", m.fc2.weight.flatten(1), torch.relu(u))
    c = c + m.fc2.bias[:, None, None]
    z = torch.relu(normed(m.norm1, F.conv2d(x * c, m.conv1.weight, m.conv1.bias, padding=3)))
    z = normed(m.norm2, F.conv2d(z, m.conv2.weight, m.conv2.bias, padding=3))
    return {"both": c * sigmoid(z)}


def by_sk(m, x):
    a, b = m.first(x), m.second(x)
    hidden = torch.relu(normed(m.norm, (a + b).mean((2, 3)) @ m.fc1.weight.T))
    z = (hidden @ m.fc2.weight.T).reshape(len(x), 2, -1).exp()
    return {"branches": z / z.sum(1, keepdim=True)}


def by_psa(m, x):
    squeezed = torch.stack([scale(x).mean((2, 3)) for scale in m.scales], dim=1)
    gate = sigmoid(m.fc2(torch.relu(m.fc1(squeezed)))).exp()
    return {"branches": gate / gate.sum(1, keepdim=True)}


def by_sc(m, x):
    half = x.chunk(2, dim=1)[1]
    far = F.interpolate(m.k2(F.avg_pool2d(half, 4)), size=half.shape[2:])
    return {"both": sigmoid(half + far)}


def by_atac(m, x):
    hidden = torch.relu(normed(m.squeeze_norm, F.conv2d(x, m.squeeze.weight)))
    return {"both": sigmoid(normed(m.expand_norm, F.conv2d(hidden, m.expand.weight)))}


def by_csra(m, x):
    looks = torch.zeros(len(x), m.weight.shape[1], *x.shape[2:]).double()
    for head, t in enumerate(m.temperatures):
        unit = m.weight[head] / m.weight[head].norm(dim=1, keepdim=True)
        scores = torch.einsum("kc,nchw->nkhw", unit, x).flatten(2)
        if t == 99:
            weights = F.one_hot(scores.argmax(2), scores.shape[2]).double()
        else:
            weights = (t * scores).exp() / (t * scores).exp().sum(2, keepdim=True)
        looks += weights.reshape(looks.shape) / len(m.temperatures)
    return {"classes": looks}


def by_crisscross(m, x, at=None):
    q, k = m.query(x), m.key(x)
    n, _, h, w = x.shape
    i, j = at or (h // 2, w // 2)
    looked = torch.zeros(n, h, w).double()
    for one in range(n):
        places = [(i, c) for c in range(w)] + [(r, j) for r in range(h) if r != i]
        scores = torch.stack([(q[one, :, i, j] * k[one, :, r, c]).sum() for r, c in places])
        for (r, c), weight in zip(places, scores.softmax(0), strict=True):
            looked[one, r, c] = weight
    return {"attention": looked, "blend": m.gamma.reshape(())}


def by_s2(m, x):
    n, channels = x.shape[:2]
    copies = m.expand(x.movedim(1, -1))
    a, b, plain = (copies[..., i * channels : (i + 1) * channels].clone() for i in range(3))
    quarter = [channels // 4] * 4
    for z, order in ((a, "durl"), (b, "rldu")):
        start = 0
        source = z.clone()
        for direction, size in zip(order, quarter, strict=True):
            part = slice(start, start + size)
            if direction == "d":
                z[:, 1:, :, part] = source[:, :-1, :, part]
            elif direction == "u":
                z[:, :-1, :, part] = source[:, 1:, :, part]
            elif direction == "r":
                z[:, :, 1:, part] = source[:, :, :-1, part]
            else:
                z[:, :, :-1, part] = source[:, :, 1:, part]
            start += size
    total = (a + b + plain).sum((1, 2))
    logits = m.share(F.gelu(m.squeeze(total))).reshape(n, 3, channels)
    return {"branches": logits.softmax(1)}


def by_ese(m, x):
    return {"channel": (m.fc(x.mean((2, 3))) + 3).clamp(0, 6) / 6}


def by_gct(m, x):
    s = m.alpha * torch.sqrt((x**2).sum((2, 3)) + 1e-5)
    return {"channel": 1 + torch.tanh(m.gamma * s / (s**2).mean(1, True).add(1e-5).sqrt() + m.beta)}


def by_gc(m, x):
    scores = torch.einsum("nchw,c->nhw", x, m.pool.weight[0]) + m.pool.bias
    weights = torch.exp(scores - scores.amax((1, 2), keepdim=True))
    return {"attention": weights / weights.sum((1, 2), keepdim=True)}


def softly(z, axis=-1):
    shares = torch.exp(z - z.amax(axis, keepdim=True))  # scores of positions are in the hundreds
    return shares / shares.sum(axis, keepdim=True)


def from_the_middle(q, k, x):
    """Where the position in the middle looks, by the products of (N, m, H, W)."""
    middle = q[:, :, x.shape[2] // 2, x.shape[3] // 2]
    scores = torch.einsum("nc,nchw->nhw", middle, k)
    return softly(scores.flatten(1)).reshape(scores.shape)


def pointwise(layer, x):
    weight = layer.weight.flatten(1)
    bias = 0 if layer.bias is None else layer.bias[:, None, None]
    return torch.einsum("oc,nchw->nohw", weight, x) + bias


def by_nl(m, x):
    q, k = pointwise(m.query, x), pointwise(m.key, x)
    return {"attention": from_the_middle(q / math.sqrt(q.shape[1]), k, x)}


def by_generalized(m, x):
    """Of the query in the middle, whose keys are every second position."""
    at, heads, total = (side // 2 for side in x.shape[2:]), m.heads, 0
    h, w = at
    q = pointwise(m.query, x)[:, :, h, w].unflatten(1, (heads, -1))
    k = pointwise(m.key, x[:, :, ::2, ::2])
    u, v = m.u.unflatten(0, (heads, -1)), m.v.unflatten(0, (heads, -1))
    total = torch.einsum("nhd,nhdyx->nhyx", q + u, k.unflatten(1, (heads, -1)))
    for axis, layer in enumerate(m.distances):
        away = (h, w)[axis] - 2 * torch.arange(k.shape[2 + axis], dtype=x.dtype)
        quarter = x.shape[1] // 4
        slow = 1000 ** (torch.arange(quarter, dtype=x.dtype) / quarter)
        turns = away[:, None] / slow
        r = torch.cat((turns.sin(), turns.cos()), 1) @ layer.weight.T / math.sqrt(2)
        found = torch.einsum("nhd,jhd->nhj", q + v, r.unflatten(1, (heads, -1)))
        total = total + (found[..., None] if axis == 0 else found[:, :, None])
    weights = softly(total.flatten(2)).mean(1)
    return {"attention": weights.reshape(len(x), *k.shape[2:]), "blend": m.gamma[0]}


def by_danet(m, x):
    q, k = pointwise(m.positions.query, x), pointwise(m.positions.key, x)
    return {"attention": from_the_middle(q, k, x)}


def by_a2(m, x):
    maps = pointwise(m.gather, x).flatten(2)
    return {"attention": softly(maps).mean(1).reshape(x[:, 0].shape)}


def by_bat(m, x):
    def layer(sequence, z):
        return torch.relu(normed(sequence[1], pointwise(sequence[0], z)))

    s, sides = 7, x.shape[2:]
    g = layer(m.squeeze, layer(m.reduce, x))
    bands = (F.adaptive_max_pool2d(g, (s, 1))[..., 0], F.adaptive_max_pool2d(g, (1, s))[:, :, 0])
    p, q = (
        sigmoid(torch.einsum("ocb,ncb->no", line.weight, z) + line.bias).reshape(*z.shape[:2], s, s)
        for line, z in zip(m.lines, bands, strict=True)
    )
    p, q = p / p.sum(3, keepdim=True), q / q.sum(2, keepdim=True)
    # Of a map that is mixed, how much of each place is found in the middle of the result.
    with torch.enable_grad():
        z = torch.zeros(*g.shape[:2], *sides, dtype=x.dtype, requires_grad=True)
        whole = F.interpolate(z, size=[-(-n // s) * s for n in sides], mode="bilinear")
        blocks = whole.reshape(*z.shape[:2], s, whole.shape[2] // s, s, whole.shape[3] // s)
        t = torch.einsum("nghawb,ngHh,ngwW->ngHaWb", blocks, p, q).reshape(whole.shape)
        middle = F.interpolate(t, size=sides, mode="bilinear")[:, :, sides[0] // 2, sides[1] // 2]
        (found,) = torch.autograd.grad(middle.sum(), z)
    return {"attention": found.mean(1)}


def by_external(m, x):
    maps = torch.einsum("sc,ncp->nsp", m.keys, pointwise(m.query, x).flatten(2))
    return {"attention": softly(maps).mean(1).reshape(x[:, 0].shape)}


def by_lka(m, x):
    near, far, mix = m.gate.near, m.gate.far, m.gate.mix
    z = F.conv2d(x, near.weight, near.bias, padding=2, groups=x.shape[1])
    z = F.conv2d(z, far.weight, far.bias, padding=9, dilation=3, groups=x.shape[1])
    return {"both": pointwise(mix, z)}


def by_ela(m, x):
    def gate(pooled):
        k = m.conv.weight  # (C, 1, 7)
        wide = F.pad(pooled, (3, 3))
        z = sum(k[:, 0, i : i + 1] * wide[:, :, i : i + pooled.shape[2]] for i in range(7))
        groups = z.unflatten(1, (m.norm.num_groups, -1))
        center = groups.mean((2, 3), keepdim=True)
        spread = groups.var((2, 3), correction=0, keepdim=True)
        z = ((groups - center) / torch.sqrt(spread + 1e-5)).flatten(1, 2)
        return sigmoid(z * m.norm.weight[:, None] + m.norm.bias[:, None])

    return {"both": gate(x.mean(3))[:, :, :, None] * gate(x.mean(2))[:, :, None, :]}


def by_mlca(m, x):
    n, c = x.shape[:2]
    local = F.adaptive_avg_pool2d(x, 5)

    def over_channels(rows, conv):
        k = conv.weight.flatten()
        wide = F.pad(rows, (len(k) // 2, len(k) // 2))
        return sigmoid(sum(k[i] * wide[..., i : i + rows.shape[-1]] for i in range(len(k))))

    whole = over_channels(local.mean((2, 3)), m.conv)[:, :, None, None]
    rows = over_channels(local.permute(0, 2, 3, 1).reshape(n, -1), m.local)
    mixed = (whole + rows.reshape(n, 5, 5, c).permute(0, 3, 1, 2)) / 2
    return {"both": F.adaptive_avg_pool2d(mixed, x.shape[2:])}


def by_mca(m, x):
    def gate(along, axis):
        others = [a for a in (1, 2, 3) if a != axis]
        a, b = 0.5 + sigmoid(along.weight)
        z = a * x.mean(others, keepdim=True) + b * x.std(others, keepdim=True)
        k = along.conv.weight.flatten()
        z = z.flatten(1)
        wide = F.pad(z, (len(k) // 2, len(k) // 2))
        z = sigmoid(sum(k[i] * wide[:, i : i + z.shape[1]] for i in range(len(k))))
        return z.reshape([-1, *(x.shape[a] if a == axis else 1 for a in (1, 2, 3))])

    rows, columns = (gate(m.axes[a - 2], a) for a in (2, 3))
    return {"both": (gate(m.channel, 1) + rows + columns) / 3}


def by_ema(m, x):
    n, c, h, w = x.shape
    z = x.reshape(n * m.groups, -1, h, w)

    def line(pooled):
        return sigmoid(torch.einsum("oc,ncl->nol", m.conv1x1.weight[:, :, 0], pooled)
                       + m.conv1x1.bias[:, None])  # fmt: skip

    u = z * line(z.mean(3))[:, :, :, None] * line(z.mean(2))[:, :, None, :]
    u = (u - u.mean((2, 3), True)) / torch.sqrt(u.var((2, 3), correction=0, keepdim=True) + 1e-5)
    u = u * m.norm.weight[:, None, None] + m.norm.bias[:, None, None]
    v = F.conv2d(z, m.conv3x3.weight, m.conv3x3.bias, padding=1)
    scores = sum(
        torch.einsum("nc,nchw->nhw", softly(one.mean((2, 3))), other)
        for one, other in ((u, v), (v, u))
    )
    gate = sigmoid(scores).reshape(n, m.groups, 1, h, w)
    return {"both": gate.expand(-1, -1, c // m.groups, -1, -1).reshape(x.shape)}


def by_polarized(m, x):
    flat = x.flatten(2)
    shares = softly(torch.einsum("c,ncp->np", m.query[0], flat))
    values = torch.einsum("mc,ncp->nmp", m.value.weight, flat)
    channel = sigmoid(torch.einsum("nmp,np->nm", values, shares) @ m.up.weight.T)
    queries = torch.einsum("mc,ncp->nmp", m.spatial_query.weight, flat).mean(2)
    keys = torch.einsum("mc,ncp->nmp", m.spatial_value.weight, flat)
    spatial = sigmoid(softly(torch.einsum("nm,nmp->np", queries, keys)))
    return {"both": (channel[:, :, None] + spatial[:, None]).reshape(x.shape)}


def where_each_is_largest(lines):
    """At how many positions of each channel each of the values (N, C, H, W) is the largest."""
    top = torch.stack(lines).amax(0)
    return torch.stack([(line == top).double().mean((2, 3)) for line in lines], dim=1)


def by_dyrelu(m, x):
    hidden = torch.relu(x.mean((2, 3)) @ m.fc1.weight.T + m.fc1.bias)
    t = 2 * sigmoid(hidden @ m.fc2.weight.T + m.fc2.bias) - 1
    a1, a2, b1, b2 = t.reshape(*x.shape[:2], 4, 1, 1).unbind(2)
    return {"branches": where_each_is_largest([(1 + a1) * x + b1 / 2, a2 * x + b2 / 2])}


def by_frelu(m, x):
    around = normed(m.norm, F.conv2d(x, m.conv.weight, padding=1, groups=x.shape[1]))
    return {"branches": where_each_is_largest([x, around])}


def by_acon(m, x):
    z = normed(m.norm1, x.mean((2, 3)) @ m.fc1.weight.T + m.fc1.bias)
    beta = sigmoid(normed(m.norm2, z @ m.fc2.weight.T + m.fc2.bias))[:, :, None, None]
    p1, p2 = (p[:, None, None] for p in (m.p1, m.p2))
    return {"both": (p1 - p2) * sigmoid(beta * (p1 - p2) * x) + p2}


def by_splat(m, x):
    conv = m.conv
    u = F.conv2d(x, conv.weight, stride=conv.stride, padding=conv.padding, groups=conv.groups)
    u = normed(m.norm, u).clamp(min=0)
    total = u.unflatten(1, (m.radix, -1)).sum(1).mean((2, 3))
    hidden = torch.relu(normed(m.norm1, total @ m.fc1.weight[:, :, 0].T + m.fc1.bias))
    z = (hidden @ m.fc2.weight[:, :, 0].T + m.fc2.bias).unflatten(1, (m.radix, -1))
    return {"branches": softly(z, 1)}


def by_involution(m, x):
    (step, _), (k, _) = m.stride, m.kernel
    pooled = F.avg_pool2d(x, step, ceil_mode=True, count_include_pad=False)
    hidden = torch.relu(normed(m.norm, pointwise(m.reduce, pooled)))
    w = pointwise(m.span, hidden).unflatten(1, (m.groups, k, k)).mean(1)  # (N, k, k, H, W)
    h, v = (side // 2 for side in w.shape[3:])
    own = w[..., h, v]
    wide = F.pad(torch.zeros_like(x[:, 0]), [k // 2] * 4)
    wide[:, step * h : step * h + k, step * v : step * v + k] = own
    return {"attention": wide[:, k // 2 : -(k // 2), k // 2 : -(k // 2)]}


def apart(table, here, there):
    """The row of a table for the way from one place to another along its axis."""
    return table[len(table) // 2 + there - here]


def by_bot(m, x):
    q, k, _ = (part.unflatten(1, (4, -1)) for part in pointwise(m.qkv, x).chunk(3, 1))
    own, (h, v) = q[:, :, :, x.shape[2] // 2, x.shape[3] // 2], (n // 2 for n in x.shape[2:])
    down = torch.stack([apart(m.tables[0], h, i) for i in range(x.shape[2])])
    right = torch.stack([apart(m.tables[1], v, i) for i in range(x.shape[3])])
    keys = k + (down[:, None] + right).movedim(-1, 0)
    z = torch.einsum("nhc,nhcij->nhij", own, keys) / math.sqrt(own.shape[2])
    return {"attention": softly(z.flatten(2), 2).reshape(z.shape).mean(1)}


def by_halo(m, x):
    b, halo, heads = 8, 3, 8
    q = pointwise(m.q, x).unflatten(1, (heads, -1))
    k = pointwise(m.kv, x).unflatten(1, (heads, -1)).chunk(2, 2)[0]
    h, v = (n // 2 for n in x.shape[2:])
    first = [h // b * b - halo, v // b * b - halo]
    near = {}  # of each place that the block sees, in the map or not
    for i in range(first[0], first[0] + b + 2 * halo):
        for j in range(first[1], first[1] + b + 2 * halo):
            inside = 0 <= i < x.shape[2] and 0 <= j < x.shape[3]
            key = k[..., i, j] if inside else torch.zeros_like(k[..., 0, 0])
            key = key + apart(m.tables[0], h, i + halo) + apart(m.tables[1], v, j + halo)
            score = (q[..., h, v] * key).sum(2) / math.sqrt(key.shape[2])
            near[i, j] = torch.exp(score)
    total = sum(near.values())
    made = torch.zeros_like(x[:, 0])
    for (i, j), score in near.items():
        if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]:
            made[:, i, j] = (score / total).mean(1)
    return {"attention": made}


def by_lambda(m, x):
    q, k, _ = pointwise(m.qkv, x).split([64, 16, 16], 1)
    q = normed(m.query_norm, q).unflatten(1, (4, 16)).mean(1)
    h, v = (n // 2 for n in x.shape[2:])
    made = (q[..., h, v, None] * softly(k.flatten(2), 2)).sum(1).reshape(x[:, 0].shape)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            if max(abs(i - h), abs(j - v)) <= 11:
                made[:, i, j] += q[..., h, v] @ m.place.weight[:, 0, i - h + 11, j - v + 11]
    return {"attention": made}


def by_interflow(m, *values):
    return {"stages": m.weights.detach()}


@pytest.mark.parametrize("signal", ["coarser", "raised"])
@starts
def test_the_mask_of_a_skip_is_what_its_positions_are_multiplied_by(signal, init):
    model, found, given = looked("attention-gate", init, signal=signal)
    assert len(found) == 2
    for path, ((x, g, *_), output) in given.items():
        part = model.get_submodule(path)
        m = getattr(part, "inner", part)
        if signal == "coarser":
            cells = F.conv2d(x, m.theta.weight, stride=2)
            phi = F.interpolate(pointwise(m.phi, g), size=cells.shape[2:], mode="bilinear")
            z = sigmoid(pointwise(m.score, torch.relu(cells + phi)))
            mask = F.interpolate(z, size=x.shape[2:], mode="bilinear")
            made = normed(m.transform[1], pointwise(m.transform[0], x * mask))
            if init == "identity":
                made = x + part.g * (made - x)
        else:
            theta = normed(m.theta[1], pointwise(m.theta[0], x))
            phi = normed(m.phi[1], pointwise(m.phi[0], g))
            z = normed(m.score[1], pointwise(m.score[0], torch.relu(theta + phi)))
            mask = (2 if init == "identity" else 1) * sigmoid(z)
            made = x * mask
        torch.testing.assert_close(found[path]["spatial"], mask[:, 0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(output, made, rtol=1e-9, atol=1e-9)
        assert found[path]["spatial"].std() > 0


EQUATIONS = {
    name.removeprefix("by_").replace("_", "-"): function
    for name, function in globals().items()
    if name[:3] == "by_"
}


def test_most_mechanisms_have_an_equation_of_their_own_here():
    assert len(EQUATIONS) >= 20
    assert set(EQUATIONS) <= set(MAIN)


@of(EQUATIONS)
def test_the_pictures_are_those_of_the_plain_equation(name):
    model, found, given = looked(name)
    for path, (values, _) in given.items():
        part = model.get_submodule(path)
        module = getattr(part, "head", getattr(part, "attention", part))
        with torch.no_grad():
            expected = EQUATIONS[name](module, *values[:1])
        assert set(expected) == set(MAIN[name].split())
        for picture, value in expected.items():
            torch.testing.assert_close(found[path][picture], value, rtol=1e-9, atol=1e-9)


FORMS = {
    "ge": ({"extent": 4}, "both"),
    "nam": ({"spatial": True}, "both weights"),
    "dca": ({"inner": "cbam"}, "channel spatial"),
    "spa": ({"variant": "B"}, "channel"),
    "gam": ({"sigmoid": True}, "both"),
    "csra": ({"heads": 4}, "classes"),
    "crisscross": ({"recurrence": 2}, "attention blend"),
    "interflow": ({"mode": "hard"}, "stages"),
    "gct": ({"norm": "l1"}, "channel"),
    "gc": ({"fusion": "scale"}, "channel attention"),
    "nl": ({"form": "dot"}, "attention"),
    "generalized": ({"attention_type": "0010", "q_stride": 2}, "attention blend"),
    "danet": ({"form": "position"}, "attention"),
    "polarized": ({"form": "sequential"}, "channel spatial"),
    "cbam": ({"pool": "mixed"}, "channel spatial"),
    "coord": ({"form": "sum"}, "both"),
    "ela": ({"form": "sum"}, "both"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_another_form_of_a_mechanism_has_the_pictures_of_that_form(name):
    args, expected = FORMS[name]
    _, found, given = looked(name, **args)
    for path, (values, output) in given.items():
        assert [n for n in found[path] if n != "change"] == expected.split()
        if {"channel", "both"} & {*found[path]}:
            made = product(found[path], values[0])
            torch.testing.assert_close(made, output, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_class_attention_sums_to_one_and_takes_the_maximum_of_the_coldest_head():
    model, found, given = looked("csra", heads=4)
    ((path, site),) = found.items()
    sums = site["classes"].sum((2, 3))
    torch.testing.assert_close(sums, torch.ones_like(sums))
    part = model.get_submodule(path)
    expected = by_csra(part.head, given[path][0][0])["classes"]
    torch.testing.assert_close(site["classes"], expected.detach())


@pytest.mark.slow
def test_samples_weigh_in_training_only():
    model, x = operated("ba2m"), image(3)
    for site in attnsurgeon.gates(model, x).values():
        assert torch.equal(site["samples"], torch.ones(3).double())
    model.train()
    found = attnsurgeon.gates(model, x)
    for path, (values, output) in handed(model, x).items():
        weights = found[path]["samples"]
        assert weights.shape == (3,)
        assert not torch.allclose(weights, torch.ones(3).double())
        assert math.isclose(float(weights.mean()), 1)
        made = values[0] * weights[:, None, None, None]
        torch.testing.assert_close(made, output, rtol=1e-12, atol=1e-12)
