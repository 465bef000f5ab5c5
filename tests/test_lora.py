"""LoRA: a change beside the LLM and never in it, on and off, and a file that peft reads."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anymal_lib.errors import AssetError, ConfigError
from anymal_lib.inputs import Image
from anymal_lib.llm import Identity, load_llm
from anymal_lib.lora import (
    add_lora,
    freeze_lora,
    has_lora,
    load_lora,
    lora_parameters,
    merge_lora,
    merged_lora,
    save_lora,
    without_lora,
)
from anymal_lib.model import AnyMAL
from anymal_lib.prompt import render
from anymal_lib.specs import LoraSpec, StepSpec

BITS = (32, 16, 8, 4)
SPEC = LoraSpec(rank=4, alpha=8)
IDS = torch.arange(100, 130).reshape(2, 15)
TOKENS = 8
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def move(llm, seed=1, size=0.1):
    """Give the LoRA weights values as after training: the product is not zero any more."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in lora_parameters(llm).items():
        if "lora_B" in name:
            parameter.data = size * torch.randn(parameter.shape, generator=generator)
    llm.forget()


@torch.no_grad()
def logits(llm):
    return llm.logits(llm.hidden(llm.embed(IDS)))


def own_tensors(llm):
    """Checksums of everything that is not LoRA's, by the names of the LLM without it."""
    return {
        name.replace(".base_layer", ""): hashlib.sha256(
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        ).hexdigest()
        for name, tensor in llm.model.state_dict().items()
        if ".lora_" not in name
    }


@pytest.fixture
def fresh(tiny_folder):
    """Function: the tiny LLM at a precision, the test's own."""
    return lambda bits=32: load_llm(tiny_folder, bits=bits)


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    return Image(pixels)


PROMPTS = [
    ["Who are you?"],
    ["What is it? ", picture(0)],
    ["What is it? ", picture(1), " Say."],
    [picture(2), " or ", picture(3)],
]


@pytest.fixture
def model(fresh, tiny_profile, own_encoder):
    """A tiny model that reads images, with an LLM of its own."""
    image = {"image": tiny_profile.modality("image")}
    model = AnyMAL(fresh(), replace(tiny_profile, modalities=image))
    model.add("image", own_encoder("image"))
    return model


def answers(model):
    """One by one: then the text before the item is remembered from one call to the next."""
    return [model.generate(prompt, max_new_tokens=TOKENS) for prompt in PROMPTS]


def steps(model, count=3, rate=0.1):
    """Some steps of training of the LoRA weights."""
    optimizer = torch.optim.SGD(lora_parameters(model.llm).values(), rate)
    prompts = [render(model.llm, parts, response="a red square") for parts in PROMPTS]
    spans = model.encode([part for parts in PROMPTS for part in parts if not isinstance(part, str)])
    for _ in range(count):
        optimizer.zero_grad()
        model.response_loss(prompts, [span.clone() for span in spans]).backward()
        optimizer.step()


# Beside the LLM's own weights --------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_fresh_lora_changes_no_output(fresh, bits):
    llm = fresh(bits)
    before = logits(llm)
    assert not has_lora(llm) and not llm.learns
    add_lora(llm, SPEC, seed=0)
    assert has_lora(llm) and llm.learns
    assert torch.equal(logits(llm), before)


@pytest.mark.parametrize("name", ["tiny_folder", "gemma_folder"])
def test_every_linear_layer_but_the_head_has_one_of_the_specs_rank_and_alpha(request, name):
    llm = load_llm(request.getfixturevalue(name), bits=32)
    linear = {
        name: layer
        for name, layer in llm.model.base_model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    add_lora(llm, SPEC, seed=0)
    config = llm.model.peft_config["anymal"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8, 0.0)
    assert llm.model.peft_config.keys() == {"anymal"}
    shapes = {
        f"model.{name}.lora_{side}.anymal.weight": shape
        for name, layer in linear.items()
        for side, shape in (("A", (4, layer.in_features)), ("B", (layer.out_features, 4)))
    }
    assert {n: tuple(p.shape) for n, p in lora_parameters(llm).items()} == shapes
    assert len(shapes) == 28
    learned = [name for name, p in llm.model.named_parameters() if p.requires_grad]
    assert set(learned) == set(shapes)


@pytest.mark.parametrize("bits", BITS)
def test_lora_can_begin_at_an_upper_layer(fresh, tmp_path, bits):
    llm = fresh(bits)
    add_lora(llm, replace(SPEC, first_layer=1), seed=0)
    assert len(lora_parameters(llm)) == 14
    assert all(name.startswith("model.layers.1.") for name in lora_parameters(llm))
    move(llm)
    save_lora(llm, tmp_path / "lora")
    other = fresh(bits)
    load_lora(other, tmp_path / "lora")
    assert torch.equal(logits(other), logits(llm))


@pytest.mark.parametrize("first", [-1, 2])
def test_a_first_layer_that_is_not_there_is_refused(fresh, first):
    with pytest.raises(ConfigError, match="0 to 1"):
        add_lora(fresh(32), replace(SPEC, first_layer=first), seed=0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("loaded", [False, True])
def test_gradients_reach_lora_through_every_precision(fresh, tmp_path, tiny_profile, bits, loaded):
    llm = fresh(bits)
    if loaded:
        source = fresh(bits)
        add_lora(source, SPEC, seed=0)
        save_lora(source, tmp_path / "lora")
        load_lora(llm, tmp_path / "lora")
        for parameter in lora_parameters(llm).values():
            parameter.requires_grad_()
    else:
        add_lora(llm, SPEC, seed=0)
    move(llm)
    assert {p.dtype for p in lora_parameters(llm).values()} == {torch.float32}
    span = torch.randn(3, llm.width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    prompts = [render(llm, ["What is it? ", "item"], response="red")]
    prompts += [render(llm, ["What is it? ", object()], response="a blue square")]
    own = own_tensors(llm)
    AnyMAL(llm, tiny_profile).response_loss(prompts, [span]).backward()
    for tensor in (span, *lora_parameters(llm).values()):
        assert tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0
    others = [p for name, p in llm.model.named_parameters() if ".lora_" not in name]
    assert all(parameter.grad is None for parameter in others)
    assert own_tensors(llm) == own


@pytest.mark.parametrize("bits", BITS)
def test_training_changes_no_bit_of_the_llms_own_weights(model, fresh, bits):
    model.llm = fresh(bits)
    own, before = own_tensors(model.llm), logits(model.llm)
    add_lora(model.llm, SPEC, seed=0)
    fresh_weights = {k: p.detach().clone() for k, p in lora_parameters(model.llm).items()}
    steps(model)
    freeze_lora(model.llm)
    assert not torch.equal(logits(model.llm), before)
    changed = [not torch.equal(p, fresh_weights[k]) for k, p in lora_parameters(model.llm).items()]
    assert all(changed)
    assert own_tensors(model.llm) == own and len(own) > 20
    with without_lora(model.llm):
        assert torch.equal(logits(model.llm), before)


def test_the_same_seed_gives_the_same_weights_and_draws_nothing_from_the_others(fresh):
    weights = []
    for seed in (0, 0, 1):
        llm = fresh()
        state = torch.random.get_rng_state()
        add_lora(llm, SPEC, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        weights.append(torch.cat([p.detach().flatten() for p in lora_parameters(llm).values()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# On, off, merged ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_without_lora_the_base_answers_and_afterwards_lora_again(fresh, bits):
    llm = fresh(bits)
    base = logits(llm)
    add_lora(llm, SPEC, seed=0)
    move(llm)
    freeze_lora(llm)
    tuned = logits(llm)
    assert not torch.equal(tuned, base)
    with without_lora(llm):
        assert torch.equal(logits(llm), base)
    assert torch.equal(logits(llm), tuned)
    with pytest.raises(KeyboardInterrupt), without_lora(llm):
        raise KeyboardInterrupt
    assert torch.equal(logits(llm), tuned)


@pytest.mark.parametrize("learns", [True, False])
def test_a_look_without_lora_leaves_weights_that_learn_learning(fresh, learns):
    llm = fresh()
    add_lora(llm, SPEC, seed=0)
    if not learns:
        freeze_lora(llm)
    with without_lora(llm):
        assert not llm.learns
    assert [p.requires_grad for p in lora_parameters(llm).values()] == [learns] * 28
    assert llm.learns == learns


def test_an_llm_that_never_had_lora_is_as_it_was(fresh):
    llm = fresh()
    before = logits(llm)
    with without_lora(llm):
        assert torch.equal(logits(llm), before)
    freeze_lora(llm)
    assert not has_lora(llm) and lora_parameters(llm) == {} and not llm.learns


def test_merged_weights_give_the_same_logits_up_to_rounding(fresh):
    llm = fresh()
    base = logits(llm)
    add_lora(llm, SPEC, seed=0)
    move(llm)
    freeze_lora(llm)
    tuned = logits(llm)
    own = own_tensors(llm)
    merge_lora(llm)
    assert own_tensors(llm) != own
    torch.testing.assert_close(logits(llm), tuned, rtol=1e-4, atol=1e-4)
    assert (tuned - base).abs().max() > 0.1


@pytest.mark.parametrize("bits", BITS)
def test_weights_merged_for_a_while_are_afterwards_what_they_were(fresh, bits):
    llm = fresh(bits)
    add_lora(llm, SPEC, seed=0)
    move(llm)
    freeze_lora(llm)
    before, own = logits(llm), own_tensors(llm)
    with pytest.raises(KeyboardInterrupt), merged_lora(llm):
        merged = logits(llm)
        raise KeyboardInterrupt
    assert torch.equal(logits(llm), before)
    assert own_tensors(llm) == own
    assert torch.equal(merged, before) == (bits < 16)
    assert (merged - before).norm() < 0.1 * before.norm()


@pytest.mark.parametrize("bits", [16, 8])
def test_a_merged_llm_of_less_precision_is_near_the_one_beside_it(fresh, bits):
    llm = fresh(bits)
    base = logits(llm)
    add_lora(llm, SPEC, seed=0)
    move(llm)
    freeze_lora(llm)
    tuned = logits(llm)
    merge_lora(llm)
    assert (logits(llm) - tuned).norm() < 0.3 * (base - tuned).norm()


# Nothing stale -----------------------------------------------------------------------------------


def as_anew(model):
    """Answers with nothing remembered."""
    model.llm.forget()
    return answers(model)


def test_nothing_that_was_read_with_other_weights_is_ever_answered_from(model):
    """Asked again and again, with the text before the item remembered in between."""
    llm = model.llm
    base = answers(model)
    hits = llm._remember_one.cache_info().hits
    assert answers(model) == base
    assert llm._remember_one.cache_info().hits >= hits + len(PROMPTS), "nothing could be stale"
    add_lora(llm, SPEC, seed=0)
    assert answers(model) == base
    steps(model)  # the LLM learns
    learning = answers(model)
    freeze_lora(llm)
    trained = answers(model)
    assert trained == as_anew(model) == learning != base
    with without_lora(llm):
        assert answers(model) == base == as_anew(model)
    assert answers(model) == trained
    for parameter in lora_parameters(llm).values():
        parameter.requires_grad_()
    steps(model)
    freeze_lora(llm)
    again = answers(model)
    assert again == as_anew(model) and again not in (base, trained)
    merge_lora(llm)
    assert answers(model) == as_anew(model)


def test_the_loss_follows_the_weights_too(model):
    """A batch with one text before the item: it is remembered while the LLM is constant."""
    llm, asked = model.llm, PROMPTS[1:3]
    prompts = [render(llm, parts, response="a red square") for parts in asked]
    spans = model.encode([parts[1] for parts in asked])

    @torch.no_grad()
    def losses():
        """With and without what is shared."""
        plain = AnyMAL(llm, replace(model.profile, step=StepSpec(prefix=False)))
        shared, whole = (m.response_loss(prompts, spans).item() for m in (model, plain))
        assert shared == pytest.approx(whole, rel=1e-6)
        return whole

    seen = [losses()]
    add_lora(llm, SPEC, seed=0)
    assert losses() == pytest.approx(seen[0], rel=1e-6)
    steps(model, 2)
    seen.append(losses())
    steps(model, 2)
    seen.append(losses())
    freeze_lora(llm)
    assert losses() == pytest.approx(seen[-1], rel=1e-6)
    with without_lora(llm):
        assert losses() == pytest.approx(seen[0], rel=1e-6)
    assert losses() == pytest.approx(seen[-1], rel=1e-6)
    assert seen[2] < seen[1] < seen[0], "three sets of weights"


# Saved -------------------------------------------------------------------------------------------


@pytest.fixture
def trained(model):
    """The model with LoRA weights that are not the seed's any more."""
    add_lora(model.llm, SPEC, seed=0)
    move(model.llm)
    freeze_lora(model.llm)
    return model


def test_a_saved_model_gives_the_same_weights_and_answers(trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (folder / "lora").iterdir()} == {WEIGHTS, CONFIG}
    assert json.loads((folder / "anymal.json").read_text())["lora"] is True
    again = AnyMAL.from_pretrained(folder)
    assert not again.llm.learns and not again.llm.model.training
    ours, theirs = lora_parameters(trained.llm), lora_parameters(again.llm)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert answers(again) == answers(trained)
    with without_lora(again.llm), without_lora(trained.llm):
        base = answers(again)
        assert base == answers(trained)
    assert base != answers(again)


def test_a_model_without_lora_is_saved_without(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "saved")
    assert not (folder / "lora").exists()
    assert not has_lora(AnyMAL.from_pretrained(folder).llm)


def test_a_config_from_before_there_was_lora_is_one_without(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "saved")
    config = json.loads((folder / "anymal.json").read_text())
    del config["lora"]
    (folder / "anymal.json").write_text(json.dumps(config))
    assert not has_lora(AnyMAL.from_pretrained(folder).llm)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_saved_lora_runs_beside_another_precision(trained, tmp_path, bits):
    again = AnyMAL.from_pretrained(trained.save_pretrained(tmp_path / "saved"), bits=bits)
    ours, theirs = lora_parameters(trained.llm), lora_parameters(again.llm)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    own = own_tensors(again.llm)
    tuned = logits(again.llm)
    assert all(isinstance(answer, str) for answer in answers(again))
    assert own_tensors(again.llm) == own, "nothing is repacked"
    with without_lora(again.llm):
        assert not torch.equal(logits(again.llm), tuned)


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "saved")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    (folder / "lora" / "left-over.txt").write_text("old")
    trained.save_pretrained(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    AnyMAL.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for path, content in before.items():
        assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == content
    move(trained.llm, seed=2)
    trained.save_pretrained(folder)
    assert (folder / "lora" / WEIGHTS).read_bytes() != before[folder / "lora" / WEIGHTS]


SAVE = """
import sys
from pathlib import Path
from anymal_lib.llm import load_llm
from anymal_lib.lora import add_lora, save_lora
from anymal_lib.specs import LoraSpec
llm = load_llm(sys.argv[1], bits=32)
add_lora(llm, LoraSpec(rank=4, alpha=8), seed=3)
save_lora(llm, Path(sys.argv[2]))
"""


def test_two_processes_write_the_same_bytes_for_the_same_seed(tiny_folder, tmp_path):
    for order in ("1", "2"):  # of everything that Python keeps in a set
        run = subprocess.run(
            [sys.executable, "-c", SAVE, str(tiny_folder), str(tmp_path / order)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, "PYTHONHASHSEED": order, "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr[-2000:]
    for name in (WEIGHTS, CONFIG):
        one, two = ((tmp_path / order / name).read_bytes() for order in ("1", "2"))
        assert one == two, name


def test_peft_itself_reads_the_folder(trained, tiny_folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    save_lora(trained.llm, tmp_path / "lora")
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        plain = base(IDS).logits
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "lora")).eval()(IDS).logits
    torch.testing.assert_close(theirs, logits(trained.llm), rtol=1e-4, atol=1e-4)
    assert (theirs - plain).abs().max() > 0.1


def test_transformers_itself_reads_the_folder(trained, tiny_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    save_lora(trained.llm, tmp_path / "lora")
    theirs = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    theirs.load_adapter(str(tmp_path / "lora"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(trained.llm), rtol=1e-4, atol=1e-4)


def test_no_saved_file_names_a_path_of_this_machine(tiny_llm, tiny_folder, tmp_path):
    """A pinned LLM is named by its package, wherever its files lie."""
    pinned = Identity("some-package==1.0", tiny_llm().identity.sha256)
    new, loaded = (load_llm(tiny_folder, bits=32) for _ in range(2))
    new.identity = loaded.identity = pinned
    add_lora(new, SPEC, seed=0)
    save_lora(new, tmp_path / "first")
    load_lora(loaded, tmp_path / "first")
    save_lora(loaded, tmp_path / "again")
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        for place in (tiny_folder, tmp_path, Path(sys.prefix), Path.cwd()):
            assert str(place).encode() not in path.read_bytes(), path
    config = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "some-package==1.0"


# What is refused ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_lora(tiny_folder, tmp_path_factory):
    llm = load_llm(tiny_folder, bits=32)
    add_lora(llm, SPEC, seed=0)
    move(llm)
    save_lora(llm, folder := tmp_path_factory.mktemp("saved") / "lora")
    return folder


def changed_config(**changes):
    def change(folder):
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **changes}))

    return change


def changed_tensors(change):
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def one_less(tensors):
    return dict(sorted(tensors.items())[1:])


def one_more(tensors):
    return {**tensors, "base_model.model.model.layers.9.lora_A.weight": torch.zeros(4, 64)}


def content(name, value):
    return lambda folder: (folder / name).write_bytes(value)


DAMAGES = {
    "no folder": shutil.rmtree,
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "weights cut off": lambda folder: os.truncate(folder / WEIGHTS, 5000),
    "empty weights": content(WEIGHTS, b""),
    "noise": content(WEIGHTS, b"x" * 500),
    "a tensor less": changed_tensors(one_less),
    "a tensor more": changed_tensors(one_more),
    "other names": changed_tensors(lambda t: {f"x.{name}": t[name] for name in t}),
    "other shapes": changed_tensors(lambda t: {name: torch.zeros(2, 2) for name in t}),
    "another rank": changed_config(r=3),
    "other layers": changed_config(target_modules=["q_proj"]),
    "layers of another LLM": changed_config(target_modules=["c_attn"]),
    "no layers": changed_config(target_modules=None),
    "another kind": changed_config(peft_type="IA3"),
    "a kind that nobody knows": changed_config(peft_type="SMELL"),
    "a rank in words": changed_config(r="four"),
    "no alpha": changed_config(lora_alpha=None),
    **{f"config {text!r}": content(CONFIG, text) for text in (b"", b"{", b"[]", b"7", b"null")},
    "a binary config": content(CONFIG, b"\xff\xfe\x00"),
    "an empty config": content(CONFIG, b"{}"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_lora_is_refused_by_folder(saved_lora, fresh, tmp_path, damage):
    folder = Path(shutil.copytree(saved_lora, tmp_path / "copied-model" / "lora"))
    load_lora(fresh(), folder)
    damage(folder)
    with pytest.raises(AssetError, match=r"'lora' in 'copied-model'.*peft's format.*Save"):
        load_lora(fresh(), folder)


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"num_hidden_layers": 1}])
def test_lora_of_an_llm_of_another_shape_is_refused(saved_lora, tiny_folder, tmp_path, change):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_folder, **change)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "llm")
    with pytest.raises(AssetError, match="'lora' in"):
        load_lora(load_llm(tmp_path / "llm", bits=32), saved_lora)


def test_a_saved_model_whose_lora_is_gone_or_damaged_is_refused(trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "copied-model")
    changed_tensors(one_less)(folder / "lora")
    with pytest.raises(AssetError, match="'lora' in 'copied-model'"):
        AnyMAL.from_pretrained(folder)
    shutil.rmtree(folder / "lora")
    with pytest.raises(AssetError, match="'lora' in 'copied-model'"):
        AnyMAL.from_pretrained(folder)


def test_a_merged_llm_is_not_saved(fresh, tmp_path):
    llm = fresh()
    add_lora(llm, SPEC, seed=0)
    merge_lora(llm)
    with pytest.raises(ConfigError, match="before merge_lora"):
        save_lora(llm, tmp_path / "lora")
    assert not list(tmp_path.iterdir())
