"""report.html and the table at the end of a run."""

from jaxser.report.page import write_report
from jaxser.report.text import format_table

__all__ = ['format_table', 'write_report']
