"""Figures, contact sheets, tables and HTML pages."""
