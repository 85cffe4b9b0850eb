"""The command ``grepr`` by the name of a module, ``python -m grepr``, where the command itself is not installed."""
