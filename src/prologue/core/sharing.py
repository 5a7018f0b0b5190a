"""How work is divided over the processes of a launch, and its results put together again.

Rows of a batch are a slice of it, tasks are taken in turns, and positions are blocks of equal length, whose rows
`gather_blocks` puts together.
"""

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prologue.core.errors import PrologueError

if TYPE_CHECKING:  # torch takes seconds to load, and stages without tensors share out their tasks too
    from accelerate import Accelerator
    from torch import Tensor

Tasks = TypeVar("Tasks", list[Any], range, NDArray[np.int64])


def own_rows(batch: int, rank: int, processes: int) -> slice:
    """The contiguous slice of a global batch that process `rank` works on.

    Raises PrologueError where the batch cannot be divided evenly.
    """
    if batch % processes:
        raise PrologueError(f"a batch of {batch} cannot be divided over {processes} processes: change the batch size")
    return slice(rank * batch // processes, (rank + 1) * batch // processes)


def require_same(name: str, own: int, accelerator: "Accelerator") -> None:
    """Raise PrologueError in all processes where they do not have the same number, as of a checkpoint."""
    found = gather_number(own, accelerator)
    if len(set(found)) > 1:
        raise PrologueError(
            f"the processes differ in {name}: {', '.join(map(str, found))}. All must see the same .work, or "
            "PROLOGUE_WORK (docs/clusters.md), and read it without errors; run the same command to go on"
        )


def gather_number(own: int, accelerator: "Accelerator") -> list[int]:
    """A whole number of each process, in all processes."""
    if accelerator.num_processes == 1:
        return [own]
    import torch

    found: list[int] = accelerator.gather(torch.tensor([own], device=accelerator.device)).tolist()
    return found


def own_tasks(tasks: Tasks, rank: int, processes: int) -> Tasks:
    """The tasks of process `rank`: processes take turns."""
    return tasks[rank::processes]


def own_block(count: int, accelerator: "Accelerator") -> NDArray[np.int64]:
    """This process's positions of `count`: a block as long as every other's, the last position repeated to fill it."""
    block = math.ceil(count / accelerator.num_processes)
    first = accelerator.process_index * block
    return np.minimum(np.arange(first, first + block), count - 1)


def gather_blocks(rows: "Tensor", count: int, accelerator: "Accelerator") -> "Tensor":
    """Rows of all positions in order, on the CPU of every process; `rows` are those of this process's `own_block`."""
    if accelerator.num_processes > 1:
        rows = accelerator.gather(rows.to(accelerator.device).contiguous())
    return rows[:count].cpu()
