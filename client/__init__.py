"""The hospital: data reading, local training, the Flower client app and executor, and the `client` command."""
