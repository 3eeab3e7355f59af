"""Every touch of Flower's internals: what its documented modules (flwr.app, flwr.clientapp, ...) do not offer.

One module a touch, with a test of the same name. `tests/test_layers.py` keeps such imports out of all other rooms. When
the next version of Flower comes: install it, run `tests/privacy/flower/internals`, mend what fails here, move the pin.
"""
