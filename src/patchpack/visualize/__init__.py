"""Figures, plots, contact sheets, tables and HTML reports.

figures        figures of a run and of a pack: training curves, confusion matrix, packed images
plots          plots of evaluation suites: accuracy over cost, reliability, bars, intervals
contact_sheet  thumbnails in rows, for search results and evaluation samples
overlay        class colors and masks over images
html, section  reports as HTML, Markdown and JSON
tables         tables in the terminal
style          colors, axes and PNG encoding that figures and plots share

`figures`, `plots` and `style` need the extra `report` (matplotlib).
"""
