"""Adapters: shapes, masks, gradients, scale, and the numbers of a plain reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from anymal_lib.adapters import (
    _TOKEN_SCALE,
    LinearProjection,
    PerceiverResampler,
    build_adapter,
)
from anymal_lib.encoders import Features
from anymal_lib.specs import AdapterSpec


def features_of(batch, n, width=12, pooled=10, seed=0, mask=None):
    generator = torch.Generator().manual_seed(seed)
    sequence = torch.randn(batch, n, width, generator=generator)
    embedding = F.normalize(torch.randn(batch, pooled, generator=generator), dim=-1)
    return Features(sequence, embedding, mask)


def build(kind="resampler", tokens=4, layers=2, width=32, heads=4, rms=0.1, llm_width=24, seed=0):
    torch.manual_seed(seed)
    spec = AdapterSpec(kind=kind, tokens=tokens, layers=layers, width=width, heads=heads)
    sizes = {"sequence_width": 12, "pooled_width": 10, "llm_width": llm_width}
    return build_adapter(spec, out_rms=rms, **sizes)


@settings(max_examples=25)
@given(
    batch=st.integers(1, 5),
    n=st.integers(1, 20),
    tokens=st.integers(1, 9),
    layers=st.integers(1, 4),
    heads=st.sampled_from([1, 2, 4, 8]),
    kind=st.sampled_from(["resampler", "linear"]),
    masked=st.booleans(),
)
def test_any_size_gives_the_asked_number_of_tokens(batch, n, tokens, layers, heads, kind, masked):
    adapter = build(kind, tokens, layers, width=8 * heads, heads=heads)
    mask = torch.arange(n)[None] < torch.arange(1, batch + 1)[:, None] if masked else None
    out = adapter(features_of(batch, n, mask=mask))
    assert out.shape == (batch, tokens, 24) and out.dtype == torch.float32
    assert torch.isfinite(out).all()


def test_the_spec_decides_the_kind_and_the_depth():
    assert isinstance(build("linear"), LinearProjection)
    deep, shallow = build(layers=6), build(layers=2)
    assert isinstance(deep, PerceiverResampler)
    assert (len(deep.layers), len(shallow.layers)) == (6, 2)
    assert deep.latents.shape == (4, 32)


def test_masked_features_do_not_matter_at_all():
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    clean, adapter = features_of(2, 7, mask=mask), build()
    dirty = clean.sequence.clone()
    dirty[1, 3:] = torch.randn(4, 12) * 1e4
    out = adapter(clean)
    assert torch.equal(adapter(Features(dirty, clean.pooled, mask)), out)
    dirty[1, 2] += 1
    changed = adapter(Features(dirty, clean.pooled, mask))
    assert torch.equal(changed[0], out[0]) and not torch.equal(changed[1], out[1])


def test_padded_items_equal_themselves_alone():
    adapter = build()
    parts = [features_of(1, n, seed=n) for n in (5, 2, 9)]
    together = Features.stack(parts)
    assert together.mask.sum(1).tolist() == [5, 2, 9]
    torch.testing.assert_close(
        adapter(together), torch.cat([adapter(part) for part in parts]), rtol=1e-5, atol=1e-6
    )


def test_the_order_of_features_does_not_matter_but_their_content_does():
    adapter, features = build(), features_of(1, 6)
    out = adapter(features)
    turned = adapter(Features(features.sequence.flip(1), features.pooled))
    torch.testing.assert_close(turned, out, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(adapter(features_of(1, 6, seed=1)), out, atol=1e-3)


def test_the_resampler_reads_the_sequence_and_the_linear_layer_the_embedding():
    one, two = features_of(2, 5), features_of(2, 5, seed=1)
    crossed = Features(one.sequence, two.pooled)
    for kind, same in (("resampler", one), ("linear", two)):
        adapter = build(kind)
        assert torch.equal(adapter(crossed), adapter(same))
        assert not torch.allclose(adapter(one), adapter(two))


def test_the_linear_adapter_is_one_linear_map_cut_into_tokens():
    adapter, features = build("linear", tokens=3), features_of(4, 1)
    assert sum(p.numel() for p in adapter.parameters()) == 3 * 24 * (10 + 1)
    adapter.projection.bias.data.normal_()
    weight, bias = adapter.projection.weight, adapter.projection.bias
    plain = (features.pooled * math.sqrt(10)) @ weight.T + bias
    out = adapter(features)
    torch.testing.assert_close(out.reshape(4, 72), plain)
    torch.testing.assert_close(out[:, 1], plain[:, 24:48])


@pytest.mark.parametrize("kind", ["resampler", "linear"])
def test_the_gradient_reaches_every_parameter(kind):
    adapter = build(kind)
    out = adapter(features_of(3, 5, mask=torch.ones(3, 5, dtype=torch.bool)))
    (out * torch.randn(out.shape)).sum().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.requires_grad and parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("rms", [0.02, 0.13, 1.0])
@pytest.mark.parametrize("kind", ["resampler", "linear"])
def test_outputs_start_on_the_scale_of_token_embeddings(kind, rms):
    adapter = build(kind, tokens=8, width=64, rms=rms, llm_width=256)
    out = adapter(features_of(16, 9))
    assert out.square().mean().sqrt().item() == pytest.approx(_TOKEN_SCALE * rms, rel=0.2)
    assert 1 <= _TOKEN_SCALE <= 10


def by_hand(adapter, x, mask):
    """The resampler for one item, written with nothing but matrix products and softmax."""

    def norm(v, layer):
        centred = v - v.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * layer.weight + layer.bias

    enter, linear = adapter.project_in
    x = norm(x[mask], enter) @ linear.weight.T + linear.bias
    latents = adapter.latents
    for layer in adapter.layers:
        normed = norm(latents, layer.norm_latents)
        context = torch.cat([norm(x, layer.norm_features), normed])
        query = normed @ layer.to_query.weight.T
        key, value = (context @ w.T for w in layer.to_key_value.weight.chunk(2))
        size = query.shape[1] // layer.heads
        seen = []
        for head in range(layer.heads):
            cut = slice(head * size, (head + 1) * size)
            weights = (query[:, cut] @ key[:, cut].T / math.sqrt(size)).softmax(-1)
            seen.append(weights @ value[:, cut])
        latents = latents + torch.cat(seen, 1) @ layer.to_out.weight.T
        first, up, _, down = layer.feed_forward
        wide = F.gelu(norm(latents, first) @ up.weight.T + up.bias)
        latents = latents + wide @ down.weight.T + down.bias
    out = adapter.project_out
    return norm(latents, adapter.norm) @ out.weight.T + out.bias


def with_fixed_weights(adapter, seed=5):
    """Weights that do not depend on how the adapter initialises itself."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(adapter.named_parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return adapter


def test_the_resampler_equals_a_plain_reference():
    adapter = with_fixed_weights(build())
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]])
    features = features_of(2, 5, mask=mask)
    out = adapter(features)
    for k in range(2):
        torch.testing.assert_close(
            out[k], by_hand(adapter, features.sequence[k], mask[k]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("kind", "golden"),
    [
        ("resampler", [-0.12719, 1.41942, -0.73019, -1.18289]),
        ("linear", [0.0764, -0.47618, 0.51077, -0.09859]),
    ],
)
def test_fixed_weights_give_fixed_values(kind, golden):
    out = with_fixed_weights(build(kind))(features_of(2, 5))
    assert out[1, 2, :4].tolist() == pytest.approx(golden, abs=1e-4)


def test_the_seed_decides_the_weights():
    first, same, other = (build(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["latents"], other["latents"])
