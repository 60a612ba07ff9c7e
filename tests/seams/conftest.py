"""Plug-ins are loaded by the package, not by pytest."""

collect_ignore_glob = ["plugin_*.py"]
