"""The command ``ltx2``: one file per subcommand."""
