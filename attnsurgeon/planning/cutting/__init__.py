"""A value of the record -> where a network can be cut at it, and by which technique.

    insertion   after a value, or where it enters an operation: the choice among the next two
    retyping    the innermost module whose forward passes the value on gets new forward code
    hooks       on the module whose output is the value, or on the only one that it goes into
    takeover    the module that is the operation hands its input to the attention

For insertions retyping is preferred: it is seen by every tool that reads the forward. Containers
are never retyped (code that walks over them would meet the new child), nor modules that rebuild
themselves (`fuse`, `reparameterize`, ...), nor anything inside those. A replacement takes over a
module that is nothing but the operation; what is a function, or one module for several operations
of which some stay, is replaced in the forward that calls it.
"""
