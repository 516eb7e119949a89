"""Class means that were made elsewhere become units, without images or a network."""
