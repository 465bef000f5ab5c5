"""A notebook's parameters, where its results go, and the profiles behind them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from anymal_lib.config import PROFILES, load_profile
from anymal_lib.errors import AnyMALError, ConfigError
from anymal_lib.manifest import load_manifest
from anymal_lib.modalities import MODALITIES
from anymal_lib.runs import PARAMETERS, ROOT, from_root, plain, start, write_text
from anymal_lib.specs import from_plain, to_plain
from anymal_lib.stages import open_manifest

DECLARED = dict.fromkeys(PARAMETERS) | {"PROFILE": "mini", "SEED": 0}


@pytest.fixture
def begin(tmp_path):
    """Function: start a notebook that declares every parameter, with some of them set."""

    def run(notebook="03_align_imu", **given):
        # Results go into the test's folder; nothing else of a notebook's globals matters.
        return start(notebook, {**DECLARED, "OUTPUT_DIR": str(tmp_path), "np": np, **given})

    return run


def refused(begin, *says, **given):
    with pytest.raises(ConfigError) as error:
        begin(**given)
    for text in says:
        assert text in str(error.value)


def test_nothing_given_follows_the_profile(begin, tmp_path):
    run = begin()
    assert (run.profile, run.seed, run.manifest) == (load_profile("mini"), 0, None)
    assert run.output == tmp_path / "03_align_imu" and run.output.is_dir()
    assert set(run.asked) == {"OUTPUT_DIR"}
    for modality in MODALITIES:
        assert run.for_modality(modality) == load_profile("mini")


@pytest.mark.parametrize("nothing", [None, "None", "none", "null", "NULL"])
def test_every_spelling_of_nothing(begin, nothing):
    names = [name for name in PARAMETERS if name != "OUTPUT_DIR"]
    run = begin(**dict.fromkeys(names, nothing))
    assert run.profile == load_profile("mini") and run.seed == 0
    assert set(run.asked) == {"OUTPUT_DIR"}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("STEPS", "50", 50),
        ("STEPS", 50.0, 50),
        ("STEPS", 1e3, 1000),
        ("ENCODER_STEPS", "7", 7),
        ("BATCH", "8", 8),
        ("TOKENS", 16.0, 16),
        ("LAYERS", 6, 6),
        ("LIMIT", "24", 24),
        ("LEARNING_RATE", "1e-3", 1e-3),
        ("LEARNING_RATE", 0.5, 0.5),
        ("BITS", "4", 4),
        ("BITS", 16.0, 16),
        ("COMPARE_BITS", "false", False),
        ("COMPARE_BITS", "True", True),
        ("COMPARE_BITS", True, True),
        ("COMPARE_BANK", "false", False),
        ("FRAMES", "8", 8),
        ("FOLD", "3", 3),
        ("FOLD", 5.0, 5),
        ("FOLD", "all", "all"),
        ("TRACK", "tensorboard", "tensorboard"),
    ],
)
def test_values_are_cast(begin, name, value, read):
    asked = begin(**{name: value}).asked
    assert asked[name] == read and type(asked[name]) is type(read)


@pytest.mark.parametrize(
    ("value", "read"),
    [("6,1, 2", (1, 2, 6)), (4, (4,)), ([8, 2], (2, 8)), ("3,3", (3,))],
    ids=str,
)
@pytest.mark.parametrize("name", ["LAYERS", "TOKENS", "BATCH", "LLM_LAYERS"])
def test_the_ablations_read_several_values(begin, name, value, read):
    assert begin("08_ablations", **{name: value}).asked[name] == read
    if name != "LLM_LAYERS" and len(read) > 1:
        refused(begin, name, repr(value), notebook="03_align_imu", **{name: value})


@pytest.mark.parametrize(("value", "read"), [("7", 7), (3.0, 3), (0, 0), (2**40, 2**40)])
def test_seeds_are_cast(begin, value, read):
    seed = begin(SEED=value).seed
    assert seed == read and type(seed) is int


WRONG = {
    "PROFILE": ["maxi", "Mini", 7],
    "SEED": [-1, 0.5, "x", "1.5", [0], float("nan"), float("inf")],
    "COMPARE_BITS": [1, 0, "yes", [], "1"],
    "LEARNING_RATE": [0, 1, -1e-3, "fast", float("nan"), [1e-3], float("inf")],
    "BITS": [2, 12, "fp16", 4.5, 16.7, -4, [4], float("inf")],
    "FOLD": [0, 6, "one", 2.7, [1], float("inf")],
    "TRACK": ["mlflow", "TensorBoard", 1, True, ["wandb"]],
}
WRONG["LLM_LAYERS"] = [0, "", "1,,2", "4,-1", "1.5", "many", [3, 0], float("nan")]
WRONG["QUICK"] = WRONG["ACCURACY"] = WRONG["COMPARE_BANK"] = WRONG["COMPARE_BITS"]
for name in (
    "STEPS", "ENCODER_STEPS", "BATCH", "TOKENS", "LAYERS", "LIMIT", "ROUNDS", "FRAMES",
    "PROJECTION_STEPS", "RANK", "ITEMS", "SEEDS",
):  # fmt: skip
    WRONG[name] = [0, -3, 2.5, "many", "2.5", [5], float("nan"), float("inf")]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_wrong_values_are_refused_with_the_parameter(begin, name, value):
    says = ("profile",) if name == "PROFILE" else (name, repr(value))
    refused(begin, *says, **{name: value})


def test_every_parameter_has_wrong_values_above():
    texts = {"OUTPUT_DIR", "MANIFEST", "ADAPTER", "WRITER_URL", "WRITER_MODEL", "CURVE"}
    assert set(PARAMETERS) - set(WRONG) == texts, "any text is a path, or a name"


@pytest.mark.parametrize(
    ("name", "hint"), [("STEP", "STEPS"), ("STEPPS", "STEPS"), ("LERNING_RATE", "LEARNING_RATE")]
)
@pytest.mark.parametrize("value", [5, "x", 0.5, True, None, [1], {"a": 1}])
def test_unknown_upper_case_names_are_refused_with_a_hint(begin, name, hint, value):
    refused(begin, name, f"Did you mean {hint}?", **{name: value})


def test_a_name_like_no_other_is_refused_without_a_hint(begin):
    refused(begin, "QQQQ", "Remove it.", QQQQ=1)


def papermill(**injected):
    """What a notebook's history looks like after Papermill's own cell has run."""
    cell = "# Parameters\n" + "".join(f"{name} = {v!r}\n" for name, v in injected.items())
    own = "PROFILE = 'mini'\nSEED = 0\nSTEPS = None\n"
    return {"In": ["", own, cell, "from anymal_lib import runs"], "other": 3, **injected}


def test_injected_lower_case_names_are_refused_with_a_hint(begin):
    refused(begin, "steps", "Did you mean STEPS?", **papermill(steps=5))
    refused(begin, "Seed", "Did you mean SEED?", **papermill(Seed=5))
    refused(begin, "colour", **papermill(colour="red"))


def test_injected_known_names_and_the_notebooks_own_variables_pass(begin):
    run = begin(**papermill(STEPS=5, SEED=3))
    assert run.asked["STEPS"] == 5 and run.seed == 3


def test_a_parameter_that_this_notebook_does_not_declare_is_refused(begin):
    refused(begin, "notebook parameter FOLD", **papermill(FOLD=3))


def test_constants_that_are_no_literals_are_no_parameters(begin):
    class URL:
        """Imported classes and modules in capitals are not parameters."""

    assert begin(URL=URL, PIL=np).seed == 0


# Where results go --------------------------------------------------------------------------------


def test_output_is_relative_to_the_repository_whatever_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert from_root("outputs/x") == ROOT / "outputs" / "x"
    assert (ROOT / "anymal_lib" / "runs.py").is_file()
    assert from_root(tmp_path / "y") == tmp_path / "y"
    assert from_root("~/z") == Path("~/z").expanduser().resolve()
    relative = Path("outputs") / f"test-{tmp_path.name}"
    try:
        run = start("09_x", {**DECLARED, "OUTPUT_DIR": str(relative)})
        assert run.output == ROOT / relative / "09_x" and run.output.is_dir()
    finally:
        (ROOT / relative / "09_x").rmdir()
        (ROOT / relative).rmdir()
    assert list(tmp_path.iterdir()) == []


def test_the_default_output_is_the_profiles(monkeypatch, tmp_path):
    from anymal_lib import runs

    monkeypatch.setattr(runs, "ROOT", tmp_path)
    assert start("x", {"PROFILE": "mini", "OUTPUT_DIR": None}).output == tmp_path / "outputs/mini/x"
    assert start("x", {"PROFILE": "small"}).output == tmp_path / "outputs/small/x"


# What parameters change --------------------------------------------------------------------------


def test_parameters_override_the_right_fields(begin):
    mini = load_profile("mini")
    run = begin(STEPS=7, BATCH=4, LEARNING_RATE=2e-4, TOKENS=16, LAYERS=3, ENCODER_STEPS=9, BITS=4)
    got = run.for_modality("image")
    spec, was = got.modality("image"), mini.modality("image")
    expected = replace(
        was,
        align=replace(was.align, steps=7, batch=4, learning_rate=2e-4),
        adapter=replace(was.adapter, tokens=16, layers=3),
        encoder=replace(was.encoder, align=replace(was.encoder.align, steps=9)),
    )
    assert spec == expected
    assert got.bits == 4 and mini.bits != 4
    assert got.modality("imu") == mini.modality("imu"), "the other modality stays"
    assert replace(got, modalities=mini.modalities, bits=mini.bits) == mini
    assert load_profile("mini") is mini and mini.modality("image").align.steps != 7


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize("modality", MODALITIES)
def test_every_profile_takes_parameters(begin, name, modality):
    run = begin(PROFILE=name, STEPS=7, ENCODER_STEPS=9, TOKENS=5)
    spec = run.for_modality(modality).modality(modality)
    assert (run.profile.name, spec.align.steps, spec.adapter.tokens) == (name, 7, 5)
    assert spec.encoder.align is None or spec.encoder.align.steps == 9


def test_frames_are_of_clips_only(begin):
    mini, run = load_profile("mini"), begin(FRAMES=8)
    was, got = mini.modality("video"), run.for_modality("video").modality("video")
    assert got == replace(was, encoder=replace(was.encoder, frames=8)) != was
    assert run.for_modality("image") == mini


def test_a_modality_that_the_profile_lacks_is_refused(begin):
    with pytest.raises(ConfigError, match=r"smell.*image.*imu"):
        begin().for_modality("smell")


# MANIFEST and LIMIT ------------------------------------------------------------------------------


def test_a_manifest_of_another_modality_is_refused(begin, image_card, imu_card, card_of):
    run = begin(MANIFEST=str(image_card))
    with pytest.raises(ConfigError, match=r"MANIFEST card.yaml.*'imu'.*03_align_imu.*'image'"):
        open_manifest(run, "imu")
    assert open_manifest(run, "image") == load_manifest(image_card)
    assert open_manifest(begin(MANIFEST=str(imu_card)), "imu").card.name == "motions-40"
    for modality, card in card_of.items():
        assert open_manifest(begin(MANIFEST=str(card)), modality) == load_manifest(card)


def test_a_manifest_that_is_not_there_is_refused_by_name(begin):
    run = begin(MANIFEST="no/such/card.yaml")
    assert run.manifest == ROOT / "no/such/card.yaml"
    with pytest.raises(AnyMALError, match=r"no/such/card\.yaml"):
        open_manifest(run, "imu")


def test_limit_keeps_some_of_each_split_spread_out(begin, image_card):
    whole = open_manifest(begin(MANIFEST=str(image_card)), "image")
    few = open_manifest(begin(MANIFEST=str(image_card), LIMIT=4), "image")
    assert [row.id for row in few.split("train")] == [f"square-{k}" for k in (0, 4, 8, 12)]
    assert [row.id for row in few.split("test")] == [f"square-{k}" for k in (16, 18, 20, 22)]
    assert few.checksum != whole.checksum
    more = open_manifest(begin(MANIFEST=str(image_card), LIMIT=99), "image")
    assert more.rows == whole.rows


# metrics.json ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    value: float
    low: float


def test_metrics_have_the_contracts_keys(begin, tmp_path):
    run = begin(STEPS="5", SEED=3, BITS=4)
    metrics = {"exact_match": 0.5, "grounding": {"clean": Score(1 / 3, 0.0)}, "none": None}
    path = run.finish(metrics, data={"motions": "ab12"}, n=7)
    assert path == tmp_path / "03_align_imu" / "metrics.json"
    record = json.loads(path.read_text())
    contract = {"profile", "seed", "notebook", "versions", "git", "device", "data", "n",
                "seconds", "peak_memory_gb", "metrics"}  # fmt: skip
    assert contract <= set(record)
    assert (record["profile"], record["seed"], record["notebook"]) == ("mini", 3, "03_align_imu")
    assert record["data"] == {"motions": "ab12"} and record["n"] == 7
    assert record["parameters"] == {"STEPS": 5, "BITS": 4}, "no paths of this machine"
    assert record["metrics"] == {
        "exact_match": 0.5, "grounding": {"clean": {"value": 0.333333, "low": 0.0}}, "none": None,
    }  # fmt: skip
    assert record["seconds"] >= 0 and 0.05 < record["peak_memory_gb"] < 500
    assert {"python", "torch", "transformers", "bitsandbytes"} <= set(record["versions"])
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"], "nothing half-written"


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_failing_finish_keeps_the_former_metrics(begin):
    run = begin()
    path = run.finish({"a": 1}, data={}, n=1)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        run.finish({"a": object()}, data={}, n=1)
    assert path.read_bytes() == before


def test_plain_values():
    value = {1: Score(0.1234567, 1), "list": (Score(1.0, 2.0), [None, True, "x"]), "n": 3}
    assert plain(value) == {
        "1": {"value": 0.123457, "low": 1},
        "list": [{"value": 1.0, "low": 2.0}, [None, True, "x"]],
        "n": 3,
    }
    assert plain(np.float64(0.5)) == 0.5
    json.dumps(plain(value))


# Profiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_survive_json(name):
    profile = load_profile(name)
    assert profile.name == name
    assert from_plain(json.loads(json.dumps(to_plain(profile)))) == profile


@pytest.mark.parametrize("change", [{"type": "Nothing"}, {"smell": 1}, {"type": "AdapterSpec"}])
def test_a_foreign_profile_is_refused(change):
    with pytest.raises(ConfigError, match="saved profile"):
        from_plain({**to_plain(load_profile("mini")), **change})


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"mini.*paper-13b.*paper-70b.*paper-7b.*small.*'maxi'"):
        load_profile("maxi")


@pytest.mark.parametrize("name", ["paper-7b", "paper-13b", "paper-70b"])
def test_the_paper_s_models(name):
    profile = load_profile(name)
    image, imu = profile.modality("image"), profile.modality("imu")
    assert name[6:-1] in profile.llm.repo_id and "Llama-2" in profile.llm.repo_id
    assert profile.llm.repo_id.endswith("-chat-hf"), "instruction-tuned"
    assert (imu.encoder.rate, imu.encoder.window, imu.encoder.width) == (200, 5, 512)
    assert image.align.batch % image.align.micro_batch == 0
    assert (image.encoder.open_clip, image.encoder.image_size) == ("ViT-L-14-336", 336)
    assert profile.bits == 4, "70B on one 80 GB GPU"


def test_micro_batches_divide_every_batch():
    for profile in PROFILES.values():
        for spec in profile.modalities.values():
            assert spec.align.batch % (spec.align.micro_batch or 1) == 0
            assert spec.adapter.width % spec.adapter.heads == 0
