"""The folder in which Hugging Face's `transformers` keeps a model: what of it says the shape, and the weights.

Our parameters have that class's names and layouts (caml/models/transformer.py), so only `config.json` is translated.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from caml.config.errors import Invalid, UserError
from caml.models.sizes import NAME, Model

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
KIND = "qwen3"
HEAD = "lm_head.weight"
# Of each of our fields the name there, and what it is where a folder leaves it out (None: it must be there).
_FIELDS: dict[str, tuple[str, Any]] = {
    "width": ("hidden_size", None),
    "layers": ("num_hidden_layers", None),
    "heads": ("num_attention_heads", None),
    "kv_heads": ("num_key_value_heads", 32),
    "head_dim": ("head_dim", 128),
    "mlp_width": ("intermediate_size", None),
    "tied_embeddings": ("tie_word_embeddings", False),
    "norm_epsilon": ("rms_norm_eps", 1e-6),
    "init_scale": ("initializer_range", 0.02),
}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def config_of(model: Model, vocab: int, context: int, ends: list[int]) -> dict[str, Any]:
    """`config.json` of a model with `vocab` rows of embedding, trained on at most `context` tokens.

    `ends` are the ids of tokens with which text ends; the first also begins it, and pads.
    """
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": KIND,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        **{theirs: getattr(model, ours) for ours, (theirs, _) in _FIELDS.items()},
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "layer_types": ["full_attention"] * model.layers,
        "use_sliding_window": False,
        "sliding_window": None,
        "bos_token_id": ends[0],
        "eos_token_id": ends,
        "pad_token_id": ends[0],
        "torch_dtype": "float32",
        "dtype": "float32",
        "use_cache": True,
    }


def read_config(folder: Path, name: str) -> tuple[Model, int, int]:
    """The model in a folder, to be called `name`; the rows of its embedding; the longest context.

    Raises UserError where there is none, or one that is no dense Qwen3 as ours is.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no {CONFIG}: it is no folder of a model") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is no JSON") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != KIND:
        raise UserError(f"{path}: model_type is {kind!r}, and caml's models are {KIND!r} (dense)")
    _refuse_others(path, config)
    missing = [theirs for theirs, absent in _FIELDS.values() if absent is None and theirs not in config]
    missing += [key for key in ("vocab_size",) if key not in config]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    theta = _rope(config).get("rope_theta", config.get("rope_theta", 10000.0))
    context = config.get("max_position_embeddings", 32768)
    of_model = {ours: config.get(theirs, absent) for ours, (theirs, absent) in _FIELDS.items()}
    kinds = get_type_hints(Model)
    for key, value, kind in (
        *((theirs, of_model[ours], kinds[ours]) for ours, (theirs, _) in _FIELDS.items()),
        ("rope_theta", theta, float),
        ("vocab_size", config["vocab_size"], int),
        ("max_position_embeddings", context, int),
    ):
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"{path}: {key} is {value!r}, and not {_KINDS[kind]}")
    try:
        return Model(name=name, rope_theta=float(theta), **of_model), config["vocab_size"], context
    except Invalid as invalid:
        theirs = {"rope_theta": "rope_theta"} | {ours: key for ours, (key, _) in _FIELDS.items()}
        raise UserError(
            f"{path}: {theirs.get(invalid.fields[0], invalid.fields[0])}: {invalid.message}"
        ) from None


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What it says of rotary positions: newer folders have it together."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    return rope if isinstance(rope, dict) else {}


def _refuse_others(path: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for what `transformers` would compute otherwise than we do."""
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    refused = {
        f"rope_type {kind!r}": kind != "default",
        f"hidden_act {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")),
        "a sliding window": bool(config.get("use_sliding_window")),
        "quantised weights": "quantization_config" in config,
    }
    for what, is_so in refused.items():
        if is_so:
            raise UserError(f"{path}: {what}, which caml's models do not have")


def read_weights(folder: Path, model: Model, vocab: int) -> dict[str, np.ndarray]:
    """The parameters in a folder, in float32, whatever precision and however many files they are kept in.

    Raises UserError where some are missing, are of other shapes, or are more than the model has.
    """
    found: dict[str, np.ndarray] = {}
    for path in weight_files(folder):
        found |= _read(path)
    names = _require_shapes(folder, model, vocab, {name: array.shape for name, array in found.items()})
    return {name: found[name] for name in names}


def require_weights(folder: Path, model: Model, vocab: int) -> None:
    """Raise UserError where `read_weights` would, by what the files say of themselves; none is read whole."""
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        with _opened(path) as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    _require_shapes(folder, model, vocab, found)


def _require_shapes(
    folder: Path, model: Model, vocab: int, found: Mapping[str, tuple[int, ...]]
) -> Collection[str]:
    """The names of a model's parameters. Raises UserError where those `found` are others, or of other shapes."""
    from caml.models.transformer import shapes  # jax: who reads a config alone need not wait for it

    expected, known = shapes(model, vocab), set(found)
    if model.tied_embeddings:
        known.discard(HEAD)  # some keep the embedding under both names
    for what, names in (("lacks", expected.keys() - known), ("has", known - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            other = "" if what == "lacks" else f", which a model of its {CONFIG} does not have"
            raise UserError(f"{folder} {what} {min(names)}{more}{other}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(f"{folder}: {name} is {list(found[name])}, and {list(shape)} by its {CONFIG}")
    return expected.keys()


def weight_names(folder: Path, index: bool) -> list[str]:
    """The names of the files of weights, by the `index` in the folder where there is one."""
    if not index:
        return [WEIGHTS]
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(listed.values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{folder / INDEX} has no weight_map") from None


def weight_files(folder: Path) -> list[Path]:
    """The files of weights, all of which are there. Raises UserError for one that is not."""
    names = weight_names(folder, (folder / INDEX).exists())
    for name in names:
        if not (folder / name).exists():
            raise UserError(f"{folder} lacks {name}")
    return [folder / name for name in names]


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file in float32."""
    with _opened(path) as file:
        return {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file of weights. Raises UserError where it is none, or not all of it."""
    import ml_dtypes  # noqa: F401  (what numpy needs to know bfloat16; jax brings it)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="flax") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error})") from None


def named(text: str) -> str:
    """A name of a size, of the name of a model or its folder."""
    plain = "".join(x if (x.isalnum() and x.isascii()) or x in "_.-" else "-" for x in text).strip("_.-")[:40]
    return plain if NAME.fullmatch(plain) else "imported"


def on_host(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters as they are written: contiguous float32, sorted by name."""
    return {name: np.ascontiguousarray(np.asarray(params[name], np.float32)) for name in sorted(params)}
