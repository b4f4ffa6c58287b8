"""A record -> what the network is: layouts, residuals, trunk, and the role of every site."""
