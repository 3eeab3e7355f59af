"""Keep the SuperLink and the executor alive."""
