"""The subcommands of `rnndrop`, a file each: flags, what is printed, exit codes. Nothing imports from here."""
