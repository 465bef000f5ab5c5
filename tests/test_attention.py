"""Rows whose padding attention alone sees: taken out, filled in again, and nothing changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anymal_lib.attention import NAME, Rows, own_attention, takes_own_attention
from anymal_lib.llm import load_llm

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def rows_of(lengths, *, left=False):
    """Real positions on the left of rows, or on the right."""
    longest = max(lengths)
    real = [[k < n for k in range(longest)] for n in lengths]
    return torch.tensor([row[::-1] for row in real] if left else real)


@given(lengths=LENGTHS, left=st.booleans())
def test_what_is_taken_and_filled_in_again_is_the_same(lengths, left):
    real = rows_of(lengths, left=left)
    rows, padded = Rows.of(real), torch.randn(*real.shape, 3, requires_grad=True)
    taken = rows.take(padded)
    assert torch.equal(taken, padded[real]) and len(taken) == sum(lengths)
    filled = rows.fill(taken)
    assert torch.equal(filled[real], padded[real])
    weights = torch.randn(filled.shape) * real[..., None]  # nothing looks at padding
    (gradient,) = torch.autograd.grad((filled * weights).sum(), padded)
    assert torch.equal(gradient, weights)


@given(lengths=LENGTHS)
def test_padding_gets_no_gradient(lengths):
    rows, padded = Rows.of(rows_of(lengths)), torch.randn(len(lengths), max(lengths), 2)
    padded.requires_grad_()
    (gradient,) = torch.autograd.grad(rows.take(padded).square().sum(), padded)
    assert torch.equal(gradient, torch.where(rows.real[..., None], 2 * padded, 0.0))


@pytest.fixture(scope="module")
def llm(tiny_folder):
    """A tiny language model of this file's own."""
    return load_llm(tiny_folder, bits=32)


@pytest.mark.parametrize("before", [0, 5])
def test_what_padding_holds_changes_nothing(llm, before):
    torch.manual_seed(0)
    real = rows_of([7, 2, 4])
    prefix = llm.remember([tuple(range(3, 3 + before))] * 3)
    embeddings = torch.randn(3, 7, llm.width)
    own = [
        llm.hidden(row[None, :n], prefix=prefix)[0]
        for row, n in zip(embeddings, (7, 2, 4), strict=True)
    ]
    embeddings[~real] = torch.nan
    states = llm.hidden(embeddings, prefix=prefix, real=real)
    assert torch.allclose(states[real], torch.cat(own), atol=1e-5)


def test_the_models_own_attention_is_back_afterwards(llm):
    own = llm.model.config._attn_implementation
    with pytest.raises(KeyboardInterrupt), own_attention(llm.model), own_attention(llm.model):
        assert llm.model.config._attn_implementation == NAME
        raise KeyboardInterrupt
    assert llm.model.config._attn_implementation == own != NAME
    assert takes_own_attention(llm.model)


def test_a_model_with_an_attention_of_its_own_reads_its_padding(llm, monkeypatch):
    reads = []
    hook = llm.model.base_model.layers[0].register_forward_pre_hook(
        lambda layer, args: reads.append(tuple(args[0].shape[:2]))
    )
    real, embeddings = rows_of([5, 2]), torch.randn(2, 5, llm.width)
    states = llm.hidden(embeddings, real=real)
    monkeypatch.setattr(type(llm.model), "_can_set_attn_implementation_cached_value", False)
    plain = llm.hidden(embeddings, real=real)
    hook.remove()
    assert reads == [(1, 7), (2, 5)]
    assert torch.allclose(states[real], plain[real], atol=1e-5)
