"""One module per verb of the `rlff` command, each with a `main(argv)` that returns a status."""
