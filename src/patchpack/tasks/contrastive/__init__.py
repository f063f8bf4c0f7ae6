"""The task contrastive."""
