"""What every mechanism can be carried to, in a table: files, compilers, quantisers, processes."""
