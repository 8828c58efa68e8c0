"""The one base class of errors that a user can mend."""


class UserError(ValueError):
  """A mistake in input, flags or files; the message says what to do.

  Every command prints it without a traceback and exits with 2.
  """
