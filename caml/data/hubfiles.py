"""Single files of a repository on the Hugging Face Hub, and what to do where they cannot be had."""

import logging
import re
from pathlib import Path

from caml.config.errors import Failure, UserError

COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(repository: str, file: str, revision: str, instead: str) -> Path:
    """The file in the Hub's cache, downloaded where it is not there yet.

    `instead` says what serves without a network. Raises UserError where it cannot be had, Failure where the Hub cannot
    be reached, FileNotFoundError where the repository has no such file at `revision`.
    """
    from huggingface_hub import errors, hf_hub_download

    tells = logging.getLogger("huggingface_hub")  # of each time that it tries again
    before = tells.level
    tells.setLevel(logging.ERROR)
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except errors.GatedRepoError:
        raise UserError(
            f"{repository} is gated: accept its terms on its page at the Hub, then log in with `hf auth login`, or set "
            "HF_TOKEN"
        ) from None
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise Failure(f"{repository} cannot be reached: without a network, {instead}") from None
        raise FileNotFoundError(f"{repository} has no {file} at {revision[:12]}") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise UserError(
            f"{repository}: the Hub has no such repository or revision, or it is private (set HF_TOKEN)"
        ) from None
    except OSError as error:
        raise Failure(f"{repository} cannot be reached ({error}): without a network, {instead}") from None
    finally:
        tells.setLevel(before)
