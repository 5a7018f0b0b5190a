"""`prologue play`: a playground for a trained model in the browser."""

import argparse

from prologue.cli.commands import Commands, add_command, add_model

PORT = 7860
EXAMPLES = """\
  prologue play                  the last run's model, or the small one that ships, at http://127.0.0.1:7860
  prologue play path/to/model --port 8000"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "play", "open a playground for a trained model in the browser", EXAMPLES)
    add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; other machines reach any but the default"
    )
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one (default: %(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Serve until Ctrl-C. Raises PrologueError for want of a model, of its watermark's key, or of a place to listen."""
    from prologue.generator.folders import load_generator  # these need torch, which takes seconds to load
    from prologue.play.answers import Answers
    from prologue.play.server import is_loopback, serve

    generator = load_generator(given.model)
    _ = generator.watermark  # where it is on and has no key, nothing could be drawn
    server = serve(Answers(generator), given.host, given.port)
    host = f"[{given.host}]" if ":" in given.host else given.host
    print(f"{generator.name} at http://{host}:{server.server_address[1]} (Ctrl-C ends)", flush=True)
    if not is_loopback(given.host):
        print("Anyone who reaches this machine can use it: there is no password.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
