"""report.html and the table at the end of a run."""

from jaxser.report.next_steps import next_steps
from jaxser.report.pages import format_table, write_report

__all__ = ['format_table', 'next_steps', 'write_report']
