"""From the trials of a recipe to the settings that did best on the validation part."""
