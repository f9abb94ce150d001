"""The command line: a file per command group. Heavy imports happen inside the commands."""
