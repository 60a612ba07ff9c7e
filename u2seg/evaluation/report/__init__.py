"""Figures as tables, CSV and files for the report."""
