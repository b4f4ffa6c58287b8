"""The parts of a saved folder.

- `origin`: the base network's tensors -> one sha256, taken when it is operated
- `plain`: Python values <-> JSON, tuples kept apart from lists
- `weights`: tensors <-> a safetensors file, shared and strided ones included
- `behaviour`: two networks -> do they compute the same?
- `base`: what is known of the base network <-> the base network, built again
- `trust`: a spec that a folder names -> may it be called?
- `card`: the record of a folder -> its README
- `schema`: a JSON value -> a record of surgery, or what is wrong with it
- `folder`: files -> a folder that is there whole or not at all
"""
