"""The command line: `collegium COMMAND --help`; one file per group of commands."""
