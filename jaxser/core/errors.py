"""Errors that a user can mend; commands print them without a traceback."""

from data_prep.errors import UserError as UserError


class ConfigError(UserError):
  """A config has an impossible value; the message lists the possible ones."""


class ConvertError(UserError):
  """A foreign weight file cannot be read; says which file and what to do."""
