"""The command line, and handing commands to a cluster.

In come the words that a person typed. Out go what a program tells, on standard output, and the exit code; or a job on a
Ray cluster that does the same there.
"""
