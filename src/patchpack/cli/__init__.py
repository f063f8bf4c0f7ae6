"""The command `patchpack`: one verb per file.

    patchpack convert SOURCE -o FOLDER       weights of transformers, timm, open_clip
    patchpack inspect DIR                    sizes, tokens and packs of a folder of images
    patchpack train DIR|RECIPE.py [--…]      train; --resume RUN continues a run
    patchpack eval RUN                       metrics at token budgets; evaluation suites
    patchpack compare RUN RUN…               several runs side by side
    patchpack predict RUN IMAGE…             labels, masks or boxes
    patchpack embed RUN IMAGE… -o FILE.npz   feature vectors of images, and of texts
    patchpack search RUN DIR "a red heart"   the images nearest to a text
    patchpack demo                           train two models on generated images, with a report

Every verb takes --help, and --json for output that programs read. A recipe (RECIPE.py) is code that
runs. Wrong input gives one line on stderr and exit status 2.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

import tyro

from patchpack.cli.compare import Compare, run_compare
from patchpack.cli.convert import Convert, run_convert
from patchpack.cli.demo import Demo, run_demo
from patchpack.cli.embed import Embed, run_embed
from patchpack.cli.eval import EvalOptions, run_eval
from patchpack.cli.inspect import Inspect, run_inspect
from patchpack.cli.predict import PredictOptions, run_predict
from patchpack.cli.search import Search, run_search
from patchpack.cli.train import run_train
from patchpack.data.read_errors import ReadError
from patchpack.data.records import BadDataset
from patchpack.old_names import renamed_options
from patchpack.printable import message_of, printable
from patchpack.train.loop import Stopped, TrainingError

VERBS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "convert": (Convert, run_convert),
    "inspect": (Inspect, run_inspect),
    "eval": (EvalOptions, run_eval),
    "compare": (Compare, run_compare),
    "predict": (PredictOptions, run_predict),
    "embed": (Embed, run_embed),
    "search": (Search, run_search),
    "demo": (Demo, run_demo),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may be any bytes at all
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        _run(words)


def _run(words: list[str]) -> None:
    """Run one verb; what users can mend ends in one line on stderr."""
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        print(__doc__)
        sys.exit(0)
    if verb != "train" and verb not in VERBS:
        from patchpack.serialization import nearest

        _fail(f"there is no command {verb!r}{nearest(verb, ['train', *VERBS])}")
    for name in (word.partition("=")[0] for word in words if word.startswith("-")):
        if printable(name) != name:  # the parser would print it as it is
            _fail(f"there is no option {name}")
    try:
        if verb == "train":
            run_train(words[1:])
            sys.stdout.flush()
            return
        options, function = VERBS[verb]
        prog = f"patchpack {verb}"
        parsed = tyro.cli(
            options, args=words[1:], prog=prog, config=(tyro.conf.CascadeSubcommandArgs,)
        )
        status = function(parsed) or 0
        sys.stdout.flush()  # a reader that has gone is noticed here, not at the exit
        sys.exit(status)
    except SystemExit as error:  # of the parser, which has printed why
        if error.code == 2:
            for old, new in renamed_options(words):
                print(f"patchpack: {printable(old)} is now {new}", file=sys.stderr)
        raise
    except Stopped as stop:
        _print_error(f"{stop}; continue with: patchpack train --resume {stop.folder}")
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads on, as after `| head -1`; a run has ended by then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0 if verb == "train" else 1)
    except (ValueError, TrainingError, BadDataset, ReadError, OSError, ImportError) as error:
        _fail(message_of(error))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as a line, without the source that it comes from."""
    _print_error(str(message))


def _fail(message: str) -> NoReturn:
    _print_error(message)
    sys.exit(2)


def _print_error(message: str) -> None:
    with suppress(BrokenPipeError):
        print(f"patchpack: {printable(message)}", file=sys.stderr, flush=True)
