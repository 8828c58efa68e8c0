"""report.html and the table at the end of a run."""

from jaxser.report.pages import format_table, write_report

__all__ = ['format_table', 'write_report']
