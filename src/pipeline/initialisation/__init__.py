"""A stage before fine-tuning; one module a stage, loaded by its name.

Each has ``build(backbone, settings, class_names) -> Learner``, whose ``carried`` layers the next stage takes
over. A stage without a share of the budget changes the weights when it is built, and trains nothing.
"""
