"""The weights of timm's networks on the Hugging Face hub, as safetensors: nothing else is read, as it would be unpickled."""

import importlib
from typing import Any

_BIN, _SAFETENSORS = ".bin", ".safetensors"
_NAMES = {"pytorch_model.bin": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
"""Of files whose safetensors are not just called by another ending."""


def file_name(config: Any) -> str:
    """How the safetensors of a model are called on the hub; empty where it has none: timm would unpickle what an address gives it.

    Args:
        config: timm's ``PretrainedCfg``.
    """
    if not config.hf_hub_id:
        return ""
    name = config.hf_hub_filename or "pytorch_model.bin"
    if name.endswith(_SAFETENSORS):
        return name
    return _NAMES.get(name, f"{name.removesuffix(_BIN)}{_SAFETENSORS}" if name.endswith(_BIN) else "")


def fetch(config: Any) -> str:
    """The path of a model's safetensors, in the cache or out of the hub.

    The hub is asked once for weights that are not in the cache: without a network, it would be tried again for most of a minute.

    Args:
        config: timm's ``PretrainedCfg`` of a model that has a ``file_name``.

    Raises:
        FileNotFoundError: the hub has no such file.
        Exception: whatever the network, the hub or the disk raises.
    """
    hub = importlib.import_module("huggingface_hub")  # late: it takes a while, and nobody needs it for random weights
    repository, _, revision = config.hf_hub_id.partition("@")
    place = {"repo_id": repository, "filename": file_name(config), "revision": revision or None}
    cached = hub.try_to_load_from_cache(**place)
    if isinstance(cached, str):
        return cached
    hub.get_hf_file_metadata(hub.hf_hub_url(**{**place, "filename": "config.json"}))
    try:
        return hub.hf_hub_download(**place)
    except hub.utils.EntryNotFoundError as error:
        raise FileNotFoundError(f"{repository} has no {place['filename']}, and nothing else is read, as it would be unpickled") from error
