"""What a model is trained for: one file a task, each a Job that a run can carry out."""
