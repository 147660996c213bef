"""What every stage script and the command line share: params, the last JSON line, errors as one line.

@command.command
@click.argument("variant")
def main(variant: str) -> None:
    settings = command.params()
    ...
    command.done({"variant": variant})
"""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from cartlm import params as _params
from cartlm.errors import FULL, UserError
from cartlm.files import TEMPORARY
from cartlm.system import processes

PARAMS = Path("params.yaml")
DEBUG = "CARTLM_DEBUG"
# torch and transformers make a million objects that live as long as the process. Python's defaults look through all of
# them again and again while they are imported, which takes a seventh of a stage's start.
_GARBAGE = gc.get_threshold()
gc.set_threshold(20_000, 50, 100)
# Libraries in C++ and Rust have the system's error only in words.
MEMORY_WORDS = re.compile(r"can't allocate memory|CUDA out of memory|Cannot allocate memory")
for _name in ("torchao", "torch.utils._pytree"):
    # transformers imports torchao where it is installed, which logs CUDA parts that no CPU can load
    logging.getLogger(_name).setLevel(logging.ERROR)
MADE_BY = {
    "params.yaml": "git checkout params.yaml",
    "base/model": "git checkout base/model",
    "data": "dvc repro data",
    "models/baseline": "dvc repro baseline",
    "models/base": "dvc repro base",
    "models/adapter": "dvc repro finetune",
    "models/merged": "dvc repro merge",
    "models/f16": "dvc repro convert-gguf",
    "models": "dvc repro",
    "metrics": "dvc repro",
}
"""Path -> the command that makes what is below it; a longer path comes first."""


def command(function: Callable[..., Any]) -> click.Command:
    """A click command of `function`: an error is one line on stderr and exit code 2, without a traceback.

    CARTLM_DEBUG=1 keeps the traceback of what is not a user's mistake.
    """
    return click.command(cls=Command, context_settings={"show_default": True})(function)


def params() -> _params.Params:
    """All of ./params.yaml, checked. Raises UserError."""
    require_checkout()
    return _params.load(PARAMS)


def require_checkout() -> None:
    """Raises UserError unless the working directory is the top of a checkout of ours, with or without its params.yaml."""
    if PARAMS.exists() or Path(".dvc").is_dir():
        return
    top = _params.find_root(Path())
    way = f"cd {shlex.quote(str(top))}" if top else "cd into a checkout of cartlm"
    raise UserError("there is no params.yaml of cartlm in this folder", way)


def imported() -> None:
    """Heavy imports are done: collect garbage as usual. For what trains, where garbage may hold tensors."""
    gc.set_threshold(*_GARBAGE)


def progress(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


def done(result: Mapping[str, Any]) -> None:
    """The stage's result as one JSON line, the last on stdout."""
    print(json.dumps(dict(result), ensure_ascii=False, allow_nan=False), flush=True)


def made_by(path: str) -> str:
    """The command that makes the file or folder at `path`; empty if no stage does."""
    name = Path(os.path.relpath(path))
    return next((maker for place, maker in MADE_BY.items() if name.is_relative_to(place)), "")


def explain(error: BaseException, of_stage: bool = False) -> UserError:
    """What a failure means to the user, of a stage or of another command; any other exception points at a fault of ours."""
    again = "dvc repro" if of_stage else "the same command"
    text = " ".join(str(error).split())[:400]
    file = getattr(error, "filename", None)
    hint = made_by(str(file)) if file else ""
    match error:
        case UserError():
            return error
        case click.Abort():
            return UserError("interrupted", "what was finished is kept: run the same command again")
        case click.ClickException():
            context = getattr(error, "ctx", None)
            way = f"{context.command_path} --help" if context else ""
            return UserError(error.format_message().rstrip("."), way)
        case _ if processes.FULL.search(text) or (isinstance(error, OSError) and error.errno in FULL):
            written = getattr(error, "filename2", None) or file  # a copy names its source first
            where = f" writing {TEMPORARY.sub('', str(written))}" if written else f": {text}"
            return UserError(f"no space left{where}", f"free some space, then {again}")
        case _ if isinstance(error, MemoryError) or MEMORY_WORDS.search(text):
            less = " or lower the batch size in params.yaml" if of_stage else ""
            return UserError("out of memory", f"close other programs{less}, then {again}")
        case ModuleNotFoundError():
            return UserError(f"the package {error.name} is not installed", "make setup")
        case FileNotFoundError() if file is not None:
            return UserError(
                f"{file} is missing", hint or ("" if re.search(r"[/.]", str(file)) else "make setup")
            )
        case PermissionError() if file is not None:
            return UserError(f"no permission for {file}", f"ls -ld {file}")
        case OSError():
            return UserError(text, hint)
        case json.JSONDecodeError():
            return UserError(f"not JSON: {text}: {error.doc[:60]!r}")
        case UnicodeDecodeError():
            return UserError(f"not UTF-8: {text}")
        case _ if type(error).__name__ == "SafetensorError":
            return UserError(f"broken weights: {text}", "delete that file's folder, then dvc repro")
    what = f"{Path(sys.argv[0]).stem}: unexpected {type(error).__name__}: {text[:200]}"
    return UserError(what, f"run again with {DEBUG}=1 for the traceback")


def fail(error: BaseException, of_stage: bool = False) -> None:
    """Print `error` as one line on stderr and exit with 2."""
    expected = isinstance(error, UserError | click.ClickException | click.Abort)
    if os.environ.get(DEBUG) == "1" and (error.__cause__ or not expected):
        traceback.print_exception(error)
    progress(f"cartlm: error: {explain(error, of_stage)}")
    sys.exit(2)


class Guard(click.Command):
    """A click command whose errors go through `fail`."""

    of_stage = False

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # else click prints an empty line first
            raise click.Abort from error

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False  # click itself would print errors on several lines
        if not standalone_mode:
            return super().main(*args, **kwargs)
        try:
            result = super().main(*args, **kwargs)
        except Exception as error:
            fail(error, self.of_stage)
        sys.exit(result if isinstance(result, int) else 0)


class Command(Guard):
    """A stage script's command; a second one of the same words in the same folder is refused.

    It runs in a child process, so that its death by a signal is reported, whoever started it.
    """

    of_stage = True

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # accelerate launch has processes of its own, and a test calls the command in its own process
        if getattr(self.callback, "__module__", "") == "__main__" and "LOCAL_RANK" not in os.environ:
            processes.supervise(" ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]))
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        # accelerate launch: the first process holds the lock for all
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return super().invoke(ctx)
        with alone(" ".join([Path(sys.argv[0]).stem, *map(str, ctx.params.values())])):
            return super().invoke(ctx)


@contextmanager
def alone(name: str, again: str = "dvc repro") -> Iterator[IO[str]]:
    """Hold the lock `name` of the working directory; raises UserError if another process holds it.

    `again`: the command to type then. A child that inherits the file yielded holds the lock too.

    `kill -9` of dvc leaves its stage running: a `dvc repro` beside it would write the same files.
    """
    folder = Path("runs/locks")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / re.sub(r"\W+", "-", name)).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            what = f"{name} is already running here, as process {file.read().strip() or 'unknown'}"
            raise UserError(what, f"wait for it, or kill it, then {again}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


class Group(Guard, click.Group):
    """The command line's group."""

    command_class = Guard
