"""MLflow as a view of the results: live by `follower`, at any time by `sync`.

The histories on disk are the truth. Jobs never talk to MLflow; everything here reads what they
wrote, so that nothing is lost when a tracking server is away.
"""
