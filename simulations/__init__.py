"""The researcher: phantom hospitals, data sets, in-process federations, studies and the `simulate` command."""
