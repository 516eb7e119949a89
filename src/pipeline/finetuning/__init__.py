"""Fine-tune a backbone on a target, alone or together with selected source images."""
