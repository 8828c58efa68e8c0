"""Tables of papers as programs: `python -m jaxser.tables configs/tables/X.py`.

A file of configs/tables says which runs a table needs and what the paper found
(`spec`); their states are looked up (`state`), what is missing is run
(`running`), and the table is computed from the results (`summary`) and written
as Markdown, HTML and JSON (`markdown`, `page`).
"""
