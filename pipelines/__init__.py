"""Ray programs, one a command.

In come the options of a command. Out go the files that it writes, and a record of what was done for the command line to
tell; each folder is a room with a purpose of its own, see CONTRIBUTING.md.
"""
