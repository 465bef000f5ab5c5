"""The frozen LLM: every precision loads, nothing in it ever changes, and what is refused."""

import json
import shutil

import pytest
import torch
from torch.nn import functional as F

from anymal_lib.assets import HubAsset
from anymal_lib.config import load_profile
from anymal_lib.errors import AnyMALError, AssetError, ConfigError
from anymal_lib.llm import FrozenLLM, _quantization, join_masks, load_llm
from anymal_lib.machine import fast_dtype
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import render, splice, split_prefix
from anymal_lib.train import train_adapter

BITS = (32, 16, 8, 4)
ITEM = object()


def body_linears(llm):
    """The linear layers inside the transformer, where quantization applies."""
    return [m for m in llm.model.base_model.modules() if isinstance(m, torch.nn.Linear)]


def prompts_of(llm, texts=("a red square", "green", "on the left is a blue square")):
    return [render(llm, ["What is it? ", ITEM, " Say it."], response=text) for text in texts]


def spans_of(llm, count, length=3, seed=0):
    """Leaf modality tokens on the scale of token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, length, llm.width, generator=generator) * llm.embedding_rms
    return list(values), values.requires_grad_()


@pytest.mark.parametrize("bits", BITS)
def test_every_precision_loads_frozen_and_passes_gradients(tiny_llm, bits):
    llm = tiny_llm(bits)
    assert isinstance(llm, FrozenLLM) and llm.bits == bits and llm.width == 64
    assert llm.dtype == {32: torch.float32, 16: torch.bfloat16}.get(bits, fast_dtype())
    assert not any(p.requires_grad for p in llm.model.parameters())
    _, leaf = spans_of(llm, 3)
    loss = AnyMAL(llm, load_profile("mini")).response_loss(prompts_of(llm), list(leaf))
    loss.backward()
    assert torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0
    assert all(t.grad is None for t in [*llm.model.parameters(), *llm.model.buffers()])


@pytest.mark.parametrize(("bits", "dtype"), [(32, torch.float32), (16, torch.bfloat16)])
def test_plain_precisions_hold_plain_weights(tiny_llm, bits, dtype):
    layers = body_linears(tiny_llm(bits))
    assert len(layers) == 14
    assert {type(layer) for layer in layers} == {torch.nn.Linear}
    assert {layer.weight.dtype for layer in layers} == {dtype}


def test_nf4_holds_four_bits_a_weight_and_int8_int8_weights(tiny_llm):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    four, eight = body_linears(tiny_llm(4)), body_linears(tiny_llm(8))
    assert len(four) == len(eight) == 14
    for layer in four:
        assert isinstance(layer, Linear4bit) and layer.weight.dtype == torch.uint8
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.numel() * 2 == layer.in_features * layer.out_features
    for layer in eight:
        assert isinstance(layer, Linear8bitLt) and layer.weight.dtype == torch.int8


def test_nf4_scales_unpacked_for_the_cpu_are_those_of_double_quantization(tiny_folder):
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    own = AutoModelForCausalLM.from_pretrained(
        tiny_folder,
        dtype=fast_dtype(),
        quantization_config=_quantization(4, fast_dtype()),
        device_map={"": "cpu"},
    )
    nested = [m for m in own.base_model.modules() if isinstance(m, torch.nn.Linear)]
    ours = body_linears(load_llm(tiny_folder, bits=4, device="cpu"))
    assert len(ours) == len(nested) == 14
    for layer, theirs in zip(ours, nested, strict=True):
        state, packed = layer.weight.quant_state, theirs.weight.quant_state
        assert packed.nested and packed.absmax.dtype == torch.uint8
        assert not state.nested and state.absmax.dtype == torch.float32
        assert torch.equal(layer.weight.data, theirs.weight.data)
        value = dequantize_4bit(layer.weight.data, state)
        assert torch.equal(value, dequantize_4bit(theirs.weight.data, packed))
        assert value.shape == (layer.out_features, layer.in_features) and value.abs().max() > 0.1


@pytest.mark.parametrize("bits", BITS)
def test_training_and_generation_change_no_bit_of_the_llm(
    new_model, bank_of, image_card, tmp_path, bits
):
    model = new_model(bits)
    before = model.llm.fingerprint()
    adapter = {k: v.clone() for k, v in model.adapters["image"].state_dict().items()}
    bank = bank_of(image_card)
    spec = model.spec("image").align
    first = [model.generate(["Say: ", bank_item(bank)], max_new_tokens=3)]
    train_adapter(model, "image", bank, spec, seed=0, folder=tmp_path)
    first.append(model.generate(["Say: ", bank_item(bank)], max_new_tokens=3))
    assert all(isinstance(text, str) for text in first)
    after = model.adapters["image"].state_dict()
    assert any(not torch.equal(adapter[k], after[k]) for k in adapter), "the adapter has learned"
    assert model.llm.fingerprint() == before
    assert load_llm(model.profile.llm, bits=bits).fingerprint() == before, "nor before this test"


def bank_item(bank):
    from anymal_lib.inputs import Image

    return Image(bank.rows[0].path)


@pytest.mark.parametrize("bits", BITS)
def test_the_fingerprint_sees_one_changed_element(tiny_folder, bits):
    llm = load_llm(tiny_folder, bits=bits)
    before = llm.fingerprint()
    weight = body_linears(llm)[-1].weight.data.view(torch.uint8).flatten()
    weight[-1] ^= 1
    assert llm.fingerprint() != before
    weight[-1] ^= 1
    assert llm.fingerprint() == before


@pytest.mark.parametrize("bits", [0, 7, 64, "4", 16.5])
def test_unknown_bits_are_refused(tiny_folder, bits):
    with pytest.raises(ConfigError, match="BITS") as error:
        load_llm(tiny_folder, bits=bits)
    assert repr(bits) in str(error.value)


@pytest.mark.parametrize(("fast", "bits"), [(torch.bfloat16, 16), (torch.float32, 32)])
def test_without_bits_the_machine_decides_between_bf16_and_fp32(
    tiny_folder, monkeypatch, fast, bits
):
    monkeypatch.setattr("anymal_lib.llm.fast_dtype", lambda: fast)
    llm = load_llm(tiny_folder)
    assert (llm.bits, llm.dtype) == (bits, fast)


@pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [8, 4])
def test_activations_before_quantized_weights_are_of_the_type_that_is_fast(
    tiny_folder, monkeypatch, fast, bits
):
    monkeypatch.setattr("anymal_lib.llm.fast_dtype", lambda: fast)
    llm = load_llm(tiny_folder, bits=bits)
    assert llm.dtype == fast
    _, leaf = spans_of(llm, 3)
    states = llm.hidden(leaf.to(fast))
    states.float().square().mean().backward()
    assert states.dtype == fast
    assert torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0
    if bits == 4:
        assert {layer.compute_dtype for layer in body_linears(llm)} == {fast}


@pytest.mark.parametrize(
    "source",
    ["/no/such/folder", "no/such/folder", "nobody/nothing", HubAsset("nobody/nothing", "main")],
)
def test_what_is_not_there_is_refused_by_name(source):
    name = getattr(source, "repo_id", source)
    with pytest.raises(AssetError, match=name):
        load_llm(source, bits=32)


def spoil_no_config(folder):
    (folder / "config.json").unlink()


def spoil_config(folder):
    (folder / "config.json").write_text("{")


def spoil_kind(folder):
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')


def spoil_no_weights(folder):
    (folder / "model.safetensors").unlink()


def spoil_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def spoil_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")


def spoil_no_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_no_config,
        spoil_config,
        spoil_kind,
        spoil_no_weights,
        spoil_weights,
        spoil_tokenizer,
        spoil_no_tokenizer,
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_by_name(tiny_folder, tmp_path, spoil):
    folder = tmp_path / "spoiled-model"
    shutil.copytree(tiny_folder, folder)
    spoil(folder)
    with pytest.raises(AnyMALError, match="spoiled-model"):
        load_llm(folder, bits=32)


def test_the_identity_of_a_folder_follows_its_weights(tiny_folder, other_folder, tiny_llm):
    one, same = tiny_llm(32).identity, load_llm(str(tiny_folder), bits=16).identity
    other = load_llm(other_folder, bits=32).identity
    assert one == same and one.source == str(tiny_folder)
    assert len(one.sha256) == 64 and int(one.sha256, 16)
    assert other.sha256 != one.sha256


@pytest.mark.parametrize("name", ["tiny_folder", "gemma_folder"])
def test_logits_of_rows_equal_the_models_own(request, name):
    llm = load_llm(request.getfixturevalue(name), bits=32)
    ids = torch.randint(0, 49152, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = llm.model(ids).logits.flatten(0, 1)
        rows = torch.tensor([0, 7, 19, 20, 38])
        ours = llm.logits(llm.hidden(llm.embed(ids)).flatten(0, 1)[rows])
    assert ours.shape == (5, 49152)
    torch.testing.assert_close(ours, own[rows], rtol=1e-5, atol=1e-5)
    if name == "gemma_folder":
        assert 2 < ours.abs().max() <= 3, "the cap of 3 was at work"


def read_with_prefix(llm, prompts, spans):
    """The LLM's last states, with and without what it remembers of the texts before the items."""
    prefixes, rest = zip(*map(split_prefix, prompts), strict=True)
    whole = splice(llm, prompts, spans, pad_left=False)
    tail = splice(llm, rest, spans, pad_left=False)
    later = llm.hidden(tail.embeddings, tail.mask, llm.remember(prefixes))
    return llm.hidden(whole.embeddings, whole.mask), later, prefixes


@pytest.mark.parametrize("name", ["tiny_folder", "gemma_folder"])
def test_a_remembered_prefix_gives_the_plain_loss_and_gradient(request, name, own_loss):
    llm = load_llm(request.getfixturevalue(name), bits=32)
    model = AnyMAL(llm, load_profile("mini"))
    torch.manual_seed(0)
    adapter = torch.nn.Linear(5, 3 * llm.width)
    features = torch.randn(3, 5)
    prompts = prompts_of(llm)
    assert len(split_prefix(prompts[0])[0]) > 16, "longer than gemma's attention window"
    assert len({len(prompt.response) for prompt in prompts}) == 3
    results = []
    for loss_of in (
        lambda spans: model.response_loss(prompts, spans),
        lambda spans: sum(own_loss(llm, p, [s]) for p, s in zip(prompts, spans, strict=True)) / 3,
    ):
        adapter.zero_grad()
        loss = loss_of(list(adapter(features).unflatten(-1, (3, -1))))
        loss.backward()
        results.append((loss.item(), adapter.weight.grad.clone()))
    (ours, our_gradient), (own, own_gradient) = results
    assert ours == pytest.approx(own, abs=1e-6 * max(1, own))
    assert (our_gradient - own_gradient).norm() < 2e-4 * own_gradient.norm()


@pytest.mark.parametrize("name", ["tiny_folder", "gemma_folder"])
@pytest.mark.parametrize("same", [True, False])
def test_reading_after_a_prefix_equals_reading_it_whole(request, name, same):
    llm = load_llm(request.getfixturevalue(name), bits=32)
    prompts = prompts_of(llm, ("red", "a green square on the left"))
    if not same:
        asked = "Look closely, then tell in a few words what you see in this picture: "
        prompts += [render(llm, [asked, ITEM], response="blue"), render(llm, ["Hi"], response="Ho")]
    spans, _ = spans_of(llm, 2 if same else 3)
    with torch.no_grad():
        whole, later, prefixes = read_with_prefix(llm, prompts, spans)
    assert len(set(prefixes)) == (1 if same else 3)
    for k, prompt in enumerate(prompts):
        length = 3 * prompt.items + sum(map(len, prompt.pieces)) + len(prompt.response) - 1
        own, ours = whole[k, len(prefixes[k]) : length], later[k, : length - len(prefixes[k])]
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


def test_texts_are_remembered_without_gradient_and_equal_ones_once(tiny_folder):
    llm, read = load_llm(tiny_folder, bits=32), []
    llm.model.base_model.layers[0].register_forward_pre_hook(
        lambda layer, args, kwargs: read.append(args[0].shape[:2]), with_kwargs=True
    )
    one = llm.remember([(5, 6, 7)] * 4)
    assert llm.remember([(5, 6, 7)] * 2) is one, "kept for the steps that follow"
    assert one.mask is None and len(one) == 3
    assert read == [(1, 3)]
    two = llm.remember([(5, 6, 7), (8,), (5, 6, 7), ()])
    assert two.mask.long().tolist() == [[1, 1, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]]
    assert len(two) == 3 and read == [(1, 3), (3, 3)]
    equal = llm.remember([(5, 6), (8, 9)])
    assert equal.mask is None and read[2:] == [(2, 2)]
    assert llm.remember([(), ()]) is None and llm.remember([]) is None
    for prefix in (one, two, equal):
        for tensor in (t for layer in prefix.layers for t in layer):
            assert not tensor.requires_grad and not tensor.is_inference()
    for ours, alone in zip(two.layers, one.layers, strict=True):
        torch.testing.assert_close(ours[0][2], alone[0][0], rtol=1e-4, atol=1e-5)


def test_a_text_remembered_in_evaluation_serves_training_and_stays_as_it_is(tiny_folder):
    llm = load_llm(tiny_folder, bits=32)
    prompts = prompts_of(llm)
    text = split_prefix(prompts[0])[0]
    with torch.inference_mode():
        prefix = llm.remember([text])
    assert not any(tensor.is_inference() for layer in prefix.layers for tensor in layer)
    before = [tensor.clone() for layer in prefix.layers for tensor in layer]
    _, leaf = spans_of(llm, 3)
    AnyMAL(llm, load_profile("mini")).response_loss(prompts, list(leaf)).backward()
    assert leaf.grad.abs().sum() > 0
    assert llm.remember([text]) is prefix
    assert all(map(torch.equal, before, (t for layer in prefix.layers for t in layer)))


def test_prompts_without_any_text_before_the_items_give_the_plain_loss(tiny_folder, own_loss):
    llm = load_llm(tiny_folder, bits=32)
    llm.tokenizer.chat_template = None  # a base model: an item can be the very first
    item_first = [render(llm, [ITEM, f" {end}"], response=end) for end in ("red", "a blue square")]
    text_first = render(llm, ["What is it? ", ITEM], response="red")
    for prompts in (item_first, [*item_first, text_first]):
        _, leaf = spans_of(llm, len(prompts))
        ours = AnyMAL(llm, load_profile("mini")).response_loss(prompts, list(leaf))
        own = sum(own_loss(llm, p, [s]) for p, s in zip(prompts, leaf, strict=True)) / len(prompts)
        assert ours.item() == pytest.approx(own.item(), abs=1e-6 * max(1, own.item()))
        ours, own = (torch.autograd.grad(loss, leaf)[0] for loss in (ours, own))
        assert (ours - own).norm() < 2e-4 * own.norm()


def test_masks_join_only_where_something_is_padded(tiny_llm):
    llm = tiny_llm(32)
    one, two = llm.remember([(5, 6)]), llm.remember([(5, 6), (7,)])
    mask = torch.tensor([[False, True], [True, True]])
    assert join_masks(None, None, 2, 2) is None and join_masks(None, one, 2, 2) is None
    assert join_masks(mask, None, 2, 2) is mask
    joined = [join_masks(m, p, 2, 2).long().tolist() for m, p in ((mask, one), (None, two))]
    assert joined == [[[1, 1, 0, 1], [1, 1, 1, 1]], [[1, 1, 1, 1], [0, 1, 1, 1]]]
    both = join_masks(mask, two, 2, 2)
    assert both.long().tolist() == [[1, 1, 0, 1], [0, 1, 1, 1]]


def test_tokens_come_without_added_special_ones(tiny_llm):
    llm = tiny_llm(32)
    assert llm.tokenizer.decode(llm.tokenize(" Describe it.")) == " Describe it."
    assert llm.tokenize("") == ()
    assert llm.tokenizer.decode([llm.end_of_turn]) == "<|im_end|>"
    weights = llm.model.get_input_embeddings().weight
    assert llm.embedding_rms == pytest.approx(weights.float().square().mean().sqrt().item())


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_the_rebuilt_gguf_speaks_sense_at_every_precision(bits):
    asset = load_profile("mini").llm
    llm = load_llm(asset, bits=bits)
    assert llm.identity.source == f"{asset.package}=={asset.version}"
    assert llm.identity.sha256 == asset.sha256
    answer = AnyMAL(llm, load_profile("mini")).generate("What is the capital of France?")
    assert "Paris" in answer
    ids = torch.tensor([llm.tokenize("The capital of France is")])
    with torch.no_grad():
        best = llm.logits(llm.hidden(llm.embed(ids))[:, -1])
    assert llm.tokenizer.decode(best.argmax(-1)) == " Paris"
    assert F.softmax(best, -1).max() > 0.1


def test_the_rebuilt_folder_is_plain_bf16():
    from safetensors import safe_open

    from anymal_lib.llm import _rebuilt_gguf

    folder = _rebuilt_gguf(load_profile("mini").llm)
    with safe_open(folder / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"BF16"}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
