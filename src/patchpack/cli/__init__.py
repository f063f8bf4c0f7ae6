"""The command `patchpack`: one verb per file.

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
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from patchpack.cli.compare import Compare, run_compare
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
from patchpack.train.loop import Stopped, TrainingError

VERBS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
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
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        print(__doc__)
        sys.exit(0)
    if verb != "train" and verb not in VERBS:
        from patchpack.serialization import nearest

        _fail(f"there is no command {verb!r}{nearest(verb, ['train', *VERBS])}")
    try:
        if verb == "train":
            run_train(words[1:])
            return
        options, function = VERBS[verb]
        prog = f"patchpack {verb}"
        parsed = tyro.cli(
            options, args=words[1:], prog=prog, config=(tyro.conf.CascadeSubcommandArgs,)
        )
        sys.exit(function(parsed) or 0)
    except SystemExit as error:  # of the parser, which has printed why
        if error.code == 2:
            for old, new in renamed_options(words):
                print(f"patchpack: {old} is now {new}", file=sys.stderr)
        raise
    except Stopped as stop:
        print(f"patchpack: {stop}; continue with: patchpack train --resume {stop.folder}",
              file=sys.stderr)  # fmt: skip
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, TrainingError, BadDataset, ReadError, OSError, ImportError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"patchpack: {message}", file=sys.stderr)
    sys.exit(2)
