"""All domain gaps side by side, and with the accuracy that runs reached."""
