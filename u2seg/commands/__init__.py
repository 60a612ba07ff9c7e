"""The commands of ``u2seg``, one module each: ``parser()`` and ``run(args) -> exit code``.

A module is imported when its command is called; it imports nothing heavy before ``run``.
"""
