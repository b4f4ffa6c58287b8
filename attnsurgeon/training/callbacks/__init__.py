"""`freeze_backbone` and `unfreeze` at the epochs of other libraries' trainers.

One module for each library; each is imported by who needs it.
"""
