"""The domain gap of the UOT paper's Theorem 1, measured along the fine-tuning of a run."""
