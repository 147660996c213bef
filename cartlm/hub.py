"""The Hugging Face hub: what is fetched from it, and its errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cartlm.errors import FULL, UserError

Kind = Literal["model", "dataset"]
EXAMPLES = {"model": "meta-llama/Llama-3.2-1B", "dataset": "jtlicardo/ecommerce-intent-3k"}


def download(kind: Kind, name: str, revision: str | None, patterns: Sequence[str], key: str) -> Path:
    """The files that match `patterns`, in the hub's own cache; the folder is named after the commit.

    `key` is the param that gave `name`, such as base.path. Raises UserError naming it.
    """
    from huggingface_hub import snapshot_download

    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        what = f"{key}={name} is neither a folder nor a hub id such as {EXAMPLES[kind]}"
        raise UserError(what, f"set {key} in params.yaml")
    with user_errors(kind, name, revision, key):
        folder = snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(patterns))
    return Path(folder)


@contextmanager
def user_errors(kind: Kind, name: str, revision: str | None, key: str) -> Iterator[None]:
    """What asking the hub for `name` raises, as UserError naming the param `key`; a full disk stays an OSError."""
    from huggingface_hub import errors

    what = f"{kind} {name}" + (f" at revision {revision}" if revision else "")
    try:
        yield
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise UserError(f"the {what} is gated", f"accept its licence on {page}, then hf auth login") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        hint = f"set {key} or its revision in params.yaml, or hf auth login"
        raise UserError(f"the hub has no {what} (or it is private)", hint) from None
    except Exception as error:  # each network library raises its own
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        hint = f"check the network and run it again, or set {key} to a local folder"
        raise UserError(f"the hub does not send the {what} ({type(error).__name__})", hint) from None
