"""report.html and the table at the end of a run."""

from jaxser.report.pages import format_table, write_report
from jaxser.report.text import next_steps

__all__ = ['format_table', 'next_steps', 'write_report']
