"""Trackers: what TensorBoard and W&B are told, and that nothing changes when they are."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import wandb

from anymal_lib import stages, tracking
from anymal_lib.errors import ConfigError
from anymal_lib.manifest import load_manifest
from anymal_lib.runs import PARAMETERS, Run, start
from anymal_lib.stages import Sensed
from anymal_lib.tracking import Tracker, flat, tracked
from anymal_lib.train import StepReport

STEPS = 6
METRICS = {"exact_match": 0.5, "grounding": {"clean": {"value": 0.5, "low": 0.4, "high": 0.6}}}


@pytest.fixture(scope="module")
def sensed(bank_of, image_card, tiny_encoders):
    banks = (bank_of(image_card, split) for split in ("train", "test"))
    manifest = load_manifest(image_card)
    return Sensed(manifest, tiny_encoders["image"], *banks, losses=(), seconds=0.0, retrieval=None)


@pytest.fixture
def align(new_model, tiny_profile, sensed, tmp_path):
    """Function: the alignment and the end of a notebook; returns its folder."""

    def run(name="run", folders=(".",), finish=True, on_step=lambda report: None, **asked):
        profile = replace(tiny_profile, name="tiny")
        run = Run("02_align_image", profile, 0, tmp_path / name / "02_align_image", None, asked)
        run.output.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            model = new_model(32)
            spec = model.spec("image")
            spec = replace(spec, align=replace(spec.align, steps=STEPS))
            model.profile = model.profile.with_modality("image", spec)
            stages.align(run, "image", model, sensed, on_step, folder=folder)
        if finish:
            run.finish(METRICS, data={"squares": "1"}, n=8)
        return run.output

    return run


def events(folder):
    """What a TensorBoard reads in a folder: {tag: [(step, value)]}, and its texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    scalars = {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }
    texts = {
        tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in read.Tags()["tensors"]
    }
    return scalars, texts


def curve_of(output):
    return [json.loads(line) for line in (output / "curve.jsonl").read_text().splitlines()]


def test_tensorboard_reads_back_every_step_and_the_metrics(align):
    output = align(TRACK="tensorboard")
    scalars, texts = events(output.parent / "tracking" / "02_align_image")
    curve = curve_of(output)
    for tag, key in (("train/loss", "loss"), ("train/lr", "lr")):
        assert [step for step, _ in scalars[tag]] == list(range(1, STEPS + 1))
        assert [v for _, v in scalars[tag]] == pytest.approx([line[key] for line in curve])
    speeds = dict(scalars["train/samples_per_second"])
    for before, line in pairwise(curve):
        took = line["seconds"] - before["seconds"]
        assert speeds[line["step"]] == pytest.approx(8 / took)
    assert scalars["metrics/exact_match"] == [(STEPS, 0.5)]
    assert scalars["metrics/grounding/clean/value"] == [(STEPS, 0.5)]
    (settings,) = texts.values()
    assert '"seed": 0' in settings and f'"steps": {STEPS}' in settings


def test_tracking_changes_no_byte_of_what_is_trained(align):
    off, on = align("off"), align("on", TRACK="tensorboard")
    assert not (off.parent / "tracking").exists()
    files = sorted(path.name for path in (off / "adapter").iterdir())
    assert files == sorted(path.name for path in (on / "adapter").iterdir())
    for name in files:
        if name != "README.md":  # says how long the run took
            assert (off / "adapter" / name).read_bytes() == (on / "adapter" / name).read_bytes()
    timeless = [[{**line, "seconds": 0} for line in curve_of(output)] for output in (off, on)]
    assert timeless[0] == timeless[1]


def test_several_trainings_of_a_run_stand_apart_and_one_has_the_metrics(align):
    output = align(folders=(".", "nf4"), TRACK="tensorboard")
    main, other = (
        events(output.parent / "tracking" / name)[0]
        for name in ("02_align_image", "02_align_image-nf4")
    )
    assert len(main["train/loss"]) == len(other["train/loss"]) == STEPS
    assert "metrics/exact_match" in main and "metrics/exact_match" not in other


def test_a_new_run_replaces_the_curves_of_the_former(align):
    align(TRACK="tensorboard")
    output = align(TRACK="tensorboard")
    scalars, _ = events(output.parent / "tracking" / "02_align_image")
    assert len(scalars["train/loss"]) == STEPS
    assert len(list((output.parent / "tracking" / "02_align_image").iterdir())) == 1


class StoppedError(Exception):
    """The machine went down."""


def test_a_run_that_goes_on_adds_to_its_curves(align):
    def stop(report):
        if report.step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        align(TRACK="tensorboard", on_step=stop, finish=False)
    output = align(TRACK="tensorboard")
    scalars, _ = events(output.parent / "tracking" / "02_align_image")
    steps = [step for step, _ in scalars["train/loss"]]
    assert sorted(set(steps)) == list(range(1, STEPS + 1))


def test_off_is_no_work_at_all(tiny_profile, tmp_path):
    def on_step(report):
        pass

    run = Run("02_align_image", tiny_profile, 0, tmp_path, None, {})
    assert tracked(run, ".", tiny_profile, on_step) is on_step and run.trackers == []


@pytest.fixture
def offline(monkeypatch):
    """W&B without a network; it remembers the mode it was first started in."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


def test_wandb_is_told_every_value_by_step_offline(offline, tmp_path):
    tracker = Tracker("wandb", "a name", tmp_path, {"seed": 7, "settings": {"a": 1}}, main=True)
    for step in (1, 2, 3, 4):
        tracker(StepReport(step, 1 / step, 1e-3, 8 * step, 0.5 * step))
    told = tracker._tracker.tracker
    assert (told.name, told.project, told.offline) == ("a name", tracking.PROJECT, True)
    assert dict(told.config) == {"seed": 7, "settings": {"a": 1}}
    whole = {  # a step is whole once the next one has begun
        "train/loss": 1 / 3,
        "train/lr": 1e-3,
        "train/samples_per_second": 16,
        "_step": 3,
    }
    assert {name: told.summary[name] for name in whole} == pytest.approx(whole)
    tracker.finish(METRICS)
    wandb.teardown()  # only then is its file whole
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"metrics/grounding/clean/high" in log.read_bytes()


def test_wandb_keeps_several_trainings_of_a_run_apart(offline, align):
    output = align(folders=(".", "nf4"), TRACK="wandb")
    wandb.teardown()
    logs = sorted((output.parent / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2
    contents = [log.read_bytes() for log in logs]
    assert all(b"train/loss" in content for content in contents)
    assert sorted(b"metrics/exact_match" in content for content in contents) == [False, True]
    assert sum(b"02_align_image-nf4" in content for content in contents) == 1


def test_wandb_without_a_configuration_is_refused(monkeypatch, tmp_path):
    wandb.teardown()  # it remembers the mode it was first started in
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    tracker = Tracker("wandb", "name", tmp_path, {}, main=True)
    with pytest.raises(ConfigError, match=r"TRACK, wandb.*WANDB_MODE=offline"):
        tracker(StepReport(1, 0.5, 1e-3, 8, 0.1))
    wandb.teardown()


def test_a_tracker_that_is_not_installed_is_refused_when_the_notebook_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    given = {**dict.fromkeys(PARAMETERS), "OUTPUT_DIR": str(tmp_path), "TRACK": "tensorboard"}
    with pytest.raises(ConfigError, match=r"TRACK, tensorboard.*pip install tensorboard"):
        start("02_align_image", given)


def test_numbers_are_named_by_their_place():
    metrics = {"a": {"b": 1, "c": [1, 2], "d": None}, "e": 0.5, "f": True, "g": "text"}
    assert flat(metrics) == {"metrics/a/b": 1, "metrics/e": 0.5}
