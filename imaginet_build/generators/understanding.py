"""What a diffusers pipeline makes of a call: settings that would change pixels unasked, words it cuts, negatives it ignores."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from imaginet_build.errors import UsageError, suggest
from imaginet_build.generators import stack

_UNASKED: Mapping[str, Any] = {
    # Drawn at the nearest size of a list, then scaled to the one ordered: a resampling trace in one class alone.
    "use_resolution_binning": False,
    # Only where other packages happen to be installed.
    "clean_caption": False,
}
"""Keywords whose defaults change an image behind its order's back, and what they are set to unless the card says otherwise."""


def settings(
    who: str, pipe: Any, accepts: Mapping[str, inspect.Parameter], steps: int | None, guidance: float | None, options: Any
) -> dict[str, Any]:
    """A card's keywords for every call. `UsageError` names each that the pipeline does not take, with a near match."""
    named = {"num_inference_steps": steps, "guidance_scale": guidance}
    wanted = {key: value for key, value in named.items() if value is not None} | dict(options)
    kind = type(pipe).__name__
    if unknown := sorted(set(wanted) - set(accepts)):
        near = [f"{key}{suggest(key, [*accepts])}".rstrip(".") for key in unknown]
        raise UsageError(f"{who}: a {kind} does not take {', '.join(near)}")
    return {key: value for key, value in _UNASKED.items() if key in accepts} | wanted


def negatives(accepts: Mapping[str, inspect.Parameter], settings: Mapping[str, Any], texts: Sequence[str]) -> list[str] | None:
    """The negative prompts to pass, or None for none.

    Where true guidance is asked for by number, an empty one is passed too: those pipelines guide by it, or not at all.
    """
    if "negative_prompt" not in accepts:
        return None
    if _true_guidance(accepts, settings):
        return [text or " " for text in texts]
    return list(texts) if any(texts) else None


def hears_negatives(pipe: Any, accepts: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]) -> bool:
    """Whether the call just made took a negative prompt into account: not without guidance (distilled models)."""
    if "negative_prompt" not in accepts:
        return False
    if "true_cfg_scale" in accepts:
        return _true_guidance(accepts, settings)
    return bool(getattr(pipe, "do_classifier_free_guidance", True))


def _true_guidance(accepts: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]) -> bool:
    if "true_cfg_scale" not in accepts:
        return False
    return float(settings.get("true_cfg_scale", accepts["true_cfg_scale"].default) or 0) > 1


def tokens_dropped(
    pipe: Any, accepts: Mapping[str, inspect.Parameter], settings: Mapping[str, Any], prompts: Sequence[str]
) -> list[int]:
    """How many tokens of each prompt the pipeline will not see, by the text encoder that cuts most.

    The vendors cut silently, at the tokenizer's length (77 for CLIP) or at the call's `max_sequence_length`.
    """
    dropped = [0] * len(prompts)
    by_call = accepts.get("max_sequence_length")
    longest = settings.get("max_sequence_length", by_call.default) if by_call else None
    for name, tokenizer in pipe.components.items():
        if "tokenizer" not in name or tokenizer is None:
            continue
        limit = tokenizer.model_max_length
        if "CLIP" not in type(tokenizer).__name__ and isinstance(longest, int):
            limit = min(limit, longest)
        for i, text in enumerate(prompts):
            dropped[i] = max(dropped[i], len(_ids(tokenizer, text)) - limit)
    return dropped


def _ids(tokenizer: Any, text: str) -> list[int]:
    with stack.quiet():  # that a text is too long is what is being asked
        ids: list[int] = tokenizer(text, truncation=False)["input_ids"]
    return ids
