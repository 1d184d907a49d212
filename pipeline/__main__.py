"""Commands beside the stages: `python -m pipeline COMMAND`, `python -m pipeline COMMAND --help`."""

import importlib
import sys
import warnings

from pipeline.errors import UserError, run_main

COMMANDS = {
    "generate": "draws the in-between frames of given images",
    "app": "the same in a browser",
    "retime": "draws more frames a second into a film",
    "export": "writes the trained model as a folder that travels, with its card",
    "check": "tells what is missing before a run",
    "presets": "lists sets of parameters, or writes one into params.yaml",
}
WITH_NETWORKS = ("generate", "app", "retime", "export")  # whose imports take seconds: PyTorch


def main() -> None:
    run_main(_start)  # importing a command takes seconds, in which it may be stopped, too


def _start() -> None:
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, to their programmers
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        del sys.argv[1]
        if name in WITH_NETWORKS and sys.stderr.isatty() and not {"-h", "--help"} & {*sys.argv}:
            print("loading the model ...", file=sys.stderr, flush=True)
        try:
            command = importlib.import_module(f"pipeline.commands.{name}")
        except ModuleNotFoundError as error:
            sys.exit(
                f"error: the package {error.name} is not installed; activate the environment "
                "(`source .venv/bin/activate`), or run `pip install -r requirements.txt`"
            )
        command.main()
        return
    width = max(map(len, COMMANDS))
    lines = [f"  {command:{width}}  {text}" for command, text in COMMANDS.items()]
    usage = "\n".join(["usage: python -m pipeline COMMAND [options]", "", *lines])
    if name in ("-h", "--help"):
        print(usage)
    else:
        raise UserError(f"{name!r} is no command\n\n{usage}")


if __name__ == "__main__":
    main()
