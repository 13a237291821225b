"""The ways an app is executed; `base.py` says what they have in common."""
