"""docs/, README and the code -> the pages of the site, as one folder that mkdocs builds."""
