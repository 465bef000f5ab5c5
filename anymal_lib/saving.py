"""Saved models: what was trained here, and which base model it belongs to.

A folder holds `anymal.json` and, for each modality, `<modality>.adapter.safetensors` and (where the
kit trained it) `<modality>.encoder.safetensors`; LoRA weights of the LLM are in `lora/`, in peft's
format. README.md is the model card. The LLM and pretrained encoders are not copied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anymal_lib.errors import AssetError
from anymal_lib.llm import Identity, load_llm
from anymal_lib.lora import has_lora, load_lora, save_lora
from anymal_lib.modalities import MODALITIES
from anymal_lib.model import AnyMAL
from anymal_lib.model_card import CONFIG, record_of, write_card
from anymal_lib.specs import Profile, from_plain, to_plain

LORA = "lora"
FORMAT = 1


def save(model: AnyMAL, folder: Path, *, place: str | None = None) -> Path:
    """Write the model's trained parts into `folder`; each file appears whole or not at all.

    `place` is where the model card says that they will be found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for modality, adapter in model.adapters.items():
        _write_tensors(folder / f"{modality}.adapter.safetensors", adapter.state_dict())
        trained = model.encoders[modality].trained_state()
        if trained:
            _write_tensors(folder / f"{modality}.encoder.safetensors", trained)
    if has_lora(model.llm):
        save_lora(model.llm, folder / LORA)
    config = {
        "format": FORMAT,
        "profile": to_plain(model.profile),
        "modalities": sorted(model.adapters),
        "base_model": asdict(model.llm.identity),
        "bits": model.llm.bits,
        "lora": has_lora(model.llm),
    }
    text = json.dumps(config, indent=1, sort_keys=True) + "\n"
    _write(folder / CONFIG, lambda path: path.write_text(text))
    write_card(folder, record=model.record, place=place)
    return folder


def load(
    place: str | Path,
    *,
    bits: int | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> AnyMAL:
    """Read a folder or hub repository that `save` wrote.

    `bits` is the LLM's precision, by default the profile's: an adapter that was trained on a
    quantized LLM runs on the full-precision one, as in the paper. `on_progress` is told how many
    parts are loaded, of how many. Raises `AssetError` when a file is missing or damaged, or when
    the base model is not the one the adapters were trained on.
    """
    folder = _folder(place)
    config = _read_config(folder)
    profile: Profile = from_plain(config["profile"])
    total = 1 + len(config["modalities"])
    on_progress(0, total)
    llm = load_llm(profile.llm, bits=bits or profile.bits)
    _check_base(folder, Identity(**config["base_model"]), llm.identity)
    if config.get("lora"):
        load_lora(llm, folder / LORA)
    model = AnyMAL(llm, profile)
    for done, modality in enumerate(config["modalities"], start=1):
        on_progress(done, total)
        _attach(model, folder, modality)
    model.record = record_of(folder)
    on_progress(total, total)
    return model


def attach(model: AnyMAL, folder: Path, modality: str) -> None:
    """Add a saved modality to a model with the same base; its spec joins the model's profile.

    Raises `AssetError` as `load`, and where the folder does not hold the modality.
    """
    config = _read_config(folder)
    _check_base(folder, Identity(**config["base_model"]), model.llm.identity)
    if modality not in config["modalities"]:
        raise _damaged(folder / CONFIG, f"only {config['modalities']}")
    spec = from_plain(config["profile"]).modality(modality)
    model.profile = model.profile.with_modality(modality, spec)
    _attach(model, folder, modality)


def _attach(model: AnyMAL, folder: Path, modality: str) -> None:
    encoder = MODALITIES[modality].build_encoder(model.profile.modality(modality).encoder)
    if encoder.trained_state():
        _fill(encoder.load_trained_state, folder / f"{modality}.encoder.safetensors")
    adapter = model.add(modality, encoder)
    _fill(adapter.load_state_dict, folder / f"{modality}.adapter.safetensors")
    adapter.eval()


def push(model: AnyMAL, repo_id: str, *, private: bool) -> str:
    """Upload the saved folder to the hub; returns the repository's address."""
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi

    api = HfApi()
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        saved = save(model, Path(folder) / "model", place=repo_id)
        api.upload_folder(repo_id=repo_id, folder_path=str(saved))
    return str(address)


def _folder(place: str | Path) -> Path:
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(place), allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise AssetError(
            f"saved model '{place}'",
            expected="a folder written by save_pretrained, or a repository id on the hub",
            got="neither",
            do="Check the path; notebooks write theirs to outputs/<profile>/<notebook>/adapter.",
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise _damaged(path, "another format")
    if missing := {"profile", "modalities", "base_model"} - config.keys():
        raise _damaged(path, f"no {sorted(missing)}")
    return config


def _check_base(folder: Path, wanted: Identity, got: Identity) -> None:
    # The same weights may lie elsewhere; without a checksum the name has to do.
    same = wanted.sha256 == got.sha256 if wanted.sha256 else wanted.source == got.source
    if not same:
        raise AssetError(
            f"base model of '{folder.name}'",
            expected=f"{wanted.source} with checksum {wanted.sha256[:12]}",
            got=f"{got.source} with checksum {got.sha256[:12]}",
            do="Load the adapters with the LLM they were trained on, or train them anew.",
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error


def _fill(put_back: Callable[[dict[str, Tensor]], Any], path: Path) -> None:
    try:
        put_back(_read_tensors(path))
    except RuntimeError as error:  # other names or shapes
        raise _damaged(path, str(error).splitlines()[0]) from error


def _damaged(path: Path, got: str) -> AssetError:
    return AssetError(
        f"'{path.name}' in '{path.parent.name}'",
        expected="a file written by save_pretrained",
        got=got,
        do="Save the model again or fetch the folder anew.",
    )


def _write_tensors(path: Path, state: dict[str, Tensor]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    _write(path, lambda partial: save_file(tensors, partial))


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    write(partial)
    os.replace(partial, path)
