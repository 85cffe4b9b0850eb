"""The command ``grepr`` by the name of a module, where the command itself is not installed.

In come the words after ``python -m grepr``. Out goes what the command does.
"""
