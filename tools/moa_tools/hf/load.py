"""A transformers model from a converted directory, or from a Hugging Face one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moa_rt import ArgumentError, DeviceError, FormatError, ModelConfig, _core

_DTYPES = ("float32", "bfloat16", "float16")


def _torch_dtype(name: str) -> Any:
    import torch

    if name not in _DTYPES:
        raise ArgumentError(f"dtype: got {name!r}, want one of {', '.join(_DTYPES)}")
    return getattr(torch, name)


def torch_device(name: str) -> Any:
    """The `torch.device` called `name`. Raises ArgumentError or, with no such GPU, DeviceError."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ArgumentError(f"device: got {name!r}, want cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"device: got {name!r}, want cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device: got {name!r}, but torch sees no CUDA device")
    return device


def random_model(fields: dict[str, Any], *, dtype: str, device: str) -> Any:
    """A frozen model with random weights, made on the device, from the fields of a config.json."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**fields)
    factory: Any = transformers.AutoModelForCausalLM
    with torch_device(device):
        torch.manual_seed(0)
        model = factory.from_config(config, dtype=_torch_dtype(dtype))
    return _frozen(model)


def _frozen(model: Any) -> Any:
    """In evaluation mode, and no weight has a gradient."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def load_model(
    model_dir: str | Path, *, dtype: str = "float32", device: str = "cpu"
) -> tuple[Any, ModelConfig]:
    """The model, in evaluation mode with all weights frozen, and the runtime's view of it.

    `model_dir` is what `moa-tools convert` made, or a Hugging Face directory. Raises what
    `ModelConfig.load` raises, FormatError for a weight that is missing or too many, ArgumentError
    for an unknown dtype and DeviceError without the device.
    """
    kind, place = _torch_dtype(dtype), torch_device(device)
    config = ModelConfig.load(str(model_dir))
    directory = Path(model_dir)
    if (directory / "manifest.json").exists():
        model = _from_converted(directory, config, kind)
    else:
        import transformers

        factory: Any = transformers.AutoModelForCausalLM
        model = factory.from_pretrained(directory, dtype=kind)
    return _frozen(model.to(place)), config


def _from_converted(directory: Path, config: ModelConfig, dtype: Any) -> Any:
    import torch
    import transformers

    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    hf_config = transformers.AutoConfig.for_model(**fields)
    factory: Any = transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(hf_config, dtype=dtype)
    state = _split_fused(directory, config, dtype)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    missing, extra = model.load_state_dict(state, strict=False, assign=True)
    if missing or extra:
        raise FormatError(f"{directory}: weights: missing {missing[:5]}, not known {extra[:5]}")
    # Its buffers are no weights: they are still on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(hf_config)
    return model


def _split_fused(directory: Path, config: ModelConfig, dtype: Any) -> dict[str, Any]:
    """The weights by Hugging Face's names: the runtime's fused matrices cut apart."""
    import torch

    inner = config.intermediate_size
    parts = {
        "qkv_proj": (
            [config.query_size, config.kv_size, config.kv_size],
            ["q_proj", "k_proj", "v_proj"],
        ),
        "gate_up_proj": ([inner, inner], ["gate_proj", "up_proj"]),
    }
    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    state: dict[str, Any] = {}
    for path in sorted(directory.glob("*.safetensors")):
        file = _core.SafetensorsFile(str(path))
        for info in file.tensors:
            raw = bytearray(file.read(info.name))
            tensor = torch.frombuffer(raw, dtype=kinds[info.dtype]).reshape(info.shape).to(dtype)
            fused = next((key for key in parts if key in info.name), None)
            if fused is None:
                state[info.name] = tensor
                continue
            sizes, names = parts[fused]
            for piece, part in zip(torch.split(tensor, sizes), names, strict=True):
                state[info.name.replace(fused, part)] = piece
    return state
