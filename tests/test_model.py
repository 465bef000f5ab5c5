"""The whole model: generation does not depend on the batch, and a saved model says the same."""

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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.cache_utils import DynamicCache

from anymal_lib import AnyMAL
from anymal_lib.errors import AnyMALError, AssetError, InputError
from anymal_lib.inputs import Audio, Image, Imu, Video
from anymal_lib.llm import load_llm
from anymal_lib.manifest import load_manifest
from anymal_lib.prompt import Dialogue, render_dialogue

TOKENS = 8


def picture(seed, size=(40, 50)):
    return Image(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def motion(seed, seconds=2.0, rate=50):
    samples = np.random.default_rng(seed).normal(0, 1, (round(seconds * rate), 6))
    return Imu(samples.astype(np.float32), rate=rate)


def tone(hertz, seconds=0.7, rate=16_000):
    time = np.arange(round(seconds * rate)) / rate
    return Audio((0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate=rate)


def clip(seed, frames=3):
    return Video([picture(seed + k).load() for k in range(frames)])


def mixed_prompts():
    """Prompts of many lengths: texts, items of every modality, several, alone, first."""
    return [
        ["Who are you?"],
        ["What is it? ", picture(0)],
        ["What is it? ", picture(1)],
        ["What is this person doing? ", motion(2)],
        ["What is this person doing? ", motion(3, 3.1, 100)],
        ["See ", picture(4), " and feel ", motion(5), " - which is louder, and why is that so?"],
        [motion(6, 1.0), picture(7, (9, 90)), motion(6, 2.0, 40), " compare."],
        [picture(8)],
        [motion(9, 7.0)],
        ["Tell me a long story about ", picture(10), picture(11), ", please."],
        ["Hi"],
        ["What is it? ", picture(12)],
        ["Describe the sound. ", tone(300)],
        ["Which is higher, ", tone(2000, 1.8, 44_100), " or ", tone(500), "?"],
        [clip(13), " shows what ", tone(4000), " plays and ", motion(14), " feels."],
        [clip(20, 1)],
    ]


@pytest.fixture(scope="module")
def model(new_model):
    return new_model(32)


@pytest.fixture(scope="module")
def one_by_one(model):
    return [model.generate(prompt, max_new_tokens=TOKENS) for prompt in mixed_prompts()]


def test_answers_differ_so_that_equality_says_something(one_by_one):
    assert len(set(one_by_one)) >= 13
    assert all(isinstance(answer, str) and answer for answer in one_by_one)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_equal_one_by_one_in_any_order(new_model, one_by_one, batch):
    model, prompts = new_model(32, eval_batch=batch), mixed_prompts()
    assert model.generate(prompts, max_new_tokens=TOKENS) == one_by_one
    order = np.random.default_rng(batch).permutation(len(prompts))
    shuffled = model.generate([prompts[k] for k in order], max_new_tokens=TOKENS)
    assert shuffled == [one_by_one[k] for k in order]


def own_answer(model, parts):
    """Transformers' greedy answer to one prompt, embedded here piece by piece."""
    llm = model.llm
    dialogue = parts if isinstance(parts, Dialogue) else Dialogue([(parts, None)])
    prompt = render_dialogue(llm, dialogue, system=model.profile.system)
    spans = model.encode(dialogue.items)
    table = [llm.embed(torch.tensor(piece, dtype=torch.long)) for piece in prompt.pieces]
    rows = [table[0]]
    for span, piece in zip(spans, table[1:], strict=True):
        rows += [span.to(llm.dtype), piece]
    ids = llm.model.generate(
        inputs_embeds=torch.cat(rows)[None],
        attention_mask=torch.ones(1, sum(map(len, rows)), dtype=torch.long),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=llm.end_of_turn,
        pad_token_id=llm.end_of_turn,
    )
    return llm.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def test_answers_equal_transformers_own_greedy_generation(model, one_by_one):
    assert [own_answer(model, prompt) for prompt in mixed_prompts()] == one_by_one


@pytest.fixture
def selections(monkeypatch):
    """How many rows a cache held and kept, every time that some left a batch."""
    kept = []
    select = DynamicCache.batch_select_indices

    def watched(cache, indices):
        kept.append((len(cache.layers[0].keys), len(indices)))
        select(cache, indices)

    monkeypatch.setattr(DynamicCache, "batch_select_indices", watched)
    return kept


@pytest.fixture
def terse(new_model, request):
    """Function: a model of some folder whose answers tend to end early, some sooner than others."""

    def build(folder, factor, **changes):
        model = new_model(32, **changes)
        model.llm = load_llm(request.getfixturevalue(folder), bits=32)
        model.llm.model.get_output_embeddings().weight.data[model.llm.end_of_turn] *= factor
        return model

    return build


def test_an_answer_ends_at_the_end_of_turn(terse, one_by_one):
    model = terse("tiny_folder", 4)
    said = model.generate(mixed_prompts(), max_new_tokens=TOKENS)
    assert said == [own_answer(model, prompt) for prompt in mixed_prompts()]
    shorter = [
        len(short) < len(long) and long.startswith(short)
        for short, long in zip(said, one_by_one, strict=True)
    ]
    assert 2 <= sum(shorter) < len(said), "some end early, some do not"


@pytest.mark.parametrize("folder", ["tiny_folder", "gemma_folder"])
@pytest.mark.parametrize("batch", [3, 64])
def test_rows_that_end_leave_the_batch_and_change_no_answer(terse, selections, folder, batch):
    model, prompts = terse(folder, 8, eval_batch=batch), mixed_prompts()
    alone = [model.generate(prompt, max_new_tokens=TOKENS) for prompt in prompts]
    assert alone == [own_answer(model, prompt) for prompt in prompts]
    assert selections == [], "a row alone has none to leave"
    assert model.generate(prompts, max_new_tokens=TOKENS) == alone
    assert selections and all(0 < 2 * kept <= held for held, kept in selections)
    if batch == 64:
        assert selections[0][0] == len(prompts)


@pytest.mark.parametrize("folder", ["tiny_folder", "gemma_folder"])
def test_prompts_with_different_texts_before_the_items_answer_as_alone(terse, folder):
    model = terse(folder, 1)
    texts = ("", "Hi ", "What is it? ", "Look closely, then say in a few words what you see here: ")
    prompts = [[text, picture(k), " Now."] for k, text in enumerate(texts)]
    prompts += [[texts[3], picture(8)], [texts[3], motion(9)], [texts[3]]]
    alone = [model.generate(prompt, max_new_tokens=TOKENS) for prompt in prompts]
    assert alone == [own_answer(model, prompt) for prompt in prompts]
    assert len(set(alone)) >= 5
    assert model.generate(prompts, max_new_tokens=TOKENS) == alone
    assert model.generate(prompts[::-1], max_new_tokens=TOKENS) == alone[::-1]


def test_the_input_decides_the_answer(model):
    """Each item of an interleaved prompt is read, and at its own place."""
    say = lambda *parts: model.generate(list(parts), max_new_tokens=TOKENS)  # noqa: E731
    base = say("See ", picture(4), " feel ", motion(5))
    assert base == say("See ", picture(4), " feel ", motion(5))
    others = [
        say("See ", picture(3), " feel ", motion(5)),
        say("See ", picture(4), " feel ", motion(6)),
        say("See ", motion(5), " feel ", picture(4)),
    ]
    assert base not in others and len(set(others)) == 3


def conversations():
    """Prompts of several turns, with items in the first, the last, all or none of them."""
    return [
        Dialogue([(["What is it? ", picture(0)], "a dot"), (["And its colour?"], None)]),
        Dialogue([(["Hi"], "Hello."), (["What is it? ", motion(2)], None)]),
        Dialogue([([picture(1)], "red"), ([tone(300)], "low"), ([picture(1), " again?"], None)]),
        Dialogue([(["Hi"], "Hello."), (["Who are you?"], None)]),
        Dialogue([(["Who are you?"], None)]),
    ]


def test_conversations_answer_as_transformers_alone_and_beside_lists(model, one_by_one):
    alone = [model.generate(dialogue, max_new_tokens=TOKENS) for dialogue in conversations()]
    assert alone == [own_answer(model, dialogue) for dialogue in conversations()]
    assert len(set(alone)) == 5
    assert alone[-1] == one_by_one[0], "one turn is a list"
    mixed = [p for pair in zip(mixed_prompts(), conversations(), strict=False) for p in pair]
    said = model.generate(mixed, max_new_tokens=TOKENS)
    assert said == [a for pair in zip(one_by_one, alone, strict=False) for a in pair]
    assert model.generate(mixed[::-1], max_new_tokens=TOKENS) == said[::-1]


def test_every_turn_of_a_conversation_is_read(model):
    def say(first=4, answer="a dot", last="And now?"):
        turns = [(["See ", picture(first)], answer), ([last], None)]
        return model.generate(Dialogue(turns), max_new_tokens=TOKENS)

    said = [say(), say(first=3), say(answer="a ring"), say(last="Why?")]
    assert len(set(said)) == 4 and say() == said[0]


@pytest.mark.parametrize(
    ("turns", "got"),
    [
        ([], "got none"),
        ([(["Hi"], "Hello.")], "got one with an answer"),
        ([(["Hi"], None), (["Who?"], None)], "a turn without one"),
        ([(["Hi"], "Hello."), ([""], None)], "an empty prompt"),
    ],
)
def test_a_conversation_that_nobody_can_go_on_with_is_refused(model, turns, got):
    for prompt in (Dialogue(turns), [["Hi"], Dialogue(turns)]):
        with pytest.raises(InputError, match=got):
            model.generate(prompt, max_new_tokens=2)


def test_encode_keeps_the_order_of_mixed_items(model):
    items = [motion(0), picture(1), tone(200), motion(2, 3.0), clip(4), picture(3), tone(900)]
    items += [clip(5), motion(0)]
    together = model.encode(items)
    sizes = (3, 4, 3, 3, 4, 4, 3, 4, 3)
    assert [tuple(span.shape) for span in together] == [(n, 64) for n in sizes]
    for item, span in zip(items, together, strict=True):
        torch.testing.assert_close(span, model.encode([item])[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(together[0], together[-1])
    assert model.encode([]) == []


def test_one_prompt_gives_a_text_and_a_batch_a_list(model):
    one = model.generate("Who are you?", max_new_tokens=3)
    assert isinstance(one, str) and model.generate(["Who ", "are you?"], max_new_tokens=3) == one
    assert model.generate([["Who are you?"]], max_new_tokens=3) == [one]
    assert model.generate([("Who are you?",), ["Hi"]], max_new_tokens=3)[0] == one


@pytest.mark.parametrize("prompt", ["", "  ", [], [""], [[]], [["Hi"], []]])
def test_an_empty_prompt_is_refused(model, prompt):
    with pytest.raises(InputError, match="empty prompt"):
        model.generate(prompt)


class Smell:
    """A modality that nobody has."""


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (Path("cat.png"), "PosixPath"),
        (np.zeros((4, 4, 3), np.uint8), "ndarray"),
        (Smell(), "Smell"),
        (None, "NoneType"),
        (7, "int"),
        (["What?"], "list"),
    ],
)
def test_an_item_that_nobody_can_read_is_refused_by_type(model, item, name):
    with pytest.raises(InputError, match=name):
        model.generate(["What is it? ", item])


def test_a_modality_that_this_model_lacks_is_refused(new_model, tiny_llm, tiny_profile):
    model = AnyMAL(tiny_llm(32), tiny_profile)
    with pytest.raises(InputError, match="image"):
        model.generate(["What is it? ", picture(0)])


def test_an_item_that_cannot_be_read_is_refused_by_name(model, tmp_path):
    with pytest.raises(InputError, match=r"gone\.png"):
        model.generate(["What is it? ", Image(tmp_path / "gone.png")])
    with pytest.raises(InputError, match="1"):
        model.generate(["What? ", motion(0, seconds=0.5)])
    with pytest.raises(InputError, match=r"0\.1 s"):
        model.generate(["What? ", tone(440, seconds=0.05)])
    (tmp_path / "cut.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match=r"cut\.mp4"):
        model.generate(["What? ", Video(tmp_path / "cut.mp4")])


# Saved models ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(new_model, tmp_path_factory):
    """A model whose adapters are not the seed's any more, and its folder."""
    model = new_model(32)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.adapters.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * parameter.std()
    return model, model.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved[1], tmp_path / "copied-model"))


READ_AND_SAY = """
import json, sys
from anymal_lib import AnyMAL, Audio, Image, Imu, Video
model = AnyMAL.from_pretrained(sys.argv[1])
items = [kind(path) for kind, path in zip((Image, Imu, Audio, Video), sys.argv[2:])]
prompts = [["What? ", item] for item in items] + [[items[0], " or ", items[2]]]
print("ANSWER" + json.dumps(model.generate(prompts, max_new_tokens=8)))
"""


def test_a_saved_model_says_the_same_in_a_new_process(saved, card_of):
    model, folder = saved
    names = ("image", "imu", "audio", "video")
    paths = [str(load_manifest(card_of[name]).rows[0].path) for name in names]
    items = [kind(path) for kind, path in zip((Image, Imu, Audio, Video), paths, strict=True)]
    prompts = [["What? ", item] for item in items] + [[items[0], " or ", items[2]]]
    here = model.generate(prompts, max_new_tokens=8)
    run = subprocess.run(
        [sys.executable, "-c", READ_AND_SAY, str(folder), *paths],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.split("ANSWER")[1]) == here
    assert len(set(here)) == 5


def test_a_saved_model_holds_what_was_trained_and_nothing_of_the_llm(saved):
    model, folder = saved
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "anymal.json",
        *(f"{name}.adapter.safetensors" for name in model.adapters),
        *(f"{name}.encoder.safetensors" for name in model.adapters),
    }
    assert set(model.adapters) == {"image", "imu", "audio", "video"}
    for name, adapter in model.adapters.items():
        with safe_open(folder / f"{name}.adapter.safetensors", "pt") as file:
            assert set(file.keys()) == set(adapter.state_dict())
        with safe_open(folder / f"{name}.encoder.safetensors", "pt") as file:
            assert set(file.keys()) == set(model.encoders[name].trained_state())
    trained = [*model.adapters.state_dict().values()]
    trained += [t for e in model.encoders.values() for t in e.trained_state().values()]
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert total < 4 * sum(t.numel() for t in trained) + 60_000
    config = json.loads((folder / "anymal.json").read_text())
    assert config["base_model"] == {
        "source": model.llm.identity.source,
        "sha256": model.llm.identity.sha256,
    }


def test_every_tensor_comes_back(saved):
    model, folder = saved
    again = AnyMAL.from_pretrained(folder)
    assert again.profile == model.profile
    for name in model.adapters:
        for ours, theirs in (
            (model.adapters[name].state_dict(), again.adapters[name].state_dict()),
            (model.encoders[name].trained_state(), again.encoders[name].trained_state()),
        ):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert not again.adapters[name].training


def test_a_saved_model_can_swap_in_another_precision(saved):
    again = AnyMAL.from_pretrained(saved[1], bits=4)
    assert again.llm.bits == 4 and again.generate(["Hi ", picture(0)], max_new_tokens=2)


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    model, folder = saved
    for path in model.save_pretrained(tmp_path / "again").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()


def change_config(folder, change):
    path = folder / "anymal.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_another_base_model_is_refused(copy, other_folder):
    change_config(copy, lambda config: config["profile"].update(llm=str(other_folder)))
    with pytest.raises(AssetError, match=r"base model of 'copied-model'.*checksum"):
        AnyMAL.from_pretrained(copy)


def test_changed_weights_of_the_base_model_are_refused(
    new_model, tiny_folder, tmp_path, tiny_profile, tiny_encoders
):
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    model = AnyMAL(load_llm(base, bits=32), replace(tiny_profile, llm=str(base), modalities={}))
    folder = model.save_pretrained(tmp_path / "saved")
    assert AnyMAL.from_pretrained(folder).llm.identity == model.llm.identity
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(AssetError, match="base model"):
        AnyMAL.from_pretrained(folder)


def gone(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(500))


def empty(path):
    path.write_bytes(b"")


def other_tensors(path):
    save_file({"weight": torch.zeros(3)}, path)


def other_shapes(path):
    save_file({name: torch.zeros(2, 2, 2, 2) for name in load_file(path)}, path)


DAMAGES = [gone, cut, noise, empty, other_tensors, other_shapes]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in ("image.adapter", "audio.encoder") for damage in DAMAGES),
        *((name, other_shapes) for name in ("audio.adapter", "imu.encoder", "video.adapter")),
    ],
)
def test_damaged_tensors_are_refused_by_file(copy, name, damage):
    damage(copy / f"{name}.safetensors")
    with pytest.raises(AnyMALError, match=rf"{name}\.safetensors' in 'copied-model'"):
        AnyMAL.from_pretrained(copy)


@pytest.mark.parametrize("damage", [gone, cut, noise, empty])
def test_a_damaged_config_is_refused_by_file(copy, damage):
    damage(copy / "anymal.json")
    with pytest.raises(AnyMALError, match=r"anymal\.json' in 'copied-model'"):
        AnyMAL.from_pretrained(copy)


@pytest.mark.parametrize("content", ["[]", "7", "null", "{}", '{"format": 2}', '{"format": 1}'])
def test_a_config_of_another_shape_is_refused_by_file(copy, content):
    (copy / "anymal.json").write_text(content)
    with pytest.raises(AnyMALError, match=r"anymal\.json' in 'copied-model'"):
        AnyMAL.from_pretrained(copy)


@pytest.mark.parametrize("key", ["profile", "modalities", "base_model"])
def test_a_config_without_a_part_is_refused_by_file(copy, key):
    change_config(copy, lambda config: config.pop(key))
    with pytest.raises(AnyMALError, match=r"anymal\.json' in 'copied-model'"):
        AnyMAL.from_pretrained(copy)


def test_a_profile_of_another_version_is_refused(copy):
    change_config(copy, lambda config: config["profile"].update(smell=1))
    with pytest.raises(AnyMALError, match="smell"):
        AnyMAL.from_pretrained(copy)


@pytest.mark.parametrize("place", ["no/such/folder", "nobody/nothing", "/no/such/place"])
def test_a_place_without_a_model_is_refused_by_name(place):
    with pytest.raises(AnyMALError, match=place):
        AnyMAL.from_pretrained(place)
