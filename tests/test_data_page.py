"""The page on one's own data: its card and rows load, its files are read, its limits are true."""

import json
import re
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import soundfile
import yaml

from anymal_lib.bank import build_bank
from anymal_lib.encoders.audio import MIN_SECONDS as MIN_AUDIO
from anymal_lib.encoders.imu import MIN_SECONDS as MIN_IMU
from anymal_lib.inputs import audio, audio_files, image_files, imu
from anymal_lib.manifest import load_manifest
from anymal_lib.modalities import MODALITIES
from anymal_lib.sources import moving_shapes

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text()
BUILT_IN = ("image", "imu", "audio", "video")


def block(name, language):
    return re.search(rf"<!-- {name} -->\n```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def write_picture(path):
    PIL.Image.new("RGB", (30, 20), "red").save(path)


def write_recording(path):
    samples = np.random.default_rng(0).normal(0, 0.1, (1000, 6))
    samples[:, 2] += 1  # gravity
    if path.suffix == ".npy":
        np.save(path, samples)
        return
    table = np.column_stack([np.arange(1000) / 100, samples])
    np.savetxt(path, table, delimiter=",", header="time_s,ax,ay,az,gx,gy,gz", comments="")


def write_sound(path):
    """Forty seconds; M4A with its own coder."""
    sound = (0.1 * np.random.default_rng(0).normal(size=40 * 16_000)).astype(np.float32)
    if path.suffix == ".wav":
        soundfile.write(path, sound, 16_000)
        return
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        frame.rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_film(path):
    frames = [PIL.Image.new("RGB", (96, 96), colour) for colour in ("red", "green", "blue")]
    if path.suffix == ".gif":
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    else:
        moving_shapes.write_clip(path, frames)


WRITERS = dict(
    zip(BUILT_IN, (write_picture, write_recording, write_sound, write_film), strict=True)
)


@pytest.mark.parametrize("modality", BUILT_IN)
def test_the_pages_rows_load_and_are_read(modality, tmp_path, tiny_encoders):
    card = yaml.safe_load(block("card", "yaml"))
    assert set(card) == {"name", "modality", "rows"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({**card, "modality": modality}))
    lines = block(modality, "json")
    (tmp_path / card["rows"]).write_text(lines)
    for line in lines.splitlines():
        path = tmp_path / json.loads(line)[modality]
        path.parent.mkdir(exist_ok=True)
        WRITERS[modality](path)
    manifest = load_manifest(tmp_path / "card.yaml")
    assert len(manifest.rows) == 2
    bank = build_bank(
        tiny_encoders[modality], manifest.rows, batch=2, max_bad_share=0.0, title=modality
    )
    assert len(bank) == 2 and bank.skipped == []


def test_the_pages_optional_fields_are_read(tmp_path):
    (tmp_path / "card.yaml").write_text(block("card", "yaml").replace("audio", "imu"))
    facts = json.loads(re.search(r'`(\{"animal".*?\})`', PAGE)[1])
    row = {"id": "a", "imu": "a.csv", "text": "a dog", "split": "train", "start": 1, "end": 3}
    row |= {"group": "anna", "facts": facts, "rate": 50, "gyro_unit": "deg/s"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (read,) = load_manifest(tmp_path / "card.yaml").rows
    named = re.findall(
        r"^\| `(\w+)`(?:, `(\w+)`)? \| ", PAGE.split("Optional in every row")[1], re.M
    )
    fields = {name for pair in named for name in pair if name}
    assert fields == {"split", "start", "end", "group", "facts", "rate", "gyro_unit"}
    assert {name: getattr(read, name) for name in fields} == {name: row[name] for name in fields}


def test_every_modality_and_its_notebook_are_on_the_page():
    rows = re.findall(r"^\| `(\w+)` \| (0\d_\w+) \|", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(BUILT_IN)
    assert set(BUILT_IN) <= set(MODALITIES)
    for name, notebook in rows:
        source = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text()
        assert "MANIFEST = None" in source and f'\\"{name}\\"' in source
    for notebook in re.findall(r"notebooks/(\w+)\.ipynb", PAGE):
        assert (ROOT / "notebooks" / f"{notebook}.ipynb").is_file()


def test_the_pages_limits_are_the_librarys():
    text = " ".join(PAGE.split())
    assert f"| {MIN_AUDIO:g} s or more |" in text and f"less than {MIN_AUDIO:g} s" in text
    assert f"| {MIN_IMU:g} s or more |" in text and f"less than {MIN_IMU:g} s" in text
    low, high = audio.RATES_HZ
    assert f"from {low / 1000:g} to {high / 1000:g} kHz" in text
    low, high = imu.RATES_HZ
    assert f"from {low:g} Hz to {high / 1000:g} kHz" in text
    assert f"up to {audio_files.MAX_CHANNELS} channels" in text
    assert audio_files.MAX_PEAK == 10 and "more than ten times" in text
    assert f"{image_files.MAX_PIXELS // 10**6} million pixels" in text
