"""The coordinator: the Flower server app, its round loop and journal, and the `server` command."""
