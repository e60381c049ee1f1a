"""The command line: one file for each verb, and what they share: the screen, the transcript, the exit codes."""
