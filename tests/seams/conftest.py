"""The plug-ins are imported by the package, as a user's are, not by pytest."""

collect_ignore_glob = ["plugins/*", "plugin_*"]
