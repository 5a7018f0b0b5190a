"""Going on from unfinished work of another origin: where `PROLOGUE_RESUME` says so, and never else."""

import os
import shutil
import sys
from pathlib import Path

from safetensors import safe_open

from prologue.core.errors import PrologueError
from prologue.core.files import read_json, remove, replacing, write_json
from prologue.core.work import is_claimed, read_origin, work_root
from prologue.training.checkpoint import (
    DAMAGE,
    FINISHED,
    NOTE,
    Checkpoints,
    TrainingState,
    checkpoint_path,
    module_tensors,
    report_damage,
    steps_of,
    verify,
)

VARIABLE = "PROLOGUE_RESUME"
TRAININGS = {"tokenizer", "attach", "ar", "probe"}  # stages that leave work behind
SHOWN = 8  # differences of two origins that are named


def adopt(checkpoints: Checkpoints, state: TrainingState, steps: int) -> None:
    """Begin a training of `steps` steps: adopt the work that `PROLOGUE_RESUME` names, else say what could be.

    The main process calls this before it resumes. What finished runs of the stage left goes, but for the named work.

    Raises:
        PrologueError: `PROLOGUE_RESUME` names no checkpoint, one that another launch works on, of a network of other
            sizes or of more steps, or this run has checkpoints of its own.
    """
    named = _named(checkpoints)
    if named is not None:
        _copy(checkpoints, named, state, steps)
    elif not steps_of(checkpoints.folder):
        _name_others(checkpoints)
    for marker in checkpoints.folder.parent.glob(f"*/{FINISHED}"):
        used = named is not None and marker.parent.samefile(named.parent)
        if marker.parent != checkpoints.folder and not used and not is_claimed(marker.parent):
            remove(marker.parent)


def _named(checkpoints: Checkpoints) -> Path | None:
    """The checkpoint that `PROLOGUE_RESUME` names by its folder or its work directory, if it is of other work."""
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    given = Path(value)
    work, steps = (given.parent, [given]) if (given / NOTE).is_file() else (given, _checkpoints(given))
    stage = work.resolve().parent.name
    if not steps or stage not in TRAININGS:
        raise PrologueError(f"{VARIABLE}={value}: there is no checkpoint; `ls -d {work_root()}/*/*/step_*` shows all")
    if stage != checkpoints.stage or work.samefile(checkpoints.folder):
        return None
    if is_claimed(work):
        raise PrologueError(f"{VARIABLE}={value}: a run works on it; wait for its end or stop it")
    return _newest_sound(steps)


def _checkpoints(work: Path) -> list[Path]:
    return [checkpoint_path(work, step) for step in steps_of(work)]


def _newest_sound(checkpoints: list[Path]) -> Path:
    for path in reversed(checkpoints):
        try:
            verify(path)
        except DAMAGE as error:
            report_damage(path, error)
            continue
        return path
    raise PrologueError(f"{VARIABLE}: no checkpoint in {checkpoints[0].parent} can be used")


def _copy(checkpoints: Checkpoints, source: Path, state: TrainingState, steps: int) -> None:
    """Copy a checkpoint of other work, with a record of what differs, unless this run went on from that work before."""
    note, work = read_json(source / NOTE), source.parent
    own = _checkpoints(checkpoints.folder)
    if own:
        if any(record["work"] == work.name for record in read_json(own[-1] / NOTE).get("adopted", [])):
            return
        raise PrologueError(
            f"{VARIABLE}={work}: this run has work of its own, {len(own)} checkpoints in {checkpoints.folder}; "
            f"unset {VARIABLE} to go on from that, or `rm -r {checkpoints.folder}` first"
        )
    if note["step"] > steps:
        raise PrologueError(f"{VARIABLE}={work}: it has done {note['step']} steps, this run has {steps}")
    _check_shapes(source, state)
    origin = read_origin(work)
    differences = checkpoints.origin.differences(origin) if origin else ["all: its origin cannot be read"]
    record = {"work": work.name, "step": note["step"], "differences": differences}
    with replacing(checkpoints.folder / source.name) as temporary:
        shutil.copytree(source, temporary)
        write_json(temporary / NOTE, note | {"adopted": [*note.get("adopted", []), record]})


def _check_shapes(source: Path, state: TrainingState) -> None:
    """Raise PrologueError unless a checkpoint is of the modules and optimizers of a state."""
    with safe_open(source / "modules.safetensors", "pt") as file:
        theirs = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 -- no mapping
    own = {name: list(tensor.shape) for name, tensor in module_tensors(state).items()}
    for name in sorted(own.keys() | theirs.keys()):
        here, there = own.get(name, "absent"), theirs.get(name, "absent")
        if here != there:
            raise PrologueError(f"{VARIABLE}={source.parent} does not fit: {name} is {there} there, {here} here")
    with safe_open(source / "optimizers.safetensors", "pt") as file:
        known = {
            f"{name}/{parameter}"
            for name, optimizer in state.optimizers.items()
            for group in optimizer.param_groups
            for parameter in group["param_names"]
        }
        strange = sorted({name.rpartition("/")[0] for name in file.keys()} ^ known)  # noqa: SIM118
    if strange:
        raise PrologueError(f"{VARIABLE}={source.parent} does not fit: one optimizer alone has {strange[0]}")


def _name_others(checkpoints: Checkpoints) -> None:
    """Say which unfinished work of other origins lies beside, and what differs."""
    for other in sorted(path for path in checkpoints.folder.parent.iterdir() if path.is_dir()):
        steps, origin = steps_of(other), read_origin(other)
        if other == checkpoints.folder or not steps or origin is None or (other / FINISHED).exists():
            continue
        if is_claimed(other):
            continue
        differences = checkpoints.origin.differences(origin)
        rest = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        print(
            f"\n{other} holds unfinished work of this stage, {steps[-1]} steps, that was made otherwise:\n  "
            + "\n  ".join(differences[:SHOWN])
            + rest
            + f"\nThis run starts anew. {VARIABLE}={other} goes on from it; `rm -r {other}` forgets it.",
            file=sys.stderr,
        )
