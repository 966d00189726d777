"""A trained model as a folder that `transformers` opens, with all that says what it is."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import processors

from caml.config.errors import UserError
from caml.data.chat import END_OF_TEXT, END_OF_TURN, SPEAKERS, START_OF_TURN
from caml.data.tokenizer import UNKNOWN, Tokenizer
from caml.evals.checkpoint import Checkpoint
from caml.models import huggingface

# The chat templates (caml/data/chat.py) in the language of `transformers`. A conversation is a document: it begins with
# the token that begins one.
TEMPLATES = {
    "chatml": (
        END_OF_TEXT
        + "{% for message in messages %}"
        + START_OF_TURN
        + "{{ message['role'] + '\\n' + message['content'] }}"
        + END_OF_TURN
        + "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}"
        + START_OF_TURN
        + "{{ 'assistant\\n' }}{% endif %}"
    ),
    "plain": (
        END_OF_TEXT
        + "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        + SPEAKERS["assistant"]
        + "{{ ' ' + message['content'] }}"
        + END_OF_TEXT
        + "{% elif message['role'] == 'system' %}"
        + SPEAKERS["system"]
        + "{{ ' ' + message['content'] + '\\n' }}{% else %}"
        + SPEAKERS["user"]
        + "{{ ' ' + message['content'] + '\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + SPEAKERS["assistant"]
        + "{% endif %}"
    ),
}
CARD = "README.md"
# Bytes of a file of weights; of a model with more there are several.
SHARD = 5 * 10**9


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which takes its place at the end, and is gone where that was not reached.

    Raises UserError where `folder` is there and not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty: name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from None
    try:
        aside.chmod(0o755)
        yield aside
        if folder.is_dir():
            folder.rmdir()
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_folder(checkpoint: Checkpoint, folder: Path, card: str, extra: Mapping[str, Any]) -> None:
    """Write `folder`, which must not be there or be empty: it is there whole, or not at all.

    `card` is its README.md; each of `extra` is a file of JSON by its name. Raises UserError where something is there.
    """
    with whole(folder) as aside:
        special = checkpoint.tokenizer.special
        ends = [special[END_OF_TEXT], special[END_OF_TURN]]
        config = huggingface.config_of(checkpoint.model, checkpoint.vocabulary, checkpoint.context, ends)
        files = {
            huggingface.CONFIG: config,
            "generation_config.json": {
                "bos_token_id": ends[0],
                "eos_token_id": ends,
                "pad_token_id": ends[0],
                "do_sample": False,
            },
            "tokenizer_config.json": _tokenizer_config(checkpoint),
            **extra,
        }
        for name, content in files.items():
            (aside / name).write_text(
                json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        (aside / "chat_template.jinja").write_text(TEMPLATES[checkpoint.template], encoding="utf-8")
        (aside / "tokenizer.json").write_text(_tokenizer_json(checkpoint.tokenizer), encoding="utf-8")
        (aside / CARD).write_text(card, encoding="utf-8")
        _write_weights(huggingface.on_host(checkpoint.params), aside)


def _write_weights(params: Mapping[str, np.ndarray], folder: Path) -> None:
    """The parameters in a file, or in several with an index, none of them larger than SHARD where an array is not."""
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.numpy import save_file

    split = split_state_dict_into_shards_factory(
        dict(params),
        get_storage_size=lambda array: array.nbytes,
        filename_pattern=huggingface.WEIGHTS.replace(".", "{suffix}.", 1),
        max_shard_size=SHARD,
    )
    for name, held in split.filename_to_tensors.items():
        save_file({key: params[key] for key in held}, folder / name, {"format": "pt"})
        (folder / name).chmod(0o644)  # as the others, and not as the library writes it
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / huggingface.INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = checkpoint.tokenizer
    unknown = {"unk_token": UNKNOWN} if tokenizer.unknown is not None else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TURN if checkpoint.template == "chatml" else END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        **unknown,
        "clean_up_tokenization_spaces": False,
        "model_max_length": checkpoint.context,
        "chat_template": TEMPLATES[checkpoint.template],
    }


def _tokenizer_json(tokenizer: Tokenizer) -> str:
    """tokenizer.json in which every text begins as a document does; what it had after its tokens stays."""
    library = tokenizers.Tokenizer.from_str(tokenizer.json())
    begun = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A $B",
        special_tokens=[(END_OF_TEXT, tokenizer.special[END_OF_TEXT])],
    )
    own = library.post_processor
    library.post_processor = processors.Sequence([own, begun]) if own is not None else begun
    return library.to_str(pretty=True)


def require_repository(repository: str) -> None:
    """Raise UserError where `push` could not even begin: what is no name, or nobody who is logged in."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--push {repository}: {' '.join(str(error).split())[:200]}") from None
    if huggingface_hub.get_token() is None:
        raise UserError(
            f"--push {repository}: log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        )


def push(
    folder: Path, repository: str, token: str | None = None, endpoint: str | None = None, kind: str = "model"
) -> str:
    """Upload an exported folder to the Hub as `repository` (owner/name), and return the address of the commit.

    `kind` is 'model' or 'dataset'.

    `token` and `endpoint` are by default those that `huggingface_hub` finds. Raises UserError where the Hub cannot be
    reached or refuses.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repository, repo_type=kind, exist_ok=True)
        told = api.upload_folder(
            repo_id=repository, repo_type=kind, folder_path=folder, commit_message="caml export"
        )
    except HfHubHTTPError as error:
        raise UserError(
            f"the Hub refused {repository} ({' '.join(str(error).split())[:200]}): log in with `hf auth login`, or set "
            "HF_TOKEN to a token that may write there"
        ) from None
    except Exception as error:  # the library's own, or of the HTTP client that it uses, which changes
        raise UserError(
            f"{repository} could not be uploaded ({' '.join(str(error).split())[:200]}); {folder} is whole, and "
            "`hf upload` sends it later"
        ) from None
    return str(told.commit_url)


def headed(about: Mapping[str, Any], sections: Sequence[tuple[str, str]]) -> str:
    """A card: what `about` says to the Hub, and sections of a heading and text."""
    from huggingface_hub import CardData

    text = "\n\n".join(f"## {title}\n{body}" if title else body for title, body in sections)
    return f"---\n{CardData(**about).to_yaml()}\n---\n\n{text}\n"
