"""The dense engine against transformers: is the reference of all tables the model itself?"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from moa_rt import ArgumentError, MismatchError
from numpy.typing import NDArray

from moa_tools.evaluate.divergence import compare
from moa_tools.evaluate.engines import EngineFactory
from moa_tools.evaluate.plans import dense
from moa_tools.evaluate.runner import Run
from moa_tools.text import builtin_documents

_TEXTS, _TOKENS = 4, 512
# Nats per token. SmolLM2-135M gives 1.5e-4 in bfloat16; a wrong mask or weight gives far more.
_LARGEST_KL = 0.01


def _transformers_logits(model: Any, ids: list[int]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        batch = torch.tensor([ids], device=model.device)
        logits = model(batch, use_cache=False).logits[0].float().cpu().numpy()
    return np.asarray(logits, dtype=np.float32)


def check_reference(name: str, model_dir: Path, run: Run, factory: EngineFactory) -> str:
    """Compares logits over some held-out text and says by how much they differ.

    Raises ArgumentError for an unknown reference, MismatchError if the mean KL(transformers ||
    engine) exceeds 0.01 nats a token.
    """
    if name != "transformers":
        raise ArgumentError(f"--reference: got {name!r}, want transformers")
    from moa_tools.hf.load import load_model

    model, _ = load_model(
        model_dir, dtype="float32", device="cuda" if run.device.startswith("cuda") else "cpu"
    )
    documents = builtin_documents("prose", "heldout")[:_TEXTS]
    kl, agree, largest = [], [], 0.0
    with closing(factory(dense(run.config).plan, _TOKENS)) as engine:
        for document in documents:
            ids = engine.tokenizer.encode(document.text)[:_TOKENS]
            want, got = _transformers_logits(model, ids), engine.logits(ids)
            difference = compare(want, got)
            kl.append(float(difference.kl.mean()))
            agree.append(float(difference.agree.mean()))
            largest = max(largest, float(np.abs(want - got).max()))
    mean_kl = math.fsum(kl) / len(kl)
    text = (
        f"dense engine against transformers (float32), {len(kl)} texts of {_TOKENS} tokens: "
        f"KL {mean_kl:.2e} nats, same likeliest token {sum(agree) / len(agree):.4f}, "
        f"largest logit error {largest:.2e}"
    )
    if not mean_kl <= _LARGEST_KL:
        raise MismatchError(f"{text}; want a KL of at most {_LARGEST_KL}")
    return text
