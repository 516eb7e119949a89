"""Hashes of a dataset's images: a step of its own, so that an edit of the audit hashes nothing again."""
