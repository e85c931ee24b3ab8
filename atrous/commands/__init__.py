"""The command line, a file per verb: its options, and the call of what does the work."""
