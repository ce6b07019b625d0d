"""timm's weights on the Hugging Face hub, or in its cache: safetensors alone."""

import importlib
from typing import Any

_NAMES = {"pytorch_model.bin": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
"""Of files whose safetensors differ in more than the extension."""


def hub_file(config: Any) -> str:
    """The name of a model's safetensors on the hub; empty where it has none and timm would unpickle what it downloads."""
    if not config.hf_hub_id:
        return ""
    name = config.hf_hub_filename or "pytorch_model.bin"
    if name.endswith(".safetensors"):
        return name
    return _NAMES.get(name, name.removesuffix("bin") + "safetensors" if name.endswith(".bin") else "")


def fetch(config: Any) -> str:
    """The path of a model's safetensors, in the cache or from the hub. The hub is asked once: its own download would retry for most of a
    minute without a network.
    """
    hub = importlib.import_module("huggingface_hub")  # late because it takes a while, and random weights do not need it
    repository, _, revision = config.hf_hub_id.partition("@")
    file = {"repo_id": repository, "filename": hub_file(config), "revision": revision or None}
    cached = hub.try_to_load_from_cache(**file)
    if isinstance(cached, str):
        return cached
    hub.get_hf_file_metadata(hub.hf_hub_url(**{**file, "filename": "config.json"}))
    try:
        return hub.hf_hub_download(**file)
    except hub.utils.EntryNotFoundError as error:
        raise FileNotFoundError(f"{repository} has no {file['filename']}, and nothing else is read, as it would be unpickled") from error
