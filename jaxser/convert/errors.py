"""The error of every reader of foreign checkpoints."""


class ConvertError(ValueError):
  """A foreign checkpoint cannot be read; says which, why and what to do."""
