"""A page of tables, each made by the command above it."""

import os
import pathlib
from typing import Any

from jaxser.benchmark import tables
from jaxser.core import files

_TOP = """# What a TPU slice needs and sends

Every table here was written by the command above it, which needs no TPU: it
compiles the real program for the slice ahead of time (`pip install
'jaxser[tpu]'`) and reads the compiled program. A command run again replaces its
table.

All figures are per chip and per call of the program (per epoch for the program
of all folds), at weak scaling: each chip has the same work on every slice. Where
the loss changes in the course of a training, the phase that needs the most memory
is shown, and named below the table.

- *memory*: arguments, results and temporary arrays, all at once.
- *TFLOP*: products and convolutions of the traced program, rematerialised ones
  included.
- *GB accessed*, *compiler s*: the compiler's estimates of memory traffic and of
  time. They take the body of a loop (layers, micro-batches, folds) once and leave
  out the links between chips.
- *estimate s*: the larger of *compiler s* and of the products at the chip's
  published bfloat16 peak, plus the collectives' bytes, twice, over its published
  links. Nothing of it was measured on a TPU.
- *collectives*: how often they run, loops counted, and the size of their results
  on one chip. In pure data parallelism all are all-reduces: of the gradients, of
  BatchNorm's moments and their gradients, of losses over the whole batch. The
  second table says where in the network they come from; the compiler combines
  several and names one of them. Each by itself is in the file of `--json`.
"""


def update(
  path: os.PathLike[str] | str, report: dict[str, Any], command: str
) -> None:
  """Writes the section of a report into a page, in the place of an older one.

  Args:
    path: page, made if it is not there.
    report: of `topology.run`.
    command: that made it. The page is named by it as --markdown=PATH.
  """
  path = pathlib.Path(path)
  title = tables.topology_about(report)
  sections = {}
  if path.exists():
    _, *old = path.read_text(encoding='utf-8').split('\n## ')
    for section in old:
      name, _, body = section.partition('\n')
      sections[name] = body.strip('\n')
  sections[title] = tables.topology_markdown(report, command).strip('\n')
  text = _TOP + ''.join(
    f'\n## {name}\n\n{body}\n' for name, body in sections.items()
  )
  files.write_text(path, text)
